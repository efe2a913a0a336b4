"""Batches of similar length under a token budget, the same on every run and after every resume."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from corral.core.errors import ConfigError


class TokenBudgetSampler:
    """Yields lists of row indices; rows of a batch have similar lengths, padded size stays within the budget.

    Rows are shuffled, cut into pools, sorted by length inside a pool, cut into batches, and the batches shuffled. All
    epochs are one pass, so that a resumed run only has to skip batches.

    Args:
        lengths: tokens of each row.
        max_tokens: longest row of a batch times its number of rows stays at or below this.
        epochs: passes over the rows; each has its own order.
        seed: of the order.
        max_rows: of a batch, at the most; ``None`` for no limit but the tokens.
        pool: rows that are sorted together.

    Attributes:
        max_tokens: as given.

    Raises:
        ConfigError: a row is longer than the budget, or there is no row.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        *,
        max_tokens: int,
        epochs: int,
        seed: int,
        max_rows: int | None = None,
        pool: int = 2048,
    ) -> None:
        if not lengths:
            raise ConfigError("there are no training rows")
        if max(lengths) > max_tokens:
            raise ConfigError(f"a row has {max(lengths)} tokens, the budget of a batch is {max_tokens}")
        self.max_tokens = max_tokens
        self._batches = [
            (epoch, batch)
            for epoch in range(epochs)
            for batch in _epoch(np.asarray(lengths), max_tokens, max_rows, np.random.default_rng([seed, epoch]), pool)
        ]

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[list[int]]:
        for _, batch in self._batches:
            yield batch

    def by_epoch(self) -> Iterator[tuple[int, list[int]]]:
        """The same batches, each with the number of its epoch, from 0."""
        yield from self._batches


def _epoch(
    lengths: np.ndarray, max_tokens: int, max_rows: int | None, rng: np.random.Generator, pool: int
) -> list[list[int]]:
    order = rng.permutation(len(lengths))
    batches: list[list[int]] = []
    for start in range(0, len(order), pool):
        chunk = order[start : start + pool]
        batch: list[int] = []
        for row in chunk[np.argsort(lengths[chunk], kind="stable")]:
            too_many = max_rows is not None and len(batch) == max_rows
            if batch and (too_many or (len(batch) + 1) * int(lengths[row]) > max_tokens):
                batches.append(batch)
                batch = []
            batch.append(int(row))
        batches.append(batch)
    return [batches[i] for i in rng.permutation(len(batches))]
