"""Random orthogonal matrices that are fast to multiply by: a Kronecker product between two permutations.

QuIP (arXiv 2307.13304), section 4: an n x n matrix V = P2 (O1 kron O2) P1 with O1 (p x p) and O2 (q x q), p q = n,
costs n (p + q) multiplications a vector instead of n^2, and is known by its seed.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import prod

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class KroneckerOrthogonal:
    """V = P2 (O1 kron O2) P1.

    Attributes:
        first: permutation P1: element i of what the factors see is element ``first[i]`` of the input.
        left: O1 (p, p), float32.
        right: O2 (q, q), float32.
        last: permutation P2, likewise of the output.
    """

    first: Tensor
    left: Tensor
    right: Tensor
    last: Tensor

    @classmethod
    def random(cls, size: int, seed: int) -> KroneckerOrthogonal:
        """The matrix of a size and seed: always the same, to the rounding of a QR factorisation in float64."""
        return _random(size, seed)

    def apply(self, rows_Rn: Tensor) -> Tensor:
        """V x for every row x (R, n), which is the matrix of rows times V^T."""
        p, q = len(self.left), len(self.right)
        grid = rows_Rn[:, self.first].reshape(-1, p, q)
        return (self.left @ grid @ self.right.t()).reshape(len(rows_Rn), -1)[:, self.last]

    def undo(self, rows_Rn: Tensor) -> Tensor:
        """V^T x for every row x (R, n): the inverse of ``apply``."""
        p, q = len(self.left), len(self.right)
        grid = rows_Rn[:, self.last.argsort()].reshape(-1, p, q)
        return (self.left.t() @ grid @ self.right).reshape(len(rows_Rn), -1)[:, self.first.argsort()]

    def to(self, device: torch.device) -> KroneckerOrthogonal:
        """The same on another device."""
        return KroneckerOrthogonal(*(part.to(device) for part in (self.first, self.left, self.right, self.last)))


def factor_sizes(size: int) -> tuple[int, int]:
    """p and q with p q = size: the products of the even-indexed and of the odd-indexed prime factors, ascending.

    For example 24 x 24 for 576, 32 x 48 for 1536 and 24 x 8 for 192; a prime gives itself and 1.
    """
    primes = []
    rest, divisor = size, 2
    while divisor * divisor <= rest:
        while rest % divisor == 0:
            primes.append(divisor)
            rest //= divisor
        divisor += 1
    if rest > 1:
        primes.append(rest)
    return prod(primes[::2]), prod(primes[1::2])


@lru_cache(maxsize=16)
def _random(size: int, seed: int) -> KroneckerOrthogonal:
    generator = torch.Generator().manual_seed(seed)
    p, q = factor_sizes(size)
    return KroneckerOrthogonal(
        first=torch.randperm(size, generator=generator),
        left=_orthogonal(p, generator),
        right=_orthogonal(q, generator),
        last=torch.randperm(size, generator=generator),
    )


def _orthogonal(size: int, generator: torch.Generator) -> Tensor:
    """Uniformly distributed: the QR factor of a Gaussian matrix, signs fixed by the diagonal of R."""
    q, r = torch.linalg.qr(torch.randn(size, size, dtype=torch.float64, generator=generator))
    factor: Tensor = (q * r.diagonal().sign()).float()
    return factor
