"""Token states of a frozen trunk, computed once and kept in a folder: what heads alone are trained on.

The trunk reads every row once however many epochs follow, and a run that was killed goes on with the shard it was at.
Kept in bfloat16: 1,152 bytes a token for a hidden size of 576.

Legend: T tokens of a judged message, D hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from corral.core.errors import RunError
from corral.core.files import atomic_path, atomic_write_json, read_json, sha256_json
from corral.core.progress import progress
from corral.models.batching import restore_order, token_budget_batches
from corral.train.guard.classifier import EncodedRow

_SHARD_ROWS: Final = 256
_ACCOUNT: Final = "states.json"

Trunk = Callable[[Sequence[tuple[int, ...]]], Tensor]
"""Hidden states (B, T, D) of token sequences, padded on the right."""


def cached_states(
    trunk: Trunk, rows: Sequence[EncodedRow], folder: Path, *, revision: str, tokens_per_batch: int = 2048
) -> list[Tensor]:
    """Token states (T, D), bfloat16, of the judged message of each row; only what ``folder`` lacks is computed.

    Args:
        trunk: reads token sequences.
        rows: encoded rows.
        folder: of the cache.
        revision: of the trunk; states of another one, or of other rows, are not used.
        tokens_per_batch: padded tokens that the trunk reads at once.

    Raises:
        RunError: the folder holds the states of other rows or of another trunk.
    """
    _check_account(folder, {"revision": revision, "rows_sha256": sha256_json([[row.ids, row.span] for row in rows])})
    states: list[Tensor] = []
    for start in progress(range(0, len(rows), _SHARD_ROWS), "Reading token states"):
        shard = rows[start : start + _SHARD_ROWS]
        path = folder / f"states-{start // _SHARD_ROWS:05d}.safetensors"
        if not path.is_file():
            computed = torch.cat(_states(trunk, shard, tokens_per_batch))
            with atomic_path(path) as staged:
                save_file({"states": computed}, staged)
        states += load_file(path)["states"].split([row.span[1] - row.span[0] for row in shard])
    return states


def _check_account(folder: Path, account: dict[str, str]) -> None:
    path = folder / _ACCOUNT
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        atomic_write_json(path, account)
    elif read_json(path) != account:
        raise RunError(
            "the token states are those of other rows or of another trunk",
            where=str(folder),
            hint="Delete the folder, or start a new run.",
        )


def _states(trunk: Trunk, rows: Sequence[EncodedRow], tokens_per_batch: int) -> list[Tensor]:
    batches = token_budget_batches([len(row.ids) for row in rows], tokens_per_batch)
    return restore_order(batches, [list(_judged(trunk, [rows[i] for i in batch])) for batch in batches])


def _judged(trunk: Trunk, rows: Sequence[EncodedRow]) -> Iterator[Tensor]:
    hidden_BTD = trunk([tuple(row.ids) for row in rows])
    for row, hidden_TD in zip(rows, hidden_BTD, strict=True):
        start, stop = row.span
        yield hidden_TD[start:stop].to("cpu", torch.bfloat16)
