"""Packed rows equal separate rows: logits, loss and gradients; every row is planned once an epoch."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from corral.core.errors import ConfigError
from corral.models.loading import load_causal_lm
from corral.train.guard.packing import EncodedRow, Group, pack, plan_sequences, shared_lengths
from corral.train.guard.prompted import PromptedNetwork


def row(policy: str, beginning: list[int], rest: list[int], scored: int = 2) -> EncodedRow:
    ids = (*beginning, *rest)
    return EncodedRow(ids, tuple(range(len(ids) - scored, len(ids))), policy)


ROWS = [
    row("a", list(range(20, 40)), [1, 2, 3, 4, 5]),
    row("a", list(range(20, 40)), [9, 8, 7, 6, 5, 4, 3], scored=3),
    row("a", list(range(20, 40)), [9, 2]),
    row("b", list(range(60, 75)), [11, 12, 13, 14]),
    row("b", list(range(60, 75)), [15, 12, 13, 14, 16, 17]),
    row("c", [77], [100, 101, 102]),
]
GROUPS = (Group(19, (1, 0, 2)), Group(15, (4, 3)), Group(0, (5,)))


def gradients(model: Any) -> dict[str, torch.Tensor]:
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def separate_logits(reference: Any, row: EncodedRow) -> torch.Tensor:
    """Brute force: the library's own forward pass over one row, causal and from position 0."""
    logits = reference(input_ids=torch.tensor([row.ids])).logits[0]
    return logits[torch.tensor(row.scored) - 1]


def test_logits_loss_and_gradients_equal_those_of_separate_rows(tiny_base: Path) -> None:
    order = [1, 0, 2, 4, 3, 5]
    reference = load_causal_lm(tiny_base, dtype=torch.float32)
    network = PromptedNetwork(load_causal_lm(tiny_base, dtype=torch.float32))
    expected = torch.cat([separate_logits(reference, ROWS[index]) for index in order])
    labels = torch.tensor([ROWS[index].ids[position] for index in order for position in ROWS[index].scored])
    expected_loss = F.cross_entropy(expected, labels, reduction="sum")
    expected_loss.backward()
    expected_gradients = gradients(reference)

    batch = pack(ROWS, GROUPS)
    logits = network(batch)
    loss = F.cross_entropy(logits, batch["labels"], reduction="sum")
    loss.backward()

    assert torch.equal(batch["labels"], labels)
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(loss, expected_loss, atol=1e-5, rtol=1e-5)
    found = gradients(network.model)
    assert found.keys() == expected_gradients.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected_gradients[name], atol=1e-5, rtol=1e-5, msg=name)


def test_shared_tokens_are_in_a_sequence_once() -> None:
    batch = pack(ROWS, GROUPS[:1])
    lengths = [len(ROWS[index].ids) for index in GROUPS[0].rows]
    assert batch["input_ids"].numel() == 19 + sum(length - 19 for length in lengths)
    assert batch["position_ids"][0, :19].tolist() == list(range(19))
    assert batch["position_ids"][0, 19 : lengths[0]].tolist() == list(range(19, lengths[0]))
    assert batch["position_ids"][0, lengths[0]].item() == 19


def test_the_shared_beginning_is_computed_and_stops_before_what_is_scored() -> None:
    same = EncodedRow((1, 2, 3, 4, 5), (3, 4), "same")
    other = EncodedRow((1, 2, 3, 4, 6), (3, 4), "same")
    assert shared_lengths([same, other])["same"] == 2
    assert shared_lengths(ROWS) == {"a": 19, "b": 15, "c": 1}


@st.composite
def encoded_rows(draw: Any) -> list[EncodedRow]:
    made = []
    for _ in range(draw(st.integers(1, 25))):
        policy = draw(st.sampled_from("abc"))
        prefix = {"a": [1] * 10, "b": [2] * 4, "c": []}[policy]
        rest = draw(st.lists(st.integers(3, 9), min_size=2, max_size=20))
        made.append(row(policy, prefix, rest, scored=1))
    return made


@given(rows=encoded_rows(), epochs=st.integers(1, 2), seed=st.integers(0, 3))
def test_every_row_is_planned_once_an_epoch_within_the_budget(rows: list[EncodedRow], epochs: int, seed: int) -> None:
    plan = plan_sequences(rows, max_tokens=40, epochs=epochs, seed=seed)
    planned = Counter(index for sequence in plan for group in sequence for index in group.rows)
    assert planned == dict.fromkeys(range(len(rows)), epochs)
    for sequence in plan:
        assert pack(rows, sequence)["input_ids"].numel() <= 40
        for group in sequence:
            beginnings = {(rows[i].policy, rows[i].ids[: group.shared]) for i in group.rows}
            assert len(beginnings) == 1
    assert plan == plan_sequences(rows, max_tokens=40, epochs=epochs, seed=seed)


def test_short_groups_share_a_sequence() -> None:
    rows = [row(str(i), [i, i], [200, 201, 202]) for i in range(8)]
    assert len(plan_sequences(rows, max_tokens=20, epochs=1, seed=0)) == 2


def test_a_row_longer_than_a_sequence_is_refused() -> None:
    with pytest.raises(ConfigError, match="a row has 27 tokens"):
        plan_sequences(ROWS, max_tokens=24 - 4, epochs=1, seed=0)
