from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from corral.core.errors import DataError, NotFoundError, UserError
from corral.evals.report import csv_text, markdown, read_report, terminal_tables, write_report
from corral.evals.results import ModerationReport
from corral.evals.tasks.moderation import ModerationSettings, choose_sets, run_moderation

FAST = ModerationSettings(replicates=100)


def by_word(text: str, target: str) -> dict[str, float]:
    return {"p_harm": 0.9 if "TRIGGER" in text else 0.1}


@pytest.fixture
def report(aegis: Path, rule_guard: Any, tmp_path: Path) -> ModerationReport:
    guards = [rule_guard(by_word), rule_guard(lambda text, target: {"p_harm": 0.6}, name="flags-all")]
    baseline = rule_guard(lambda text, target: {"p_harm": len(text) % 7 / 7}, name="by-length")
    sets = choose_sets(["aegis_test", "strongreject"])
    return run_moderation(guards, sets, tmp_path / "out", FAST, baseline=baseline, baseline_rows={"a": 3})


def test_a_report_survives_being_written_and_read(report: ModerationReport, tmp_path: Path) -> None:
    write_report(report, tmp_path / "out")
    assert read_report(tmp_path / "out") == report
    raw = json.loads((tmp_path / "out" / "report.json").read_text())
    assert raw["schema_version"] == 1
    assert raw["task_version"] == report.task_version


def test_published_figures_stand_beside_ours_as_fractions_with_their_caveat(report: ModerationReport) -> None:
    result = report.guards[0].sets[0]
    wildguard = next(row for row in result.published if row.system == "WildGuard")
    assert (wildguard.table, wildguard.metric, wildguard.value) == ("T1", "f1", pytest.approx(0.894))
    assert wildguard.relation == "subset"
    assert "11 of the 359" in wildguard.caveat


def test_figures_of_filtered_samples_go_to_the_other_block(report: ModerationReport) -> None:
    assert "T10" not in {row.table for row in report.guards[0].sets[0].published}
    refused = next(each for each in report.not_comparable if each.table == "T10" and each.set == "aegis_test")
    assert "filtered sample" in refused.reason
    assert refused.cells["WildGuard, f1"] == 0.861
    assert all(each.reason for each in report.not_comparable)


def test_a_sample_of_a_set_is_compared_with_no_published_figure(aegis: Path, rule_guard: Any, tmp_path: Path) -> None:
    settings = ModerationSettings(replicates=100, limit=20)
    report = run_moderation([rule_guard(by_word)], choose_sets(["aegis_test"]), tmp_path, settings)
    assert report.guards[0].sets[0].published == ()
    refused = next(each for each in report.not_comparable if (each.table, each.column) == ("T1", "aegis"))
    assert "sample of" in refused.reason


def test_every_guard_is_held_against_the_baseline(report: ModerationReport) -> None:
    assert [gate.guard for gate in report.gates] == ["rule", "flags-all"]
    assert all(gate.baseline == "by-length" for gate in report.gates)
    assert report.gates[0].holds("aegis_test", "f1")
    assert not report.gates[1].holds("aegis_test", "ap")
    assert [guard.name for guard in report.guards] == ["rule", "flags-all", "by-length"]


def test_flagging_everything_does_not_beat_flagging_everything(report: ModerationReport) -> None:
    good, flags_all, _ = report.guards
    assert (good.sets[0].figures["f1_minus_flag_all"].ci95 or (0, 0))[0] > 0
    assert flags_all.sets[0].figures["f1_minus_flag_all"].value == 0.0
    assert flags_all.sets[0].figures["fpr"].value == 1.0


def test_csv_and_json_hold_the_same_numbers(report: ModerationReport) -> None:
    lines = list(csv.DictReader(io.StringIO(csv_text(report))))
    for guard in report.guards:
        for result in guard.sets:
            for metric, figure in result.figures.items():
                (line,) = [
                    each
                    for each in lines
                    if (each["system"], each["set"], each["metric"], each["slice"])
                    == (guard.name, result.name, metric, "")
                ]
                assert line["value"] == ("" if figure.value is None else repr(figure.value))
                assert line["n"] == str(figure.n)
    published = [line for line in lines if line["mark"]]
    assert len(published) == len(report.guards[0].sets[0].published)  # once, though three guards were measured


def test_markdown_and_terminal_show_flag_all_the_gate_and_what_was_skipped(report: ModerationReport) -> None:
    text = markdown(report)
    titles = [table.title for table in terminal_tables(report)]
    for title in titles:
        assert f"## {title}" in text
    assert "flag-all F1" in text
    assert "does not hold" in text
    assert "Not comparable" in titles
    assert "Skipped" in titles
    assert "strongreject" in text
    for table in terminal_tables(report):
        assert all(len(row) == len(table.columns) for row in table.rows)


def test_no_format_holds_the_text_of_a_row(report: ModerationReport, tmp_path: Path) -> None:
    write_report(report, tmp_path / "out")
    for file in (tmp_path / "out").rglob("*"):
        if file.is_file():
            assert "question number" not in file.read_text(), file


def test_a_rerun_judges_nothing_and_finds_the_same(report: ModerationReport, rule_guard: Any, tmp_path: Path) -> None:
    guard = rule_guard(by_word)
    again = run_moderation([guard], choose_sets(["aegis_test", "strongreject"]), tmp_path / "out", FAST)
    assert guard.judged == []
    assert again.guards[0] == report.guards[0]


def test_two_guards_of_one_name_are_refused(aegis: Path, rule_guard: Any, tmp_path: Path) -> None:
    guards = [rule_guard(by_word), rule_guard(by_word, revision="r2")]
    with pytest.raises(UserError, match="two guards are named `rule`"):
        run_moderation(guards, choose_sets(["aegis_test"]), tmp_path, FAST)


def test_guards_are_taken_one_after_the_other(aegis: Path, rule_guard: Any, tmp_path: Path) -> None:
    events: list[str] = []

    def guards() -> Any:
        for name in ("first", "second"):
            events.append(f"load {name}")
            yield rule_guard(by_word, name=name)

    run_moderation(
        guards(), choose_sets(["aegis_test"]), tmp_path, FAST, on_guard=lambda done: events.append(f"done {done.name}")
    )
    assert events == ["load first", "done first", "load second", "done second"]


def test_sets_are_chosen_by_name_in_the_order_of_reports() -> None:
    assert [each.name for each in choose_sets(["xstest_prompts", "aegis_test"])] == ["aegis_test", "xstest_prompts"]
    assert len(choose_sets(["headline"])) == 5
    assert {"xsafety", "red_instruct"}.isdisjoint(each.name for each in choose_sets(["all"]))
    with pytest.raises(NotFoundError, match="no evaluation set is named `aegis`"):
        choose_sets(["aegis"])
    with pytest.raises(NotFoundError, match="no set was named"):
        choose_sets([])


def test_a_folder_without_a_report_is_said(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        read_report(tmp_path)
    (tmp_path / "report.json").write_text('{"schema_version": 2}')
    with pytest.raises(DataError, match="not a moderation report"):
        read_report(tmp_path)


def test_languages_and_unscored_rows_have_their_tables(
    write_source: Callable[..., Path], rule_guard: Any, tmp_path: Path
) -> None:
    rows = [
        {"lang": lang, "id": i, "prompt": f"{lang} sum {i}", "answer": "1"} for lang in ("en", "de") for i in (0, 1)
    ]
    write_source("benign_mgsm", mgsm=rows)
    guard = rule_guard(lambda text, target: None if text == "de sum 1" else {"p_harm": 0.1})
    report = run_moderation([guard], choose_sets(["benign_mgsm"]), tmp_path, FAST)
    text = markdown(report)
    assert "de (worst)" in text
    assert "positive (headline)" in text
    assert any(line["slice"] == "English minus de" for line in csv.DictReader(io.StringIO(csv_text(report))))
