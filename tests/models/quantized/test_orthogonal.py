"""Random rotations are orthogonal, fast, and the same for a seed."""

from __future__ import annotations

import pytest
import torch

from corral.models.quantized.orthogonal import KroneckerOrthogonal, factor_sizes


@pytest.mark.parametrize(
    ("size", "factors"), [(576, (24, 24)), (1536, (32, 48)), (192, (24, 8)), (7, (7, 1)), (1, (1, 1))]
)
def test_sizes_are_split_by_their_prime_factors(size, factors):
    assert factor_sizes(size) == factors


@pytest.mark.parametrize("size", [1, 7, 24, 192])
def test_applying_is_a_multiplication_by_an_orthogonal_matrix(size):
    rotation = KroneckerOrthogonal.random(size, 3)
    matrix = rotation.apply(torch.eye(size)).t()  # column j is V e_j
    assert (matrix @ matrix.t() - torch.eye(size)).abs().max() < 1e-5
    rows = torch.randn(5, size, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(rotation.apply(rows), rows @ matrix.t(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(rotation.undo(rotation.apply(rows)), rows, atol=1e-5, rtol=1e-5)


def test_a_seed_gives_one_matrix():
    first, other = (KroneckerOrthogonal.random(24, seed).apply(torch.eye(24)) for seed in (1, 2))
    assert torch.equal(KroneckerOrthogonal.random(24, 1).apply(torch.eye(24)), first)
    assert not torch.equal(first, other)
