"""Products of any number of rows, computed in few numbers of them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from corral.models.packed.int8 import Int8Matrix, int8_is_exact
from corral.models.packed.matrices import Matrix, Rows, usual_count, with_usual_rows


@given(st.integers(1, 4096))
def test_a_usual_number_is_the_next_one(count: int) -> None:
    usual = usual_count(count)

    assert count <= usual < count + max(8, count // 4)
    assert usual_count(usual) == usual


def test_usual_numbers_are_few() -> None:
    assert len({usual_count(count) for count in range(1, 1025)}) == 8 + 12 + 12


def test_missing_rows_are_zeros() -> None:
    rows = torch.randn(5, 3)

    padded = with_usual_rows(rows)

    assert torch.equal(padded[:5], rows)
    assert torch.equal(padded[5:], torch.zeros(3, 3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [1, 7, 8, 65])
def test_products_are_those_of_the_rows_alone(rows: int, dtype: torch.dtype) -> None:
    gate, up = torch.randn(2, 48, 32).to(dtype)
    inputs = torch.randn(rows, 32).to(dtype)
    gate_matrix, up_matrix = Matrix(gate, reorder=True), Matrix(up, reorder=True)

    product = gate_matrix(Rows(inputs))
    gated = gate_matrix.gated(up_matrix, Rows(inputs))

    tolerance = {torch.float32: 1e-4, torch.bfloat16: 0.3}[dtype]
    expected = inputs.float() @ gate.float().t()
    assert product.shape == (rows, 48)
    torch.testing.assert_close(product.float(), expected, atol=tolerance, rtol=0.02)
    torch.testing.assert_close(
        gated.float(), F.silu(expected) * (inputs.float() @ up.float().t()), atol=tolerance, rtol=0.05
    )


@pytest.mark.skipif(not int8_is_exact(), reason="8-bit products saturate on this processor, or torch has none")
@pytest.mark.parametrize("rows", [1, 9, 100])
def test_products_in_8_bits_do_not_depend_on_how_many_rows_there_are(rows: int) -> None:
    matrix = Int8Matrix(torch.randn(48, 32))
    inputs = torch.randn(100, 32)

    some = matrix(matrix.prepare(inputs[:rows], inputs))

    assert torch.equal(some, matrix(matrix.prepare(inputs, inputs))[:rows])
