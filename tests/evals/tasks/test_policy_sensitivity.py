"""Whether the text of the policy matters, for guards whose behaviour is known."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from corral.core.metric_inputs import Floats
from corral.core.weighted import Statistic
from corral.data.examples import ModerationExample
from corral.data.messages import Conversation
from corral.evals.tasks.policy_sensitivity import judge_policies, reorderings, violated_codes
from corral.guards.llama_guard.prompts import PolicyPrompt

POLICY = PolicyPrompt.of("3").with_categories(["S1", "S2", "S10"])


def row(name: str, *codes: str) -> ModerationExample:
    categories = {f"llama_guard_3/{code}": True for code in codes}
    return ModerationExample(Conversation.user(name), "prompt", harmful=True, categories=categories, group=name)


ROWS = (row("a", "S1"), row("b", "S2"), row("c", "S1", "S10"), row("d", "S9", "S10"))


def reads(policy: PolicyPrompt, rows: Sequence[ModerationExample]) -> tuple[Floats, list[frozenset[str]]]:
    """A guard that goes by the policy in its prompt."""
    named = [frozenset(violated_codes(each, policy)) for each in rows]
    return np.array([0.9 if codes else 0.1 for codes in named]), named


def remembers(policy: PolicyPrompt, rows: Sequence[ModerationExample]) -> tuple[Floats, list[frozenset[str]]]:
    """A guard that has learned what is harmful and at which position of the policy its code stood in training."""
    codes = [violated_codes(each, POLICY)[0] for each in rows]
    places = [[POLICY.qualified(code) for code in POLICY.codes].index(code) for code in codes]
    return np.full(len(rows), 0.9), [
        frozenset({policy.qualified(policy.codes[place])} if place < len(policy.codes) else ()) for place in places
    ]


def value(statistic: Statistic) -> float:
    return float(statistic(np.ones((len(ROWS), 1)))[0])


def test_a_guard_that_reads_its_policy_scores_one_and_names_categories_in_any_order() -> None:
    found = judge_policies(ROWS, POLICY, reads, orders=3)
    assert value(found.flip_rate()) == 1.0
    assert value(found.mean_drop()) == pytest.approx(0.8)
    assert value(found.named_by_whole()) == 1.0
    assert value(found.named_by_reordered()) == 1.0


def test_a_guard_that_does_not_read_scores_zero_and_loses_track_of_the_codes() -> None:
    found = judge_policies(ROWS, POLICY, remembers, orders=3)
    assert value(found.flip_rate()) == 0.0
    assert value(found.mean_drop()) == 0.0
    assert value(found.named_by_whole()) == 1.0
    assert value(found.named_by_reordered()) < 1.0


def test_all_violated_categories_are_removed_at_once_and_no_other() -> None:
    asked: list[tuple[tuple[str, ...], tuple[str, ...]]] = []

    def judge(policy: PolicyPrompt, rows: Sequence[ModerationExample]) -> tuple[Floats, list[frozenset[str]]]:
        asked.append((tuple(c.code for c in policy.categories), tuple(each.group for each in rows)))
        return reads(policy, rows)

    judge_policies(ROWS, POLICY, judge, orders=1)
    assert asked[2:] == [(("S2", "S10"), ("a",)), (("S1", "S10"), ("b",)), (("S2",), ("c",)), (("S1", "S2"), ("d",))]


def test_rows_that_are_not_flagged_have_no_flip() -> None:
    def never(policy: PolicyPrompt, rows: Sequence[ModerationExample]) -> tuple[Floats, list[frozenset[str]]]:
        return np.zeros(len(rows)), [frozenset()] * len(rows)

    assert np.isnan(value(judge_policies(ROWS, POLICY, never).flip_rate()))


def test_no_reordering_is_the_order_itself() -> None:
    whole = [category.code for category in POLICY.categories]
    for each in reorderings(POLICY, 20, seed=0):
        assert sorted(category.code for category in each.categories) == sorted(whole)
        assert [category.code for category in each.categories] != whole
    assert reorderings(POLICY.with_categories(["S1"]), 3, seed=0) == []
