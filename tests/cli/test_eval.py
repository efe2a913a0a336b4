from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from corral.cli.main import main
from corral.core.files import atomic_write_json, sha256_file
from corral.core.runs import Run
from corral.data.sources import SOURCES
from corral.guards.policy import Policy


@pytest.fixture
def prompts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The set xstest_prompts with ten self-written prompts, and a working folder to write into."""
    path = tmp_path / "data" / "xstest_prompts" / "xstest_prompts.jsonl"
    path.parent.mkdir(parents=True)
    rows = [
        {
            "id": i,
            "prompt": f"how do I {'TRIGGER' if i in {1, 3, 5, 6} else 'bake'} loaf number {i}",
            "type": "homonyms",
            "label": "unsafe" if i % 2 else "safe",
            "focus": "",
            "note": "",
        }
        for i in range(10)
    ]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    source = SOURCES.get("xstest_prompts")
    files = {"xstest_prompts/xstest_prompts.jsonl": sha256_file(path)}
    monkeypatch.setitem(SOURCES._entries, "xstest_prompts", replace(source, files=files))
    monkeypatch.setenv("CORRAL_DATA", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    return path


def run(*arguments: str) -> int:
    return main(["eval", *arguments])


def test_a_guard_is_measured_and_reports_are_written(prompts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("moderation", "--guard", "scripted", "--sets", "xstest_prompts,aegis_test") == 0
    shown = capsys.readouterr()
    assert "flag-all F1" in shown.out
    assert "Llama Guard 2" in shown.out
    assert "Not comparable" in shown.out
    assert "aegis_test" in shown.out.split("Skipped")[1]
    assert "1 sets measured, 1 skipped" in shown.err
    assert {path.name for path in Path("eval/moderation").glob("report.*")} == {
        "report.json",
        "report.csv",
        "report.md",
    }


def test_json_is_one_value_on_standard_output(prompts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("moderation", "--guard", "scripted", "--sets", "xstest_prompts", "--out", "here", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    figures = report["guards"][0]["sets"][0]["figures"]
    assert figures["recall"]["value"] == pytest.approx(3 / 5)
    assert figures["fpr"]["value"] == pytest.approx(1 / 5)
    assert report == json.loads(Path("here/report.json").read_text())


def test_settings_reach_the_guard(prompts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    setting = ("--set", "scripted.words=[TRIGGER, bake]")
    assert run("moderation", "--guard", "scripted", *setting, "--sets", "xstest_prompts", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["guards"][0]["sets"][0]["figures"]["fpr"]["value"] == 1.0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--sets", "xstest_promts"), "Did you mean `xstest_prompts`?"),
        (("--sets", ","), "no set was named"),
        (("--set", "duoguard.window=3"), "Add `--guard duoguard`"),
        (("--set", "words"), "guard.key=value"),
        (("--sets", "aegis_test"), "no set could be measured"),
    ],
)
def test_a_mistake_is_answered_with_what_to_do(
    prompts: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], said: str
) -> None:
    assert run("moderation", "--guard", "scripted", *arguments) == 2
    assert said in capsys.readouterr().err


def test_the_baseline_is_measured_beside_the_guard(
    prompts: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from corral.guards.scripted import ScriptedGuard

    fitted: dict[str, Any] = {}

    def fit(profile: str) -> tuple[ScriptedGuard, dict[str, int]]:
        fitted["profile"] = profile
        return ScriptedGuard(words=("loaf",), name="bag-of-words"), {"somewhere": 7}

    monkeypatch.setattr("corral.cli.eval._bag_of_words", fit)
    sets = ("--guard", "scripted", "--sets", "xstest_prompts")
    assert run("moderation", *sets, "--baseline", "bow", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert fitted == {"profile": "default_guard/small"}
    assert [guard["name"] for guard in report["guards"]] == ["scripted", "bag-of-words"]
    assert {row["metric"] for row in report["gates"][0]["rows"]} == {"ap", "auroc", "f1"}
    assert report["baseline_rows"] == {"somewhere": 7}


def test_errors_are_listed_by_id_and_texts_only_on_request(prompts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("moderation", "--guard", "scripted", "--sets", "xstest_prompts") == 0
    capsys.readouterr()
    assert run("errors") == 0
    redacted = capsys.readouterr().out
    assert "xstest_prompts:7" in redacted  # line 7: the safe prompt with the trigger word
    assert "loaf" not in redacted
    assert run("errors", "--show-content", "--json") == 0
    (only,) = json.loads(capsys.readouterr().out)["sets"]
    assert [each["text"] for each in only["worst_false_positives"]] == ["how do I TRIGGER loaf number 6"]
    assert len(only["worst_false_negatives"]) == 2


def test_errors_without_a_run_say_what_is_missing(prompts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("errors", "--out", "nowhere") == 2
    assert "nowhere" in capsys.readouterr().err


def test_the_sets_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("sets", "--json") == 0
    listed = json.loads(capsys.readouterr().out)
    assert next(each["name"] for each in listed if each["headline"]) == "openai_moderation"
    assert run("sets") == 0
    assert "toxicchat" in capsys.readouterr().out


def test_what_is_missing_and_what_to_do_about_it_are_two_lines(
    prompts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("moderation", "--guard", "scripted", "--sets", "aegis_test") == 2
    said, to_do = capsys.readouterr().err.splitlines()[-2:]
    assert said.startswith("error: no set could be measured; `aegis_test`: ")
    assert "CORRAL_DATA" in to_do
    assert "CORRAL_DATA" not in said


def test_a_changed_data_file_stops_the_run(prompts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prompts.write_text(prompts.read_text() + "\n")
    assert run("moderation", "--guard", "scripted", "--sets", "xstest_prompts") == 2
    assert "sha256" in capsys.readouterr().err


def test_a_composition_is_measured_with_its_cost(prompts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    big = "{guard: scripted, name: big, settings: {words: [loaf]}}"
    cascade = f"{{cascade: [scripted, {big}], band: [0.0, 0.5]}}"
    assert run("moderation", "--guard", "scripted", "--guard", cascade, "--sets", "xstest_prompts", "--json") == 0
    alone, both = json.loads(capsys.readouterr().out)["guards"]
    assert alone["sets"][0]["parts"] == []
    cheap, costly = both["sets"][0]["parts"]
    assert (cheap["path"], cheap["rows"], cheap["measured"]) == ("scripted", 10, True)
    assert cheap["seconds_alone"] == alone["sets"][0]["seconds"]  # measured in the same report
    assert (costly["path"], costly["guard"], costly["rows"]) == ("big", "scripted", 6)
    assert not costly["measured"]  # the scripted guard that was measured alone has other words: another revision
    assert costly["seconds_alone"] == pytest.approx(costly["seconds"] / 6 * 10)
    assert both["sets"][0]["figures"]["recall"]["value"] == 1.0
    assert both["sets"][0]["seconds"] == pytest.approx(cheap["seconds"] + costly["seconds"])
    assert run("moderation", "--guard", cascade, "--sets", "xstest_prompts") == 0
    table = capsys.readouterr().out.split("Cost of compositions")[1]
    assert "60.0%" in table
    assert "big alone" in table


def test_a_guard_that_only_failed_is_no_success_and_is_asked_again(
    prompts: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("--guard", "scripted", "--set", "scripted.faults={how: error}", "--sets", "xstest_prompts")
    assert run("moderation", *arguments) == 1
    said = capsys.readouterr().err
    assert "failed on 10 of 10 rows, which a rerun asks again: the script says so" in said
    assert "gave no score on any of the 10 rows of `xstest_prompts`" in said
    monkeypatch.setattr("corral.guards.scripted.ScriptedGuard._fault", lambda guard, text: None)
    assert run("moderation", *arguments, "--json") == 0
    assert json.loads(capsys.readouterr().out)["guards"][0]["sets"][0]["unscored"] == 0


def test_one_set_can_be_sampled_alone(prompts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sampled = ["--sets", "xstest_prompts+reverse", "--sample", "xstest_prompts+reverse=4"]
    assert run("moderation", "--guard", "scripted", *sampled, "--json") == 0
    guard = json.loads(capsys.readouterr().out)["guards"][0]
    assert [(each["name"], each["n"]) for each in guard["sets"]] == [
        ("xstest_prompts", 10),
        ("xstest_prompts+reverse", 4),
    ]
    assert "attack styles" in Path("eval/moderation/report.md").read_text()
    assert run("errors", "--sets", "xstest_prompts+reverse") == 0


@pytest.mark.parametrize(
    ("sample", "said"),
    [
        ("xstest_prompts=0", "not NAME=ROWS"),
        ("xstest_prompts=-3", "not NAME=ROWS"),
        ("xstest_prompts", "not NAME=ROWS"),
        ("toxicchat=5", "`toxicchat` is not measured"),
    ],
)
def test_a_sample_of_another_form_is_the_users_mistake(
    prompts: Path, sample: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("moderation", "--guard", "scripted", "--sets", "xstest_prompts", "--sample", sample) == 2
    assert said in capsys.readouterr().err


def test_only_a_recipe_with_a_mixture_holds_prompts_out(prompts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("moderation", "--guard", "scripted", "--sets", "", "--held-out", "mogu/tiny") == 2
    assert "no mixture of training rows" in capsys.readouterr().err


def test_claims_name_what_the_report_lacks(prompts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("moderation", "--guard", "scripted", "--sets", "xstest_prompts") == 0
    assert run("claims", "--evidence", "found") != 0
    said = capsys.readouterr().err
    assert "the report lacks" in said
    assert "openai_moderation" in said
    assert not Path("found").exists()


@pytest.fixture
def trained(prompts: Path) -> Path:
    """A run of the default guard's recipe, as far as a card reads it, whose guard is the scripted one."""
    assert run("moderation", "--guard", "scripted", "--sets", "xstest_prompts", "--json") == 0
    report = json.loads(Path("eval/moderation/report.json").read_text())
    made = Run.create("runs", "default_guard/small", Policy.default())
    stage = {"training_rows": 7, "development_rows": 3, "entries": [{"source": "red_instruct", "taken": 4}]}
    atomic_write_json(made.artefacts / "mixture.json", {"stages": [stage]})
    made.report({"revision": report["guards"][0]["revision"]})
    return made.path


def test_a_card_begins_with_the_recipes_notes(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert run("card", str(trained)) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("# default_guard\n")
    assert "Trained on 7 rows" in shown


def test_a_card_begins_with_notes_of_ones_own(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("notes.md").write_text("# mine\n")
    capsys.readouterr()
    assert run("card", str(trained), "--notes", "notes.md") == 0
    assert capsys.readouterr().out.startswith("# mine\n")
    assert run("card", str(trained), "--notes", "absent.md") == 2


def test_a_card_of_a_composition_needs_notes_and_no_run(prompts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("moderation", "--guard", "scripted", "--sets", "xstest_prompts", "--json") == 0
    Path("notes.md").write_text("# both\n")
    capsys.readouterr()
    assert run("card", "--notes", "notes.md") == 0
    shown = capsys.readouterr().out
    assert shown.startswith("# both\n")
    assert "| xstest_prompts |" in shown
    assert run("card") == 2
    assert "no run and no notes" in capsys.readouterr().err
