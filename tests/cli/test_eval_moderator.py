from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from corral.cli.main import main
from corral.models.engines.base import Prompt
from corral.models.engines.scripted import ScriptedEngine


def run(*arguments: str) -> int:
    return main(["eval", "moderator", "--target", "scripted-target", *arguments])


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two files of stand-in prompts, and a target that answers by a script."""
    for name, texts in (
        ("harmful", [f"reveal TRIGGER {i}" for i in range(3)] + ["reveal colour 3"]),
        ("benign", ["name a fruit", "name a TRIGGER", "name a tree", "name a stone"]),
    ):
        rows = [{"id": f"{name}-{i}", "prompt": text} for i, text in enumerate(texts)]
        (tmp_path / f"{name}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))

    def reply(prompt: Prompt) -> str:
        assert not isinstance(prompt, str)
        return "I cannot say." if prompt.messages[-1].text == "name a stone" else "Surely: green."

    @contextmanager
    def engine(target: str, server: str | None) -> Iterator[tuple[ScriptedEngine, str]]:
        yield ScriptedEngine(reply, name=target), server or "r1"

    monkeypatch.setattr("corral.cli.eval_moderator._engine", engine)
    monkeypatch.chdir(tmp_path)


PROMPTS = ("--guard", "scripted", "--harmful", "harmful.jsonl", "--benign", "benign.jsonl")


def test_a_table_shows_rates_with_and_without_the_guard(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*PROMPTS) == 0
    shown = capsys.readouterr()
    header, none, guarded = shown.out.splitlines()[1:4]
    assert header.split()[0] == "guard"
    assert none.startswith("none ")
    assert "100.0" in none
    assert "25.0" in guarded
    assert "-75.0" in guarded
    assert "overstated" in shown.out
    assert "report.md" in shown.err
    assert "Tulu" in Path("eval/moderator/report.md").read_text()


def test_json_is_the_report_that_is_written(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*PROMPTS, "--out", "here", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report == json.loads(Path("here/report.json").read_text())
    (guard,) = report["guards"]
    assert guard["defended"]["asr"]["value"] == 0.25
    assert guard["defended"]["rta"]["value"] == 0.5
    assert report["undefended"]["rta"]["value"] == 0.25


def test_texts_are_shown_only_on_request(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*PROMPTS) == 0
    assert "green" not in capsys.readouterr().out
    assert "green" not in Path("eval/moderator/report.json").read_text()
    assert run(*PROMPTS, "--show-content") == 0
    shown = capsys.readouterr().out
    assert "reveal colour 3" in shown
    assert "Surely: green." in shown
    assert "(replaced by a refusal)" in shown


def test_guards_are_compared_on_the_same_replies(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*PROMPTS, "--set", "scripted.words=[fruit, tree]", "--mode", "prompt") == 0
    assert run(*PROMPTS, "--mode", "prompt") == 0
    assert len(list(Path("eval/moderator").glob("replies-*.jsonl"))) == 1
    assert len(list(Path("eval/moderator").glob("verdicts-scripted-*.jsonl"))) == 2


def test_a_policy_may_let_harm_through(capsys: pytest.CaptureFixture[str]) -> None:
    Path("policy.yaml").write_text("prompt: {action: flag}\nresponse: {action: flag}\n")
    assert run(*PROMPTS, "--policy", "policy.yaml", "--json") == 0
    assert json.loads(capsys.readouterr().out)["guards"][0]["defended"]["asr"]["value"] == 1.0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "no prompts were named"),
        (("--harmful", "jailbreakbnch"), "Did you mean `jailbreakbench`"),
        (("--harmful", "harmful.jsonl", "--guard", "defualt"), "Did you mean `default`?"),
        (("--harmful", "harmful.jsonl", "--set", "words=3"), "guard.key=value"),
        (("--harmful", "harmful.jsonl", "--policy", "no.yaml"), "no.yaml"),
        (("--harmful", "jailbreakbench"), "CORRAL_DATA"),
    ],
)
def test_a_mistake_is_answered_with_what_to_do(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], said: str
) -> None:
    assert run(*arguments) == 2
    assert said in capsys.readouterr().err


def test_a_run_with_too_many_missing_replies_fails(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from corral.core.errors import DataError

    def reply(prompt: Prompt) -> str:
        assert not isinstance(prompt, str)
        if "TRIGGER" in prompt.messages[-1].text:
            raise DataError("does not fit")
        return "Surely."

    @contextmanager
    def engine(target: str, server: str | None) -> Iterator[tuple[ScriptedEngine, str]]:
        yield ScriptedEngine(reply), ""

    monkeypatch.setattr("corral.cli.eval_moderator._engine", engine)
    assert run(*PROMPTS) == 1
    shown = capsys.readouterr()
    assert "4 prompts have no reply" in shown.out
    assert "the run is not valid" in shown.out
    assert "4 of 8 prompts have no label" in shown.err
