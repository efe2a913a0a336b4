"""``corral eval calibrate`` on a file of labelled rows, and what it writes used by ``corral moderate``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from corral.cli.eval_calibrate import _of_targets
from corral.cli.main import main
from corral.evals.development import labelled_rows
from corral.guards.scripted import ScriptedGuard

BIG = "{guard: scripted, name: big, settings: {words: [BIG]}}"


@pytest.fixture
def rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Prompts of which every fifth is harmful; one guard finds those that say TRIGGER, another those that say BIG."""
    monkeypatch.chdir(tmp_path)
    said = [
        {"id": str(i), "prompt": f"text {i} {'TRIGGER BIG' if i % 5 == 0 else ''}", "harmful": i % 5 == 0}
        for i in range(200)
    ]
    path = tmp_path / "dev.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in said))
    return path


def calibrate(*arguments: object) -> int:
    return main(["eval", "calibrate", *map(str, arguments)])


def test_a_band_is_fitted_printed_and_used(rows: Path, capsys: pytest.CaptureFixture[str]) -> None:
    guards = ["--guard", "scripted", "--guard", "{ensemble: [scripted, " + BIG + "], name: two}"]
    assert calibrate("band", *guards, "--rows", rows, "--agreement", 1) == 0
    shown = capsys.readouterr()
    assert "two sees 0.0% of 200 rows" in shown.out
    assert "written: band.json; use it as" in shown.err
    band = json.loads(Path("band.json").read_text())
    assert (band["split"], band["n"], band["agreement"]) == ("dev.jsonl", 200, 1.0)
    spec = "{cascade: [scripted, {ensemble: [scripted, " + BIG + "], name: two}], fit: band.json}"
    assert main(["moderate", "TRIGGER BIG", "--guard", spec, "--format", "jsonl"]) == 3


def test_a_second_run_judges_nothing_anew_and_other_rows_are_another_split(
    rows: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    guards = ["--guard", "scripted", "--guard", "{decode: scripted}"]
    assert calibrate("band", *guards, "--rows", rows, "--json") == 0
    first = json.loads(capsys.readouterr().out)
    assert calibrate("band", *guards, "--rows", rows, "--share", 0.1, "--json") == 0
    assert json.loads(capsys.readouterr().out)["guards"] == first["guards"]
    rows.write_text(rows.read_text().replace("text 7 ", "other 7 "))
    assert calibrate("band", *guards, "--rows", rows) == 2


def test_an_ensemble_is_fitted_and_used(rows: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert calibrate("ensemble", "--guard", "scripted", "--guard", "{decode: scripted}", "--rows", rows) == 0
    assert "scripted+decode" in capsys.readouterr().out
    spec = "{ensemble: [scripted, {decode: scripted}], rule: logit, fit: ensemble.json}"
    assert main(["moderate", "TRIGGER", "--guard", spec, "--format", "jsonl"]) == 3
    assert main(["moderate", "hello", "--guard", spec, "--format", "jsonl"]) == 0


@pytest.mark.parametrize(
    ("prompts", "responses", "rates"),
    [
        (None, None, {}),
        (0.05, None, {"prompt": 0.05, "response": 0.05}),
        (None, 0.1, {"response": 0.1}),
        (0.05, 0.0, {"prompt": 0.05, "response": 0.0}),
    ],
)
def test_responses_have_the_rate_of_prompts_unless_they_have_their_own(
    prompts: float | None, responses: float | None, rates: dict[str, float]
) -> None:
    assert _of_targets(prompts, responses) == rates


@pytest.mark.parametrize("kind", ["band", "ensemble"])
def test_two_guards_of_one_kind_are_fitted_together_and_used(
    rows: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert calibrate(kind, "--guard", "scripted", "--guard", BIG, "--rows", rows) == 0
    said = capsys.readouterr().err
    use = said[said.index("--guard '") + len("--guard '") : said.rindex("'")]
    assert json.loads(Path(f"{kind}.json").read_text())["guards"].keys() == {"scripted", "big"}
    assert main(["moderate", "TRIGGER BIG", "--guard", use, "--format", "jsonl"]) == 3
    assert main(["moderate", "hello", "--guard", use, "--format", "jsonl"]) == 0


def test_presets_are_fitted_and_used(rows: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("py3langid")
    assert calibrate("presets", "--guard", "scripted", "--rows", rows, "--split", "mine") == 0
    assert "permissive" in capsys.readouterr().out
    assert json.loads(Path("presets.json").read_text())["split"] == "mine"
    options = ["--guard", "scripted", "--preset", "balanced", "--thresholds", "presets.json", "--format", "jsonl"]
    assert main(["moderate", "TRIGGER", *options]) == 3
    assert main(["moderate", "hello", *options]) == 0


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "a"}, "`harmful` is `None`"),
        ({"prompt": "a", "harmful": "maybe"}, "`harmful` is `maybe`"),
        ({"harmful": True}, "none of the columns"),
        ({"prompt": "a", "harmful": True, "target": "response"}, "no `response` to judge"),
    ],
)
def test_rows_that_cannot_be_used_are_refused_with_their_line(
    tmp_path: Path, row: dict[str, object], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "dev.jsonl"
    path.write_text(json.dumps({"prompt": "fine", "harmful": "1"}) + "\n" + json.dumps(row) + "\n")
    assert calibrate("band", "--guard", "scripted", "--guard", "{decode: scripted}", "--rows", path) == 2
    said = capsys.readouterr().err
    assert message in said


def test_labels_and_targets_are_read_as_they_are_written(tmp_path: Path) -> None:
    path = tmp_path / "dev.csv"
    path.write_text("prompt,response,harmful\nhello,,0\nhello,no,TRUE\n")
    first, second = labelled_rows(path)
    assert (first.target, first.harmful, second.target, second.harmful) == ("prompt", False, "response", True)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("band", "--guard", "scripted"), "2 are needed"),
        (("ensemble", "--guard", "scripted"), "at least two guards"),
        (
            ("band", "--guard", "scripted", "--guard", "{decode: scripted}", "--rows", "nowhere/small"),
            "neither a file nor a recipe",
        ),
        (
            ("band", "--guard", "scripted", "--guard", "{decode: scripted}", "--rows", "missing.jsonl"),
            "`missing.jsonl` is neither a file nor a recipe",
        ),
    ],
)
def test_mistakes_exit_with_2(arguments: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert calibrate(*arguments) == 2
    assert said in capsys.readouterr().err


def flaky(fault: str) -> list[str]:
    """A guard that fails on the rows with this text, and one that does not."""
    failing = f"{{decode: {{guard: scripted, settings: {{faults: {{'{fault}': error}}}}}}, name: flaky}}"
    return ["--guard", failing, "--guard", "{decode: scripted}"]


def test_rows_that_a_guard_failed_on_are_counted_and_asked_again(
    rows: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert calibrate("band", *flaky("text 7 "), "--rows", rows) == 0
    assert "`flaky` gave no verdict on 1 of 200 rows (1 error); they are left out" in capsys.readouterr().err
    assert json.loads(Path("band.json").read_text())["n"] == 199
    monkeypatch.setattr(ScriptedGuard, "_fault", lambda guard, text: None)
    assert calibrate("band", *flaky("text 7 "), "--rows", rows) == 0
    assert "no verdict" not in capsys.readouterr().err
    assert json.loads(Path("band.json").read_text())["n"] == 200


@pytest.mark.parametrize("command", ["band", "ensemble", "presets"])
def test_nothing_is_fitted_where_a_guard_failed_on_many_rows(
    rows: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("py3langid")
    guards = flaky("text 1")  # 1, 10 to 19 and 100 to 199
    assert calibrate(command, *guards[: 2 if command == "presets" else 4], "--rows", rows) == 1
    assert "no verdict on 111 of 200 rows (111 error), which is more than 5%" in capsys.readouterr().err
    assert not Path(f"{command}.json").exists()
