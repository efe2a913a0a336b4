"""Requests to measure with: lengths, no repeats, the same everywhere."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corral.bench.requests import benign_requests
from corral.core.errors import CorralError


@given(count=st.integers(1, 80), seed=st.integers(0, 9), bounds=st.tuples(st.integers(12, 40), st.integers(0, 60)))
def test_requests_are_distinct_and_of_the_lengths_asked_for(count: int, seed: int, bounds: tuple[int, int]) -> None:
    shortest, more = bounds
    texts = benign_requests(count, shortest=shortest, longest=shortest + more, seed=seed)
    assert len(set(texts)) == len(texts) == count
    assert all(shortest <= len(text.split()) <= shortest + more for text in texts)


def test_the_same_arguments_give_the_same_requests_and_another_seed_gives_others() -> None:
    assert benign_requests(20) == benign_requests(20)
    assert not set(benign_requests(20)) & set(benign_requests(20, seed=1))


def test_more_requests_begin_with_the_same_ones() -> None:
    assert benign_requests(30)[:10] == benign_requests(10)


@pytest.mark.parametrize("text", benign_requests(50))
def test_every_blank_of_a_pattern_is_filled(text: str) -> None:
    assert "{" not in text
    assert "}" not in text


def test_more_requests_than_there_are_is_an_error() -> None:
    with pytest.raises(CorralError, match="`200` different requests of 1 to 1 words"):
        benign_requests(200, shortest=1, longest=1)
