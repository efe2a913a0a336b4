from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from corral.core.errors import MetricError
from corral.evals.gates import GATE_METRICS, compare
from corral.evals.scored import ScoredSet
from corral.evals.tasks.scoring import ScoredGuard

Make = Callable[..., ScoredSet]
FAST = 200


def guard(name: str, *sets: ScoredSet) -> ScoredGuard:
    return ScoredGuard(name, f"{name}-1", "", {each.eval_set.name: each for each in sets})


def rows(seed: int, signal: float) -> tuple[list[int], list[float]]:
    truth = [i % 2 for i in range(200)]
    noise = np.random.default_rng(seed).normal(0, 0.25, 200)
    return truth, np.clip(0.5 + signal * (np.array(truth) - 0.5) + noise, 0, 1).tolist()


def test_a_far_better_guard_passes_on_every_metric(scored_set: Make) -> None:
    table = compare(guard("g", scored_set(*rows(0, 0.8))), guard("b", scored_set(*rows(1, 0.1))), replicates=FAST)
    assert [row.metric for row in table.rows] == list(GATE_METRICS)
    assert all(row.holds for row in table.rows)
    assert table.holds("aegis_test")
    assert table.holds("aegis_test", "f1")
    assert (table.guard_revision, table.baseline_revision) == ("g-1", "b-1")
    for row in table.rows:
        assert row.guard is not None
        assert row.baseline is not None
        assert row.difference.value == pytest.approx(row.guard - row.baseline)


def test_a_guard_does_not_beat_itself(scored_set: Make) -> None:
    same = scored_set(*rows(0, 0.5))
    table = compare(guard("g", same), guard("b", same), replicates=FAST)
    assert not any(row.holds for row in table.rows)
    assert all(row.difference.value == 0.0 for row in table.rows)
    assert {row.metric: row.mcnemar_p for row in table.rows} == {"ap": None, "auroc": None, "f1": 1.0}


def test_a_worse_guard_does_not_pass(scored_set: Make) -> None:
    table = compare(guard("g", scored_set(*rows(1, 0.1))), guard("b", scored_set(*rows(0, 0.8))), replicates=FAST)
    assert not any(row.holds for row in table.rows)
    assert all((row.difference.ci95 or (0, 0))[1] < 0 for row in table.rows)


def test_only_mixed_sets_that_both_have_are_compared(scored_set: Make) -> None:
    mixed, positives = scored_set(*rows(0, 0.8)), scored_set([1, 1], [0.9, 0.9], name="strongreject")
    other = scored_set(*rows(0, 0.8), name="xstest_prompts")
    table = compare(guard("g", mixed, positives, other), guard("b", mixed, positives), replicates=FAST)
    assert {row.set for row in table.rows} == {"aegis_test"}
    assert not table.holds("xstest_prompts")


def test_sets_can_be_chosen(scored_set: Make) -> None:
    both = scored_set(*rows(0, 0.8)), scored_set(*rows(0, 0.8), name="xstest_prompts")
    table = compare(guard("g", *both), guard("b", *both), sets=["xstest_prompts"], replicates=FAST)
    assert {row.set for row in table.rows} == {"xstest_prompts"}


def test_scores_of_different_rows_are_not_compared(scored_set: Make) -> None:
    ours, theirs = scored_set([1, 0], [0.9, 0.1]), scored_set([1, 0], [0.9, 0.1], prompts=["other", "texts"])
    with pytest.raises(MetricError, match="different rows of `aegis_test`"):
        compare(guard("g", ours), guard("b", theirs), replicates=FAST)
