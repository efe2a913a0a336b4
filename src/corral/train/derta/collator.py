"""Batches of DeRTa's rows, in which transition rows keep a share of their places, drawn anew in every epoch.

What is kept depends on the seed, the epoch and the row's id alone, so that a resumed run draws the same places. Drawn
once when rows are built, 95 % dropout would be training on a fixed 5 %.

Legend: B rows, T tokens.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset, Sampler

from corral.train.derta.rows import KINDS, DertaRow, generator_of
from corral.train.derta.settings import TransitionConfig
from corral.train.sampler import TokenBudgetSampler
from corral.train.sft import IGNORED

EpochRow = tuple[int, DertaRow]
"""A row and the number of the epoch that it is seen in, from 0."""
KINDS_KEY: Final = "kinds"


class RowsByEpoch(Dataset[EpochRow]):
    """Rows under the keys (epoch, index), for the collator to know the epoch."""

    def __init__(self, rows: Sequence[DertaRow]) -> None:
        self._rows = rows

    def __getitem__(self, key: tuple[int, int]) -> EpochRow:
        epoch, index = key
        return epoch, self._rows[index]


class BatchesByEpoch(Sampler[list[tuple[int, int]]]):
    """The batches of a sampler, each index with its epoch."""

    def __init__(self, sampler: TokenBudgetSampler) -> None:
        self._sampler = sampler

    def __len__(self) -> int:
        return len(self._sampler)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for epoch, batch in self._sampler.by_epoch():
            yield [(epoch, index) for index in batch]


class DertaCollator:
    """Pads rows on the right and drops places of transition rows.

    Args:
        pad_id: fills ``input_ids``; padding is masked by place, never by id, since it may be the end-of-sequence token.
        config: which share of places is kept, and of what.
        seed: of the draws.
    """

    def __init__(self, pad_id: int, config: TransitionConfig, seed: int) -> None:
        self._pad_id = pad_id
        self._config = config
        self._seed = seed

    def __call__(self, rows: Sequence[EpochRow]) -> dict[str, Tensor]:
        """``input_ids``, ``attention_mask`` and ``labels``, each (B, T), and ``kinds`` (B,), indices into ``KINDS``."""
        width = max(len(row.input_ids) for _, row in rows)
        labels = [self.kept_labels(row, epoch, width) for epoch, row in rows]
        ids = [torch.tensor(row.input_ids) for _, row in rows]
        return {
            "input_ids": pad_sequence(ids, batch_first=True, padding_value=self._pad_id),
            "attention_mask": pad_sequence([torch.ones_like(each) for each in ids], batch_first=True),
            "labels": pad_sequence([torch.tensor(each) for each in labels], batch_first=True, padding_value=IGNORED),
            KINDS_KEY: torch.tensor([KINDS.index(row.kind) for _, row in rows]),
        }

    def kept_labels(self, row: DertaRow, epoch: int, width: int) -> list[int]:
        """Labels of a row in an epoch; at least one place of a transition row stays.

        Args:
            row: of any kind; only transition rows lose places.
            epoch: from 0.
            width: tokens of the padded row, of which ``keep_over: padded_row`` takes its share. The released code
                draws among prompt and padding too, and so may keep no target at all; ours then keeps one.
        """
        if row.kind != "rto" or self._config.keep_rate == 1.0:
            return row.labels
        chance = generator_of(self._seed, row.row_id, epoch)
        targets = np.flatnonzero(np.asarray(row.labels) != IGNORED)
        drawn_from = targets if self._config.keep_over == "response" else np.arange(width)
        count = max(1, math.ceil(len(drawn_from) * self._config.keep_rate))
        kept = np.intersect1d(chance.choice(drawn_from, size=count, replace=False), targets)
        if not len(kept):
            kept = chance.choice(targets, size=1)
        places = set(kept.tolist())
        return [label if place in places else IGNORED for place, label in enumerate(row.labels)]
