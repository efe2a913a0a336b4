"""``corral moderate`` with compositions of guards: how they are named, what is printed, kept and refused."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from corral.cli.main import main
from corral.core.files import atomic_write_json
from corral.guards.composition.presets import RATES, PresetFit, Presets, Thresholds
from corral.guards.loading import load_guard

BIG = "{guard: scripted, name: big, settings: {words: [BIG]}}"
CASCADE = f"{{cascade: [scripted, {BIG}], band: [0.0, 0.5]}}"


@pytest.fixture(autouse=True)
def no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: False, raising=False)


def chats(path: Path, *texts: str) -> Path:
    path.write_text("".join(json.dumps({"id": str(i), "prompt": text}) + "\n" for i, text in enumerate(texts)))
    return path


def test_a_cascade_judges_and_its_rows_have_the_published_keys(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["moderate", "a BIG thing", "--guard", CASCADE]) == 3
    row = json.loads(capsys.readouterr().out)
    assert (row["action"], row["guard"], row["windows"]) == ("block", "cascade(scripted,big)", 2)
    assert list(row)[-1] == "latency_ms"


def test_explained_rows_say_who_decided_and_what_each_part_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["moderate", "a BIG thing", "--guard", CASCADE, "--explain"]) == 3
    (said,) = json.loads(capsys.readouterr().out)["explained"]
    assert said["decided_by"] == "big"
    assert [(part["guard"], part["p_harm"]) for part in said["parts"]] == [("scripted", 0.01), ("big", 0.99)]


def test_people_are_told_who_decided(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["moderate", "a BIG thing", "--guard", CASCADE, "--format", "table"]) == 3
    assert "decided by  big: scripted 0.01, big 0.99" in capsys.readouterr().out


def test_a_file_ends_with_what_the_cascade_asked_and_saved(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = chats(tmp_path / "chats.jsonl", "TRIGGER", "TRIGGER", "TRIGGER", "fine")
    assert main(["moderate", str(file), "--guard", CASCADE]) == 0
    said = capsys.readouterr().err
    assert "cascade(scripted,big) asked scripted about 4 of 4 (100.0%), big about 1 of 4 (25.0%)" in said
    assert "where big alone would take about" in said


def test_settings_reach_the_parts_and_another_setting_does_not_continue_the_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = chats(tmp_path / "chats.jsonl", "HUGE"), tmp_path / "out.jsonl"
    command = ["moderate", str(file), "--guard", CASCADE, "--out", str(out)]
    assert main([*command, "--set", "big.words=[HUGE]"]) == 0
    assert json.loads(out.read_text())["action"] == "block"
    assert main(command) == 2
    assert "guards" in capsys.readouterr().err


def test_decoding_says_which_form_raised_the_flag(capsys: pytest.CaptureFixture[str]) -> None:
    zero_width = "TRIG\u200bGER"
    assert main(["moderate", zero_width, "--guard", "{decode: scripted}", "--explain"]) == 3
    (said,) = json.loads(capsys.readouterr().out)["explained"]
    assert (said["guard"], said["decided_by"]) == ("scripted+decode", "invisible characters")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--guard", "{cascade: [scripted, default]}"), "either `band"),
        (("--guard", "{cascade: [scripted, scriptd], band: [0, 1]}"), "Did you mean `scripted`"),
        (("--guard", "{cascade: [scripted, scripted], band: [0, 1]}"), "two parts are named `scripted`"),
        (("--guard", "{cascade: [scripted"), "cannot be read as YAML"),
        (("--guard", CASCADE, "--set", "duoguard.window=3"), "sets a guard that is not asked"),
        (("--guard", "scripted", "--preset", "strict"), "corral eval calibrate presets --guard scripted"),
        (("--guard", "scripted", "--thresholds", "x.json"), "--thresholds is for --preset"),
        (("--guard", "scripted", "--preset", "strict", "--thresholds", "none.json"), "no such file"),
    ],
)
def test_mistakes_exit_with_2_and_say_what_to_do(
    arguments: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["moderate", "hello", *arguments]) == 2
    assert said in capsys.readouterr().err


@pytest.fixture
def thresholds(tmp_path: Path) -> Path:
    """Presets of the scripted guard under which its harmless score is flagged by `strict` alone."""
    guard = load_guard("scripted")
    fits = {
        preset: PresetFit(thresholds=Thresholds(common=common))
        for preset, common in (("strict", 0.005), ("balanced", 0.5), ("permissive", 0.9))
    }
    presets = Presets(
        guard="scripted", revision=guard.revision, identifier="i", split="dev", rates=RATES, targets={"prompt": fits}
    )
    atomic_write_json(tmp_path / "presets.json", presets.model_dump(mode="json"))
    return tmp_path / "presets.json"


@pytest.mark.parametrize(("preset", "code"), [("strict", 3), ("balanced", 0), ("permissive", 0)])
def test_a_preset_moves_the_operating_point(
    thresholds: Path, preset: str, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--guard", "scripted", "--preset", preset, "--thresholds", str(thresholds)]
    assert main(["moderate", "hello", *options]) == code
    row = json.loads(capsys.readouterr().out)
    assert row["guard"] == f"scripted+{preset}"
    assert (row["p_harm"] >= 0.5) == (code == 3)


def test_a_policy_names_the_file_of_its_thresholds(
    thresholds: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text(f"guards: [scripted]\npreset: strict\nthresholds: '{thresholds}'\n")
    assert main(["moderate", "hello", "--policy", str(policy)]) == 3
    assert json.loads(capsys.readouterr().out)["guard"] == "scripted+strict"
    assert main(["moderate", "hello", "--policy", str(policy), "--preset", "permissive"]) == 0


def test_guards_on_the_command_line_do_not_replace_those_that_a_policy_asks_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text(f"guards:\n  - {CASCADE}\n")
    command = ["moderate", "BIG", "--policy", str(policy)]
    assert main([*command, "--guard", CASCADE]) == 3
    other = CASCADE.replace("BIG", "SMALL")
    assert main([*command, "--guard", other]) == 2
    assert "asks for another guard than the `cascade(scripted,big)`" in capsys.readouterr().err
    assert main([*command, "--set", "big.words=[SMALL]"]) == 2


def test_a_policy_names_its_guards_and_preset(
    thresholds: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text(f"guards:\n  - {{adjust: scripted, preset: strict, thresholds: '{thresholds}'}}\n  - {CASCADE}\n")
    assert main(["moderate", "hello", "--policy", str(policy)]) == 3
    assert json.loads(capsys.readouterr().out)["guard"] == "scripted+strict+cascade(scripted,big)"
