"""Reports of several runs, read as one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from corral.core.errors import DataError
from corral.evals.merged_reports import merged
from corral.evals.results import ModerationReport
from corral.evals.tasks.moderation import ModerationSettings, choose_sets, run_moderation

Run = Callable[..., ModerationReport]


def by_word(text: str, target: str) -> dict[str, float]:
    return {"p_harm": 0.9 if "TRIGGER" in text else 0.1}


@pytest.fixture
def run(aegis: Path, rule_guard: Any, tmp_path: Path) -> Run:
    """Measures sets with one guard, beside a baseline where asked to."""

    def measure(*names: str, revision: str = "r1", baseline: bool = False, **settings: Any) -> ModerationReport:
        other = rule_guard(lambda text, target: {"p_harm": len(text) % 7 / 7}, name="by-length")
        return run_moderation(
            [rule_guard(by_word, revision=revision)],
            choose_sets(names),
            tmp_path / "out",
            ModerationSettings(**{"replicates": 50, **settings}),
            baseline=other if baseline else None,
        )

    return measure


def test_one_report_is_itself(run: Run) -> None:
    report = run("aegis_test", baseline=True)
    assert merged([report]) == report


def test_sets_tables_and_comparisons_of_all_are_there(run: Run) -> None:
    first, second = run("aegis_test", baseline=True), run("aegis_test+reverse", samples={"aegis_test+reverse": 10})
    report = merged([first, second])
    guard = report.guards[0]
    assert [each.name for each in guard.sets] == ["aegis_test", "aegis_test+reverse"]
    assert [table.set for table in guard.styles] == ["aegis_test"]
    assert report.gates == first.gates
    assert [each.name for each in report.guards] == ["rule", "by-length"]
    assert report.samples == {"aegis_test+reverse": 10}


def test_the_whole_set_counts_where_another_report_has_a_sample(run: Run) -> None:
    sample, whole = run("aegis_test", limit=10), run("aegis_test")
    assert merged([sample, whole]).guards[0].sets == whole.guards[0].sets


def test_what_another_report_measured_is_not_skipped(run: Run) -> None:
    absent = run("aegis_test", "strongreject")
    assert [each.set for each in absent.guards[0].skipped] == ["strongreject"]
    measured = absent.guards[0].model_copy(
        update={"sets": (absent.guards[0].sets[0].model_copy(update={"name": "strongreject"}),), "skipped": ()}
    )
    other = absent.model_copy(update={"guards": (measured,)})
    assert merged([absent, other]).guards[0].skipped == ()


def test_other_weights_are_refused(run: Run) -> None:
    with pytest.raises(DataError, match="revision of guard `rule`: `r1` and `r2`"):
        merged([run("aegis_test"), run("aegis_test", revision="r2")])


def test_other_seeds_are_refused(run: Run) -> None:
    with pytest.raises(DataError, match="differ in the seed"):
        merged([run("aegis_test"), run("aegis_test", seed=1)])


def test_no_report_is_an_error() -> None:
    with pytest.raises(DataError, match="no report"):
        merged([])
