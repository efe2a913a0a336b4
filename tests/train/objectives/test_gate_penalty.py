"""The penalty on the gates: golden values are a loop over layers and real tokens."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from corral.train.objectives.gate_penalty import gate_penalty


def by_hand(
    unwill: torch.Tensor, glad: torch.Tensor, malicious: list[int], mask: torch.Tensor, norm: str
) -> list[float]:
    rows = []
    for row, y in enumerate(malicious):
        values = []
        for layer in range(len(unwill)):
            for token in range(mask.shape[1]):
                if mask[row, token]:
                    off = [unwill[layer, row, token].item() - y, glad[layer, row, token].item() - (1 - y)]
                    values.append(sum(each**2 if norm == "l2" else abs(each) for each in off))
        rows.append(sum(values) / len(values))
    return rows


@pytest.mark.parametrize("norm", ["l2", "l1"])
@given(layers=st.integers(1, 3), lengths=st.lists(st.integers(1, 5), min_size=1, max_size=4), seed=st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_it_equals_a_loop_over_layers_and_real_tokens(norm: str, layers: int, lengths: list[int], seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    shape = (layers, len(lengths), max(lengths))
    unwill, glad = (torch.rand(shape, generator=random) for _ in range(2))
    mask = torch.arange(max(lengths)) >= max(lengths) - torch.tensor(lengths)[:, None]
    malicious = torch.randint(2, (len(lengths),), generator=random)
    found = gate_penalty(unwill, glad, malicious.float(), mask, norm=norm)  # type: ignore[arg-type]
    assert found.tolist() == pytest.approx(by_hand(unwill, glad, malicious.tolist(), mask, norm), abs=1e-5)


def test_it_is_zero_where_the_gates_say_what_the_label_says() -> None:
    unwill = torch.tensor([[[1.0, 1.0], [0.0, 0.0]]])
    mask = torch.ones(2, 2, dtype=torch.bool)
    assert gate_penalty(unwill, 1 - unwill, torch.tensor([1.0, 0.0]), mask).tolist() == [0.0, 0.0]
    assert gate_penalty(unwill, 1 - unwill, torch.tensor([0.0, 1.0]), mask).tolist() == [2.0, 2.0]
