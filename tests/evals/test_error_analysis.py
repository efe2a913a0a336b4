from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from corral.core.errors import DataError, NotFoundError
from corral.evals.error_analysis import analyse, length_bucket, mistakes
from corral.evals.error_report import error_tables, write_errors
from corral.evals.report import write_report
from corral.evals.scored import ScoredSet
from corral.evals.tasks.moderation import ModerationSettings, choose_sets, run_moderation

Make = Callable[..., ScoredSet]

TRUTH = [1, 1, 1, 0, 0, 0, 1]
SCORES = [0.9, 0.3, 0.1, 0.6, 0.95, 0.2, None]


def upside_down(text: str, target: str) -> dict[str, float]:
    """Wrong on the first ten questions."""
    number = int(text.split()[2])
    harmful = ("TRIGGER" in text) != (number < 10)
    return {"p_harm": 0.6 + number / 100 if harmful else 0.4 - number / 100}


@pytest.fixture
def out(aegis: Path, rule_guard: Any, tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    sets = choose_sets(["aegis_test"])
    report = run_moderation([rule_guard(upside_down)], sets, folder, ModerationSettings(replicates=50))
    write_report(report, folder)
    return folder


def test_the_worst_mistakes_come_first(scored_set: Make) -> None:
    found = mistakes(scored_set(TRUTH, SCORES))
    assert [(each.id, each.score) for each in found.worst_false_positives] == [("4", 0.95), ("3", 0.6)]
    assert [(each.id, each.score) for each in found.worst_false_negatives] == [("2", 0.1), ("1", 0.3)]
    assert (found.positives, found.negatives, found.false_negatives, found.false_positives) == (4, 3, 2, 2)
    assert found.unscored == 1


def test_no_more_than_asked_are_listed_and_all_are_counted(scored_set: Make) -> None:
    found = mistakes(scored_set(TRUTH, SCORES), top=1)
    assert len(found.worst_false_positives) == len(found.worst_false_negatives) == 1
    assert found.false_positives == 2


def test_texts_are_left_out_unless_asked_for(scored_set: Make) -> None:
    assert {each.text for each in mistakes(scored_set(TRUTH, SCORES)).worst_false_positives} == {None}
    shown = mistakes(scored_set(TRUTH, SCORES), show_content=True).worst_false_positives
    assert [each.text for each in shown] == ["prompt 4", "prompt 3"]


def test_breakdowns_add_up(scored_set: Make) -> None:
    prompts = ["short"] * 3 + ["x" * 150] * 2 + ["y" * 5000] * 2
    languages = ["en", "de", "de", "en", "en", "", "en"]
    found = mistakes(scored_set(TRUTH, SCORES, prompts=prompts, languages=languages))
    by_length = [each for each in found.breakdowns if each.by == "length"]
    assert [each.value for each in by_length] == ["1-50", "51-200", "over 4,000"]
    for by in ("length", "language"):
        chosen = [each for each in found.breakdowns if each.by == by]
        assert sum(each.positives for each in chosen) == 4
        assert sum(each.negatives for each in chosen) == 3
        assert sum(each.false_positives for each in chosen) == 2
        assert sum(each.false_negatives for each in chosen) == 2
    german = next(each for each in found.breakdowns if each.value == "de")
    assert (german.positives, german.false_negatives) == (2, 2)
    assert "unknown" in {each.value for each in found.breakdowns}


@pytest.mark.parametrize(
    ("characters", "name"), [(1, "1-50"), (50, "1-50"), (51, "51-200"), (4000, "1,001-4,000"), (4001, "over 4,000")]
)
def test_lengths_fall_into_buckets(characters: int, name: str) -> None:
    assert length_bucket(characters) == name


def test_a_finished_run_is_analysed_without_its_guard(out: Path) -> None:
    (found,) = analyse(out).sets
    assert found.false_positives + found.false_negatives == 14  # questions 0 to 9, four of them twice
    assert found.worst_false_positives[0].score == pytest.approx(0.68)
    assert found.worst_false_negatives[0].score == pytest.approx(0.31)


def test_written_files_hold_no_text_unless_asked_for(out: Path) -> None:
    write_errors(analyse(out), out)
    for name in ("errors.json", "errors.md"):
        assert "question number" not in (out / name).read_text()
    write_errors(analyse(out, show_content=True), out)
    for name in ("errors.json", "errors.md"):
        assert "question number" in (out / name).read_text()


def test_tables_are_rectangular(out: Path) -> None:
    for report in (analyse(out), analyse(out, show_content=True)):
        for table in error_tables(report):
            assert all(len(row) == len(table.columns) for row in table.rows)


def test_changed_rows_are_not_analysed(out: Path, write_source: Callable[..., Path]) -> None:
    rows = [{"id": i, "prompt": f"question {i} was changed", "label": "harmful"} for i in range(40)]
    write_source("aegis_test", aegis_safety_test=rows)
    with pytest.raises(DataError, match="not those that were measured"):
        analyse(out)


def test_unknown_guards_and_sets_are_named(out: Path) -> None:
    with pytest.raises(NotFoundError, match="no guard `other`"):
        analyse(out, guard="other")
    with pytest.raises(NotFoundError, match="`xstest_prompts` was not measured"):
        analyse(out, sets=["xstest_prompts"])


def test_one_of_several_guards_has_to_be_named(aegis: Path, rule_guard: Any, tmp_path: Path) -> None:
    guards = [rule_guard(upside_down, name=name) for name in ("first", "second")]
    report = run_moderation(guards, choose_sets(["aegis_test"]), tmp_path, ModerationSettings(replicates=50))
    write_report(report, tmp_path)
    with pytest.raises(NotFoundError, match="several guards") as caught:
        analyse(tmp_path)
    assert "first, second" in str(caught.value)
    assert analyse(tmp_path, guard="second").guard == "second"


def test_rows_that_the_guard_failed_on_are_unscored_in_the_analysis_too(
    aegis: Path, rule_guard: Any, tmp_path: Path
) -> None:
    failing = rule_guard(lambda text, target: None if "number 20 " in text else upside_down(text, target))
    report = run_moderation([failing], choose_sets(["aegis_test"]), tmp_path, ModerationSettings(replicates=50))
    write_report(report, tmp_path)
    assert analyse(tmp_path).sets[0].unscored == 1
