"""Varied policies: what is dropped, how often, and what shared policies keep of it."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from corral.train.guard.augmentation import AugmentationConfig, PolicyPool, PolicyWish, draw_wishes

CODES = tuple(f"C{n}" for n in range(1, 7))


def paper(**changes: object) -> AugmentationConfig:
    return AugmentationConfig.model_validate(changes)


def drawn(violated: set[str], config: AugmentationConfig, n: int) -> list[PolicyWish]:
    return [
        wish
        for seed in range(n)
        for wish in draw_wishes(CODES, frozenset(violated), config, np.random.default_rng(seed))
    ]


@pytest.mark.parametrize(
    ("violated", "sizes"), [({"C1", "C4"}, range(2, 7)), ({"C2"}, range(1, 7)), (set(), range(1, 7))]
)
def test_the_number_of_dropped_categories_is_uniform(violated: set[str], sizes: range) -> None:
    counts = Counter(wish.size for wish in drawn(violated, paper(flip_probability=0.0), 3000))
    assert set(counts) == set(sizes)
    assert chisquare([counts[size] for size in sizes]).pvalue > 0.001


def test_violated_categories_are_dropped_with_the_given_probability_and_a_random_number_of_others() -> None:
    wishes = drawn({"C1", "C4"}, paper(), 4000)
    flipped = [wish for wish in wishes if wish.lacks]
    assert len(flipped) / len(wishes) == pytest.approx(0.25, abs=0.03)
    counts = Counter(wish.size for wish in flipped)
    assert chisquare([counts[size] for size in range(1, 5)]).pvalue > 0.001


def test_which_categories_stay_is_uniform() -> None:
    pool = PolicyPool(CODES, share=1, shuffle=True)
    wish = PolicyWish(3, has=frozenset({"C2"}))
    kept = [pool.take(wish, np.random.default_rng(seed)) for seed in range(2500)]
    others = Counter(code for codes in kept for code in codes if code != "C2")
    assert chisquare([others[code] for code in CODES if code != "C2"]).pvalue > 0.001
    first = Counter(codes[0] for codes in kept)
    assert first["C2"] / len(kept) == pytest.approx(1 / 3, abs=0.04)


def test_a_row_that_violates_everything_cannot_be_flipped() -> None:
    assert drawn(set(CODES), paper(flip_probability=1.0), 20) == [PolicyWish(6, has=frozenset(CODES))] * 20


def test_the_formatter_gives_the_whole_policy_and_copies() -> None:
    config = paper(mode="formatter", flip_copies=True)
    whole, kept, flipped = draw_wishes(CODES, frozenset({"C1"}), config, np.random.default_rng(0))
    assert whole == PolicyWish(6, has=frozenset({"C1"}))
    assert kept.has == frozenset({"C1"})
    assert flipped.lacks == frozenset({"C1"})
    assert len(draw_wishes(CODES, frozenset(), config, np.random.default_rng(0))) == 2
    assert len(draw_wishes(CODES, frozenset({"C1"}), paper(mode="formatter"), np.random.default_rng(0))) == 2


def test_without_augmentation_the_policy_is_whole_and_in_order() -> None:
    (wish,) = draw_wishes(CODES, frozenset({"C1"}), paper(mode="none"), np.random.default_rng(0))
    assert PolicyPool(CODES, share=1, shuffle=False).take(wish, np.random.default_rng(0)) == CODES


@given(
    violated=st.sets(st.sampled_from(CODES)),
    share=st.integers(1, 4),
    seed=st.integers(0, 10_000),
    flip=st.sampled_from([0.0, 0.5, 1.0]),
    drop=st.booleans(),
)
def test_every_policy_is_what_the_row_asked_for(
    violated: set[str], share: int, seed: int, flip: float, drop: bool
) -> None:
    pool = PolicyPool(CODES, share, shuffle=True)
    for step in range(12):
        rng = np.random.default_rng([seed, step])
        asked = frozenset(violated if step % 2 else ())
        (wish,) = draw_wishes(CODES, asked, paper(flip_probability=flip, drop=drop), rng)
        kept = pool.take(wish, rng)
        assert wish.fits(kept)
        assert len(set(kept)) == len(kept) >= 1


def test_a_policy_is_shared_by_at_most_so_many_rows() -> None:
    pool = PolicyPool(CODES, share=3, shuffle=True)
    taken = [pool.take(PolicyWish(6), np.random.default_rng(seed)) for seed in range(7)]
    assert taken[:3] == [taken[0]] * 3
    assert taken[3:6] == [taken[3]] * 3
    assert len({taken[0], taken[3], taken[6]}) == 3


def test_shared_policies_leave_the_number_of_dropped_categories_as_drawn() -> None:
    alone, shared = PolicyPool(CODES, 1, shuffle=True), PolicyPool(CODES, 8, shuffle=True)
    sizes: list[Counter[int]] = [Counter(), Counter()]
    for seed in range(600):
        violated = frozenset({CODES[seed % 6]}) if seed % 2 else frozenset[str]()
        for pool, count in zip((alone, shared), sizes, strict=True):
            rng = np.random.default_rng(seed)
            (wish,) = draw_wishes(CODES, violated, paper(), rng)
            count[len(pool.take(wish, rng))] += 1
    assert sizes[0] == sizes[1]
