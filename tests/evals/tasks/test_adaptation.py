"""The ladder of adaptation: which policy and rows each rung has, and what its scores mean."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from corral.core.errors import DataError
from corral.core.metric_inputs import Floats
from corral.data.examples import ModerationExample
from corral.data.messages import Conversation
from corral.evals.tasks.adaptation import (
    AdaptationTarget,
    Rung,
    choose_examples,
    climb,
    measure_ladder,
    rungs,
    share_of,
)
from corral.guards.llama_guard.prompts import PolicyPrompt

OWN = PolicyPrompt.of("3")
TARGET = PolicyPrompt.of("3", "openai_moderation", detail="names").with_categories(["hate", "sexual"])


def rows(count: int, name: str, code: str = "openai_moderation/hate") -> tuple[ModerationExample, ...]:
    return tuple(
        ModerationExample(
            Conversation.user(f"{name} {i}"),
            "prompt",
            harmful=i % 2 == 0,
            categories={code: i % 2 == 0},
            group=f"{name} {i}",
        )
        for i in range(count)
    )


TRAIN, TEST = rows(20, "train"), rows(10, "test")
EXAMPLES = {"hate": ("one", "two"), "sexual": ("three", "four")}
ADAPTATION = AdaptationTarget(TARGET, TRAIN, TEST, EXAMPLES)


def test_the_ladder_has_every_protocol_in_order() -> None:
    assert [rung.name for rung in rungs((0.1, 1.0))] == [
        "none",
        "zero-shot",
        "few-shot",
        "fine-tune 10 %",
        "fine-tune 100 %",
    ]


@pytest.mark.parametrize(("protocol", "share"), [("none", 0.5), ("fine-tune", 0.0), ("fine-tune", 1.5)])
def test_only_fine_tuning_has_a_share(protocol: str, share: float) -> None:
    with pytest.raises(ValueError, match="share"):
        Rung(protocol, share)  # type: ignore[arg-type]


@given(st.floats(0.01, 1), st.floats(0.01, 1), st.integers(0, 5))
def test_a_smaller_share_is_part_of_a_larger_one(a: float, b: float, seed: int) -> None:
    small, large = (share_of(TRAIN, share, seed=seed) for share in sorted((a, b)))
    assert small
    assert [row for row in large if row in small] == small


def test_each_rung_has_its_policy_and_rows_and_none_sees_the_test_half() -> None:
    seen: dict[str, tuple[PolicyPrompt, int]] = {}

    def judge(rung: Rung, policy: PolicyPrompt, given: Sequence[ModerationExample]) -> list[Floats]:
        assert not {row.group for row in given} & {row.group for row in TEST}
        seen[rung.name] = (policy, len(given))
        return [np.linspace(0, 1, len(TEST))]

    climb(ADAPTATION, OWN, judge, shares=(0.1, 1.0))
    assert seen["none"] == (OWN, 0)
    assert seen["zero-shot"] == (TARGET, 0)
    assert seen["few-shot"][0].detail == "examples"
    assert seen["few-shot"][0].examples == EXAMPLES
    assert seen["fine-tune 10 %"] == (TARGET, 2)
    assert seen["fine-tune 100 %"] == (TARGET, 20)


def test_a_group_in_both_halves_is_refused() -> None:
    with pytest.raises(DataError, match="1 groups"):
        AdaptationTarget(TARGET, TRAIN, (TRAIN[0], *TEST), EXAMPLES)


def test_figures_stand_beside_the_floor_and_the_first_rung() -> None:
    truth = np.array([float(bool(row.harmful)) for row in TEST])
    found = measure_ladder(
        ADAPTATION, {Rung("none"): [1 - truth], Rung("fine-tune", 1.0): [truth, truth]}, replicates=200
    )
    none, tuned = found
    assert none.above_none is None
    assert none.floor == pytest.approx(0.5)
    assert none.ap.value == pytest.approx(0.5)  # the positives come after all the negatives, as one tie: 5 of 10
    assert tuned.ap.value == pytest.approx(1.0)
    assert tuned.lift == pytest.approx(1.0)
    assert tuned.above_none is not None
    assert tuned.above_none.value == pytest.approx(0.5)
    assert tuned.training_rows == 20
    assert tuned.by_seed == (1.0, 1.0)


def test_examples_are_of_one_category_alone_and_short() -> None:
    both = ModerationExample(
        Conversation.user("of both"),
        "prompt",
        harmful=True,
        categories={"openai_moderation/hate": True, "openai_moderation/sexual": True},
        group="both",
    )
    sexual = rows(6, "other", "openai_moderation/sexual")
    chosen = choose_examples([both, *TRAIN, *sexual], TARGET, each=2, max_chars=8)
    assert {len(texts) for texts in chosen.values()} == {2}
    assert all(len(text) <= 8 for texts in chosen.values() for text in texts)
    assert set(chosen["hate"]) <= {row.text for row in TRAIN if row.harmful}
    assert set(chosen["sexual"]) <= {row.text for row in sexual if row.harmful}


def test_labels_of_another_taxonomy_do_not_matter_to_examples() -> None:
    marked = [
        ModerationExample(
            row.conversation, "prompt", harmful=True, categories={**row.categories, "llama_guard_3/S10": True}
        )
        for row in TRAIN[::2]
    ]
    sexual = rows(6, "other", "openai_moderation/sexual")
    assert set(choose_examples([*marked, *sexual], TARGET)["hate"]) <= {row.text for row in marked}


def test_too_few_examples_are_named() -> None:
    with pytest.raises(DataError, match="`openai_moderation/sexual`"):
        choose_examples(TRAIN, TARGET)
