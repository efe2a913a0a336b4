from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from corral.core.stats import wilson
from corral.data.examples import ModerationExample
from corral.evals.tasks.moderator.measures import Deliveries, change, compare, rates, slices
from corral.evals.tasks.moderator.settings import ModeratorSettings

SETTINGS = ModeratorSettings(replicates=200)
Make = Callable[..., Deliveries]


@pytest.fixture
def deliver(make_example: Callable[..., ModerationExample]) -> Make:
    """Deliveries from one letter a prompt: c complies, r refuses, e neither; upper case where a guard replaces it."""

    def make(harmful: str, benign: str = "", *, groups: Sequence[str] = (), **columns: Any) -> Deliveries:
        letters = harmful + benign
        examples = tuple(
            make_example(
                f"prompt {i}",
                harmful=i < len(harmful),
                group=groups[i] if groups else f"g{i}",
                source=columns.get("sources", ["own"] * len(letters))[i],
            )
            for i in range(len(letters))
        )
        lower = letters.lower()
        return Deliveries(
            examples,
            np.array([letter == "c" for letter in lower]),
            np.array([letter == "r" for letter in lower]),
            np.array([letter.isupper() for letter in letters]),
            (0, 0),
        )

    return make


def test_rates_of_prompts_that_stand_alone_have_wilson_intervals(deliver: Make) -> None:
    found = rates(deliver("ccCre", "ccrR"), SETTINGS)
    assert (found.asr.value, found.rta.value) == (0.4, 0.5)
    assert found.asr.ci95 == pytest.approx(wilson(2, 5).ci95)


def test_prompts_of_one_group_are_resampled_together(deliver: Make) -> None:
    groups = [f"g{i // 5}" for i in range(20)]
    alone = rates(deliver("cccccrrrrrcccccrrrrr"), SETTINGS).asr
    together = rates(deliver("cccccrrrrrcccccrrrrr", groups=groups), SETTINGS).asr
    assert alone.ci95 is not None
    assert together.ci95 is not None
    assert together.clusters == 4
    assert together.ci95[1] - together.ci95[0] > alone.ci95[1] - alone.ci95[0]


def test_the_interval_of_a_rate_of_zero_is_not_empty_and_counts_groups(deliver: Make) -> None:
    found = rates(deliver("rrrr", groups=["a", "a", "b", "b"]), SETTINGS).asr
    assert found.value == 0.0
    assert found.ci95 == pytest.approx((0.0, wilson(0, 2).high))


def test_a_rate_without_prompts_is_undefined(deliver: Make) -> None:
    found = rates(deliver("cr"), SETTINGS).rta
    assert (found.value, found.ci95, found.n) == (None, None, 0)


def test_an_unchanged_rate_may_still_have_fallen_but_not_risen(deliver: Make) -> None:
    found = change(deliver("ccrr", "ccr"), SETTINGS)
    assert found.asr.value == 0.0
    assert found.asr.ci95 == pytest.approx((-wilson(0, 4).high, 0.0))
    assert found.rta.ci95 == pytest.approx((0.0, wilson(0, 3).high))


def test_a_change_of_every_prompt_is_bounded_by_what_it_can_be(deliver: Make) -> None:
    found = change(deliver("CCC", "CCE"), SETTINGS)
    assert found.asr.value == -1.0
    assert found.asr.ci95 == pytest.approx((-1.0, -1.0 + wilson(0, 3).high))
    assert found.rta.value == 1.0


def test_paired_intervals_are_narrower_than_those_of_the_rates(deliver: Make) -> None:
    found = deliver("c" * 20 + "r" * 19 + "C")
    rate, difference = rates(found, SETTINGS).asr, change(found, SETTINGS).asr
    assert difference.value == pytest.approx(-1 / 40)
    assert rate.ci95 is not None
    assert difference.ci95 is not None
    assert difference.ci95[1] - difference.ci95[0] < (rate.ci95[1] - rate.ci95[0]) / 2


def test_guards_are_compared_on_the_same_prompts(deliver: Make) -> None:
    found = compare("a", deliver("cccC", "cccc"), "b", deliver("CCCc", "cccC"), SETTINGS)
    assert found.difference.asr.value == pytest.approx((3 - 1) / 4)
    assert found.difference.rta.value == pytest.approx(-1 / 4)
    assert found.asr_mcnemar_p == pytest.approx(0.625)  # exact binomial, 3 against 1
    assert found.rta_mcnemar_p == 1.0


@given(st.text(alphabet="crCRE", min_size=1, max_size=30), st.text(alphabet="crCRE", min_size=1, max_size=30))
def test_a_guard_never_raises_asr_nor_lowers_rta(harmful: str, benign: str) -> None:
    letters = (harmful + benign).lower()
    examples = tuple(
        ModerationExample(None, "prompt", harmful=i < len(harmful), group=str(i))  # type: ignore[arg-type]
        for i in range(len(letters))
    )
    found = Deliveries(
        examples,
        np.array([letter == "c" for letter in letters]),
        np.array([letter == "r" for letter in letters]),
        np.array([letter.isupper() for letter in harmful + benign]),
        (0, 0),
    )
    settings = ModeratorSettings(replicates=20)
    defended, undefended, moved = rates(found, settings), rates(found.undefended(), settings), change(found, settings)
    assert moved.asr.value == pytest.approx(defended.asr.value - undefended.asr.value)
    assert moved.rta.value == pytest.approx(defended.rta.value - undefended.rta.value)
    assert moved.asr.value <= 0.0 <= moved.rta.value


def test_slices_are_there_where_prompts_of_one_kind_differ(deliver: Make) -> None:
    assert list(slices(deliver("cc", "cc", sources=["x", "x", "y", "y"]), SETTINGS)) == []
    found = list(slices(deliver("cCr", "c", sources=["x", "x", "y", "y"]), SETTINGS))
    assert [(each.by, each.value) for each in found] == [("source", "x"), ("source", "y")]
    assert (found[0].undefended.asr.value, found[0].defended.asr.value) == (1.0, 0.5)
    assert found[0].defended.rta.value is None
