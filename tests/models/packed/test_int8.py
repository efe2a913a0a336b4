"""Products in 8-bit integers are those of whole numbers, and a row's outcome is its own."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from corral.models.packed.int8 import GatedInt8Matrix, Int8Matrix, int8_is_exact, quantise

quick = settings(max_examples=30, deadline=None)
exact = pytest.mark.skipif(not int8_is_exact(), reason="no exact 8-bit products on this machine")
NO_ROOM = torch.empty(0)


def rounded(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Each row as whole numbers of at most 127 and their unit, in float64, by the definition."""
    unit = values.double().abs().amax(-1, keepdim=True) / 127
    return (values.double() / unit).round(), unit


def brute_force(inputs: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """The product of the whole numbers, summed as int64, in its unit."""
    inputs_whole, inputs_unit = rounded(inputs)
    weight_whole, weight_unit = rounded(weight)
    return (inputs_whole.long() @ weight_whole.long().t()).double() * inputs_unit * weight_unit.t()


def drawn(rows: int, columns: int, *, seed: int, spread: float = 1.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, columns, generator=generator) * spread


@exact
@given(rows=st.integers(1, 70), inputs=st.integers(1, 200), outputs=st.integers(1, 90), seed=st.integers(0, 99))
@quick
def test_a_product_is_that_of_whole_numbers(rows: int, inputs: int, outputs: int, seed: int) -> None:
    given_rows, weight = drawn(rows, inputs, seed=seed, spread=30.0), drawn(outputs, inputs, seed=seed + 1, spread=0.02)
    matrix = Int8Matrix(weight)
    product = matrix(matrix.prepare(given_rows, NO_ROOM))
    expected = brute_force(given_rows, weight)
    # float32 scales: a value on the border of two whole numbers may go to either, which is rare.
    difference = (product.double() - expected).abs() / expected.abs().amax().clamp_min(1e-30)
    assert float(difference.median()) < 1e-6
    assert float(difference.amax()) < 0.01


@exact
def test_sums_of_the_largest_values_do_not_saturate() -> None:
    weight = torch.full((64, 1536), 0.5)
    weight[1::2] = -0.5
    matrix = Int8Matrix(weight)
    product = matrix(matrix.prepare(torch.full((48, 1536), 2.0), NO_ROOM))
    torch.testing.assert_close(product, torch.full((48, 1536), 2.0) @ weight.t(), rtol=1e-5, atol=0.0)


@exact
@given(st.integers(1, 40), st.integers(0, 99))
@quick
def test_a_row_alone_gives_what_it_gives_among_others(rows: int, seed: int) -> None:
    inputs, matrix = drawn(rows, 96, seed=seed), Int8Matrix(drawn(80, 96, seed=seed + 1))
    together = matrix(matrix.prepare(inputs, NO_ROOM))
    for row in range(0, rows, 7):
        alone = matrix(matrix.prepare(inputs[row : row + 1], NO_ROOM))
        assert torch.equal(alone, together[row : row + 1])


@exact
def test_a_gated_product_is_the_activation_of_one_times_the_other() -> None:
    gate, up = drawn(32, 48, seed=1), drawn(32, 48, seed=2)
    both = GatedInt8Matrix(Int8Matrix(torch.cat([gate, up])))
    rows = both.prepare(drawn(5, 48, seed=3), NO_ROOM)
    torch.testing.assert_close(both(rows), F.silu(Int8Matrix(gate)(rows)) * Int8Matrix(up)(rows))


@exact
def test_a_product_is_added_in_place() -> None:
    matrix, sums = Int8Matrix(drawn(32, 48, seed=1)), drawn(5, 32, seed=2)
    rows = matrix.prepare(drawn(5, 48, seed=3), NO_ROOM)
    expected = sums + matrix(rows)
    matrix.add_to(sums, rows, NO_ROOM)
    torch.testing.assert_close(sums, expected)


@exact
@given(inputs=st.integers(1, 100), seed=st.integers(0, 99))
@quick
def test_mixed_inputs_give_the_same_product_and_one_large_input_spoils_it_less(inputs: int, seed: int) -> None:
    given_rows, weight = drawn(6, inputs, seed=seed), drawn(20, inputs, seed=seed + 1)
    mixed = Int8Matrix(weight, mix=True)
    exactly = given_rows @ weight.t()
    torch.testing.assert_close(mixed(mixed.prepare(given_rows, NO_ROOM)), exactly, atol=0.5, rtol=0.05)
    if inputs % 16 == 0:
        given_rows[:, 3] = 400.0
        exactly, plain = given_rows @ weight.t(), Int8Matrix(weight)
        errors = [float((each(each.prepare(given_rows, NO_ROOM)) - exactly).norm()) for each in (mixed, plain)]
        assert errors[0] < errors[1]


@given(st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=64))
@quick
def test_bytes_are_the_nearest_whole_numbers_of_a_127th_of_the_largest(values: list[float]) -> None:
    row = torch.tensor([values])
    rows = quantise(row)
    assert rows.scales_N1 is not None
    back = (rows.values.float() - 128) * rows.scales_N1
    # Half a unit away at the most, and a hair for the division in float32.
    assert bool(((back - row).abs() <= 0.5001 * rows.scales_N1).all())
    assert int(rows.values.max()) <= 255
    assert int(rows.values.min()) >= 1


@exact
def test_a_row_of_zeros_gives_zeros_and_one_that_is_no_number_gives_none() -> None:
    matrix = Int8Matrix(drawn(16, 24, seed=0))
    inputs = torch.zeros(2, 24)
    inputs[1, 3] = torch.nan
    product = matrix(matrix.prepare(inputs, NO_ROOM))
    assert not product[0].any()
    assert bool(product[1].isnan().all())
