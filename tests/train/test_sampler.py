"""Batches under a token budget: every row once an epoch, the same order every time."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corral.core.errors import ConfigError
from corral.train.sampler import TokenBudgetSampler


@given(
    lengths=st.lists(st.integers(1, 50), min_size=1, max_size=60),
    budget=st.integers(50, 200),
    epochs=st.integers(1, 3),
    pool=st.integers(1, 70),
)
def test_every_row_comes_once_an_epoch_within_the_budget(
    lengths: list[int], budget: int, epochs: int, pool: int
) -> None:
    batches = list(TokenBudgetSampler(lengths, max_tokens=budget, epochs=epochs, seed=3, pool=pool))
    assert Counter(row for batch in batches for row in batch) == Counter(dict.fromkeys(range(len(lengths)), epochs))
    assert all(len(batch) * max(lengths[row] for row in batch) <= budget for batch in batches)


def test_the_seed_sets_the_order() -> None:
    lengths = [1 + i % 17 for i in range(100)]
    first = list(TokenBudgetSampler(lengths, max_tokens=64, epochs=2, seed=0))
    assert first == list(TokenBudgetSampler(lengths, max_tokens=64, epochs=2, seed=0))
    assert first != list(TokenBudgetSampler(lengths, max_tokens=64, epochs=2, seed=1))


def test_a_row_over_the_budget_is_refused() -> None:
    with pytest.raises(ConfigError, match="a row has 65 tokens"):
        TokenBudgetSampler([3, 65], max_tokens=64, epochs=1, seed=0)


def test_no_rows_are_refused() -> None:
    with pytest.raises(ConfigError, match="no training rows"):
        TokenBudgetSampler([], max_tokens=64, epochs=1, seed=0)


def test_a_limit_of_rows_holds_beside_the_tokens() -> None:
    batches = list(TokenBudgetSampler([3, 5, 2, 9, 4], max_tokens=100, max_rows=2, epochs=1, seed=0))
    assert sorted(map(len, batches)) == [1, 2, 2]
    assert sorted(row for batch in batches for row in batch) == [0, 1, 2, 3, 4]
    assert {len(batch) for batch in TokenBudgetSampler([3] * 5, max_tokens=100, max_rows=1, epochs=1, seed=0)} == {1}
