"""Batches hold everything once within their budget, and padding can be undone."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from corral.models.batching import pad, restore_order, token_budget_batches, unpad

lengths_lists = st.lists(st.integers(0, 40), max_size=40)
token_lists = st.lists(st.lists(st.integers(0, 9), max_size=6), min_size=1, max_size=6)


@given(lengths_lists, st.integers(1, 100), st.none() | st.integers(1, 5))
def test_batches_partition_the_indices_within_the_budget(lengths, budget, most):
    batches = token_budget_batches(lengths, budget, max_sequences=most)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or max(lengths[i] for i in batch) * len(batch) <= budget
        assert most is None or len(batch) <= most


@given(lengths_lists)
def test_batches_go_from_long_to_short_and_keep_the_order_of_ties(lengths):
    order = [index for batch in token_budget_batches(lengths, 50) for index in batch]
    assert order == sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))


def test_a_sequence_over_the_budget_goes_alone():
    assert token_budget_batches([3, 99, 2], 10) == [[1], [0, 2]]


@pytest.mark.parametrize("limits", [{"max_tokens": 0}, {"max_tokens": 5, "max_sequences": 0}])
def test_a_batch_that_could_hold_nothing_is_refused(limits):
    with pytest.raises(ValueError, match="hold something"):
        token_budget_batches([1], **limits)


@given(lengths_lists, st.integers(1, 60))
def test_results_return_to_the_order_of_the_input(lengths, budget):
    batches = token_budget_batches(lengths, budget)
    assert restore_order(batches, [[f"item {i}" for i in batch] for batch in batches]) == [
        f"item {i}" for i in range(len(lengths))
    ]


@given(token_lists, st.sampled_from(["left", "right"]))
def test_unpadding_gives_the_sequences_back(sequences, side):
    batch = pad(sequences, pad_id=7, side=side)
    rows = unpad(batch.input_ids_BT, [len(s) for s in sequences], side)
    assert [row.tolist() for row in rows] == sequences
    positions = unpad(batch.position_ids_BT, [len(s) for s in sequences], side)
    assert [row.tolist() for row in positions] == [list(range(len(s))) for s in sequences]
    assert batch.attention_mask_BT.sum(dim=1).tolist() == [len(s) for s in sequences]


def test_the_mask_and_not_the_pad_id_says_where_padding_is():
    batch = pad([[2, 2], [2]], pad_id=2, side="left")
    assert batch.input_ids_BT.tolist() == [[2, 2], [2, 2]]
    assert batch.attention_mask_BT.tolist() == [[1, 1], [0, 1]]
    assert batch.position_ids_BT.tolist() == [[0, 1], [0, 0]]
    assert batch.input_ids_BT.dtype == torch.long
