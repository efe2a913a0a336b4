"""One category at a time, on a table of six rows that can be checked by hand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from corral.core.metric_inputs import Floats
from corral.data.examples import ModerationExample
from corral.data.messages import Conversation
from corral.evals.tasks.categories import (
    CategoryScores,
    category_labels,
    measure_one_vs_all,
    measure_one_vs_benign,
    score_categories,
)
from corral.guards.llama_guard.prompts import PolicyPrompt

HATE, VIOLENCE = "llama_guard_3/S10", "llama_guard_3/S1"


def row(name: str, harmful: bool | None, **labels: bool) -> ModerationExample:
    categories = {f"llama_guard_3/{code}": label for code, label in labels.items()}
    return ModerationExample(Conversation.user(name), "prompt", harmful=harmful, categories=categories, group=name)


# score of S10 alone:      0.9            0.8 (another harm)        0.7
ROWS = (
    row("a", True, S10=True, S1=False),
    row("b", True, S10=False, S1=True),
    row("c", True, S10=True, S1=False),
    row("d", False, S10=False, S1=False),
    row("e", False, S10=False, S1=False),
    row("f", True, S1=True),  # S10 unknown
)
SCORES = {"a": 0.9, "b": 0.8, "c": 0.7, "d": 0.2, "e": 0.1, "f": 0.95}
POLICY = PolicyPrompt.of("3").with_categories(["S1", "S10"])


def asked(codes: Sequence[str] = (HATE,)) -> tuple[list[CategoryScores], list[tuple[tuple[str, ...], int]]]:
    calls: list[tuple[tuple[str, ...], int]] = []

    def judge(policy: PolicyPrompt, rows: Sequence[ModerationExample]) -> list[Floats]:
        calls.append((tuple(category.code for category in policy.categories), len(rows)))
        scores = np.array([SCORES[each.group] for each in rows])
        return [scores, scores]

    return score_categories(ROWS, POLICY, codes, judge), calls


def test_the_guard_is_asked_about_the_category_alone_and_only_on_rows_whose_label_is_known() -> None:
    _, calls = asked((HATE, VIOLENCE))
    assert calls == [(("S10",), 5), (("S1",), 6)]


def test_one_vs_all_counts_other_harms_as_negatives() -> None:
    """Order a b c d e, positives a and c: (1/1 + 2/3) / 2."""
    (scored,), _ = asked()
    found = measure_one_vs_all(scored, replicates=100)
    assert found.ap.value == pytest.approx((1 + 2 / 3) / 2)
    assert (found.n, found.positives, found.floor) == (5, 2, pytest.approx(0.4))
    assert found.lift == pytest.approx(((1 + 2 / 3) / 2 - 0.4) / 0.6)


def test_one_vs_benign_drops_them_and_is_never_lower() -> None:
    (scored,), _ = asked()
    found = measure_one_vs_benign(scored, replicates=100)
    assert found.ap.value == pytest.approx(1.0)
    assert (found.n, found.positives) == (4, 2)


def test_a_category_that_the_taxonomy_lacks_is_not_supported_and_not_asked_about() -> None:
    scored, calls = asked(("openai_moderation/hate", "llama_guard_3/S99"))
    assert [each.supported for each in scored] == [False, False]
    assert calls == []
    assert measure_one_vs_all(scored[0]).ap.value is None


def test_a_category_of_the_taxonomy_that_the_policy_leaves_out_can_be_asked_about() -> None:
    (scored,), calls = asked(("llama_guard_3/S12",))
    assert scored.supported
    assert calls == [(("S12",), 0)]


def test_unknown_labels_are_neither_positive_nor_negative() -> None:
    assert category_labels(ROWS, HATE).tolist() == [1, 0, 1, 0, 0, -1]
