from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from corral.cli.main import main
from corral.core.errors import EngineError
from corral.evals.scorecard import load_subject
from corral.evals.tasks.task import Subject
from corral.guards.base import Guard
from corral.models.engines.base import Prompt
from corral.models.engines.scripted import ScriptedEngine


def reply(prompt: Prompt) -> str:
    assert not isinstance(prompt, str)
    text = prompt.messages[-1].text
    return "I'm sorry, I cannot say." if "kill" in text else "Surely: green."


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that answers by a script; what is asked is packaged with Corral."""

    @contextmanager
    def subject(model: str, guards: Sequence[Guard], *, server: str | None) -> Iterator[Subject]:
        yield load_subject(ScriptedEngine(reply, name=model), guards, revision=model)

    monkeypatch.setattr("corral.evals.scorecard.open_subject", subject)
    monkeypatch.setenv("CORRAL_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def run(*arguments: str) -> int:
    return main(["eval", "scorecard", "scripted-model", "--tasks", "over_refusal", *arguments])


def test_a_table_shows_figures_with_and_without_the_guard(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--out", "card", "--guard", "scripted", "--limit", "20") == 0
    shown = capsys.readouterr()
    assert "Over-refusal" in shown.out
    assert "behind scripted" in shown.out
    assert "n = 20" in shown.out
    assert "over_refusal: 20 samples" in shown.err
    assert "scorecard.html" in shown.err
    assert {path.name for path in Path("card").iterdir()} == {
        "scorecard.json",
        "scorecard.md",
        "scorecard.html",
        "samples.jsonl",
    }


def test_json_is_the_scorecard_that_is_written(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--out", "card", "--limit", "5", "--json") == 0
    assert json.loads(capsys.readouterr().out) == json.loads(Path("card/scorecard.json").read_text())


def test_requests_and_replies_are_left_out_unless_asked_for() -> None:
    assert run("--out", "card", "--limit", "5") == 0
    assert "Surely" not in "".join(path.read_text() for path in Path("card").iterdir())
    assert run("--out", "card", "--limit", "5", "--show-content") == 0
    assert "Surely" in Path("card/scorecard.html").read_text()


def test_a_second_run_asks_the_model_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("--out", "card", "--limit", "5") == 0

    def refuse(*_: object) -> None:
        raise EngineError("was asked")

    monkeypatch.setattr(ScriptedEngine, "generate", refuse)
    assert run("--out", "again", "--limit", "5") == 0
    assert run("--out", "anew", "--limit", "5", "--no-resume") == 1


def test_a_task_without_data_is_listed_with_the_reason(capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["eval", "scorecard", "m", "--tasks", "attack_success,over_refusal", "--limit", "3", "--out", "card"])
    assert code == 0
    shown = capsys.readouterr()
    assert "attack_success: skipped" in shown.err
    assert "Not measured" in shown.out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--tasks", "nonsense", "--out", "card"], "no task of the scorecard is named `nonsense`"),
        (["--guard", "nobody", "--out", "card"], "no guard is named `nobody`"),
        ([], "--out"),
    ],
)
def test_mistakes_are_told_before_a_model_is_loaded(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["eval", "scorecard", "m", *arguments]) == 2
    assert said in capsys.readouterr().err


def test_tasks_lists_what_a_scorecard_measures(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "tasks", "--json"]) == 0
    listed = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert listed["over_refusal"]["measures"][0]["higher_is_better"] is False
    assert main(["eval", "tasks"]) == 0
    assert "guard_quality" in capsys.readouterr().out


def test_two_scorecards_are_compared(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--out", "alone", "--limit", "10") == 0
    assert main(["eval", "scorecard", "other", "--tasks", "over_refusal", "--limit", "10", "--out", "other"]) == 0
    capsys.readouterr()
    assert main(["compare", "alone", "other", "--out", "compared"]) == 0
    shown = capsys.readouterr()
    assert "no change shown" in shown.out
    assert "compare.html" in shown.err
    assert main(["compare", "alone", "other", "--out", "compared", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(Path("compared/compare.json").read_text())


def test_scorecards_on_other_data_are_refused_with_what_differs(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--out", "ten", "--limit", "10") == 0
    assert run("--out", "five", "--limit", "5") == 0
    capsys.readouterr()
    assert main(["compare", "ten", "five"]) == 2
    said = capsys.readouterr().err
    assert "`over_refusal`: data" in said
    assert not Path("eval/compare").exists()


def test_comparing_what_is_not_a_scorecard_says_how_to_make_one(capsys: pytest.CaptureFixture[str]) -> None:
    Path("empty").mkdir()
    assert main(["compare", "empty", "empty"]) == 2
    assert "corral eval scorecard MODEL --out empty" in capsys.readouterr().err
