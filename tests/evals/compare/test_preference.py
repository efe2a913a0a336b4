"""Whose answers a judge prefers: answers from the cache or of a model that is loaded once, in both orders."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest

from corral.cli.main import main
from corral.core.errors import EngineError, UserError
from corral.evals.compare import compare, preferences, write_comparison
from corral.evals.tasks.task import Subject
from corral.evals.tasks.win_rate.prompts import ComparisonPrompt
from corral.guards.base import Guard
from corral.models.engines.base import Prompt
from corral.models.engines.scripted import ScriptedEngine

Make = Callable[..., Path]
PROMPTS = tuple(ComparisonPrompt(str(i), f"Request {i}") for i in range(12))


def shown(prompt: Prompt) -> tuple[str, str]:
    """The two answers in the order in which a judge reads them."""
    assert not isinstance(prompt, str)
    text = prompt.messages[-1].text  # type: ignore[union-attr]
    first, second = (text.split(f"[Answer {x}]\n")[1].split(f"\n[End of answer {x}]")[0] for x in "AB")
    return first, second


def prefers_after(prompt: Prompt) -> str:
    first, second = shown(prompt)
    return "[[C]]" if first == second else "[[A]]" if "after" in first else "[[B]]"


def judge(reply: Callable[[Prompt], str], revision: str = "j1") -> AbstractContextManager[Subject]:
    return nullcontext(Subject(ScriptedEngine(reply, name="judge"), "judge", revision))


@pytest.fixture
def cards(make_card: Make, samples_of: Callable[..., Any]) -> list[Path]:
    return [make_card(name, samples_of([1.0, 0.0] * 5)) for name in ("before", "after")]


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Models that answer with their name; the list says which were loaded, in order."""
    loaded: list[str] = []

    @contextmanager
    def open_subject(model: str, guards: Sequence[Guard] = (), *, server: str | None = None) -> Iterator[Subject]:
        loaded.append(model)
        reply = prefers_after if model == "judge" else lambda prompt: f"{model}: {prompt.messages[-1].text}"
        yield Subject(ScriptedEngine(reply, name=model), model, f"r-{model}")
        loaded.append(f"{model} closed")

    for module in ("evals.compare.preference", "evals.scorecard"):
        monkeypatch.setattr(f"corral.{module}.open_subject", open_subject)
    return loaded


def test_the_model_whose_answers_are_better_wins(cards: list[Path], opened: list[str], tmp_path: Path) -> None:
    [found] = preferences(cards, judge(prefers_after), prompts=PROMPTS, cache=tmp_path / "cache")
    assert (found.letter, found.judge, found.requests) == ("B", "judge", 12)
    assert found.entry.figures["win_rate"].value == 1.0
    assert found.entry.figures["order_agreement"].value == 1.0
    assert found.entry.figures["win_rate"].ci95 is not None
    assert not any("coin" in caveat for caveat in found.caveats)


def test_what_was_answered_needs_no_model_again(cards: list[Path], opened: list[str], tmp_path: Path) -> None:
    first = preferences(cards, judge(prefers_after), prompts=PROMPTS, cache=tmp_path / "cache")
    assert opened == ["before", "before closed", "after", "after closed"]

    def silent(prompt: Prompt) -> str:
        raise EngineError("asked again")

    again = preferences(cards, judge(silent), prompts=PROMPTS, cache=tmp_path / "cache")
    assert opened == ["before", "before closed", "after", "after closed"]
    assert again == first


def test_a_judge_that_follows_the_order_is_called_no_better_than_a_coin(
    cards: list[Path], opened: list[str], tmp_path: Path
) -> None:
    [found] = preferences(cards, judge(lambda _: "[[A]]"), prompts=PROMPTS, cache=tmp_path / "cache")
    assert found.entry.figures["win_rate"].value == 0.5
    assert found.entry.figures["order_agreement"].value == 0.0
    assert "says nothing" in found.caveats[0]


def test_a_judge_that_decides_nothing_gives_no_win_rate(cards: list[Path], opened: list[str], tmp_path: Path) -> None:
    [found] = preferences(cards, judge(lambda _: "Both are fine."), prompts=PROMPTS, cache=tmp_path / "cache")
    assert found.entry.figures["win_rate"].value is None
    assert "decided none of 12 pairs" in found.caveats[0]


def test_answers_that_are_the_same_are_counted_and_not_judged(
    make_card: Make, samples_of: Callable[..., Any], opened: list[str], tmp_path: Path
) -> None:
    cards = [make_card(name, samples_of([1.0])) for name in ("before", "after")]
    path = cards[1] / "scorecard.json"
    path.write_text(path.read_text().replace("after", "before"))
    [found] = preferences(cards, judge(lambda _: pytest.fail("asked")), prompts=PROMPTS, cache=tmp_path / "cache")
    assert (found.entry.figures["win_rate"].value, found.entry.figures["identical"].value) == (0.5, 1.0)
    assert any("12 of 12 answers are those of A" in caveat for caveat in found.caveats)


def test_a_judge_that_is_one_of_the_models_is_named(cards: list[Path], opened: list[str], tmp_path: Path) -> None:
    own = judge(prefers_after, revision="r-after")
    [found] = preferences(cards, own, prompts=PROMPTS, cache=tmp_path / "cache")
    assert "the model of B" in found.caveats[0]


def test_where_the_judge_fails_nobody_wins_and_it_is_asked_again(
    cards: list[Path], opened: list[str], tmp_path: Path
) -> None:
    def stumbles(prompt: Prompt) -> str:
        if "Request 3" in prompt.messages[-1].text:  # type: ignore[union-attr]
            raise EngineError("no answer")
        return prefers_after(prompt)

    cache = tmp_path / "cache"
    [found] = preferences(cards, judge(stumbles), prompts=PROMPTS, cache=cache)
    figure = found.entry.figures["win_rate"]
    assert (figure.value, figure.n, figure.unscored) == (1.0, 11, 1)
    assert any("failed on 2 questions" in caveat for caveat in found.caveats)
    [mended] = preferences(cards, judge(prefers_after), prompts=PROMPTS, cache=cache)
    assert mended.entry.figures["win_rate"].n == 12

    def silent(prompt: Prompt) -> str:
        raise EngineError("no answer at all")

    with pytest.raises(EngineError, match="at all"):
        preferences(cards, judge(silent, revision="j2"), prompts=PROMPTS, cache=cache)


def test_another_model_under_the_name_is_refused(
    make_card: Make, samples_of: Callable[..., Any], opened: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = [make_card(name, samples_of([1.0])) for name in ("before", "after")]
    path = folders[1] / "scorecard.json"
    path.write_text(path.read_text().replace("r-after", "r-elsewhere"))
    with pytest.raises(UserError, match="not the model that was measured"):
        preferences(folders, judge(prefers_after), prompts=PROMPTS, cache=tmp_path / "cache")
    path.write_text(path.read_text().replace("r-elsewhere", ""))
    with pytest.raises(UserError, match="revision is not known"):
        preferences(folders, judge(prefers_after), prompts=PROMPTS, cache=tmp_path / "cache")


def test_every_report_shows_the_win_rate_and_how_far_the_judge_can_be_trusted(
    cards: list[Path], opened: list[str], tmp_path: Path
) -> None:
    judged = preferences(cards, judge(prefers_after), prompts=PROMPTS, cache=tmp_path / "cache")
    write_comparison(compare(cards).model_copy(update={"preferences": judged}), tmp_path / "out")
    for name in ("compare.md", "compare.html"):
        text = (tmp_path / "out" / name).read_text()
        assert "Whose answers a judge prefers" in text
        assert "same winner in both orders" in text
        assert "100.0 %" in text
    assert json.loads((tmp_path / "out" / "compare.json").read_text())["preferences"][0]["letter"] == "B"


def test_the_command_judges_by_requests_of_ones_own(
    cards: list[Path], opened: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    requests = tmp_path / "own.jsonl"
    requests.write_text('{"prompt": "Name a colour."}\n{"prompt": "Name a bird."}\n')
    arguments = ["compare", *map(str, cards), "--out", str(tmp_path / "out"), "--cache", str(tmp_path / "cache")]
    assert main([*arguments, "--judge", "judge", "--requests", str(requests)]) == 0
    assert "B against A" in capsys.readouterr().out
    assert opened == [f"{name}{state}" for name in ("before", "after", "judge") for state in ("", " closed")]


@pytest.mark.parametrize(
    ("options", "named", "meant"),
    [
        (["--requests", "own.jsonl"], "--requests", "`--judge`"),
        (["--judge-by", "words"], "--judge-by", "`--judge`"),
        (["--judge-server", "http://127.0.0.1:1"], "--judge-server", "`--judge`"),
        (["--set", "default.window=64"], "--set", "`--rejudge`"),
        (["--cache", "here"], "--cache", "`--rejudge` or `--judge`"),
        (["--rejudge", "--set", "default.window=64"], "--set", "would be ignored"),
    ],
)
def test_options_that_would_do_nothing_are_refused(
    cards: list[Path], tmp_path: Path, options: list[str], named: str, meant: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", *map(str, cards), "--out", str(tmp_path / "out"), *options]) == 2
    said = capsys.readouterr().err
    assert named in said
    assert meant in said
    assert not (tmp_path / "out").exists()
