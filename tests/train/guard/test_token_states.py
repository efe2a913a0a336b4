"""Token states that a frozen trunk computes once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from corral.core.errors import RunError
from corral.train.guard import token_states as module
from corral.train.guard.classifier import EncodedRow
from corral.train.guard.token_states import cached_states


class Trunk:
    """A state is the token id and its place; counts the sequences that it reads."""

    def __init__(self) -> None:
        self.read = 0

    def __call__(self, sequences: Sequence[tuple[int, ...]]) -> torch.Tensor:
        self.read += len(sequences)
        states = torch.zeros(len(sequences), max(map(len, sequences)), 2)
        for i, ids in enumerate(sequences):
            states[i, : len(ids)] = torch.tensor([[token, place] for place, token in enumerate(ids)])
        return states


def rows(n: int = 7) -> list[EncodedRow]:
    return [EncodedRow(list(range(i, 2 * i + 3)), (1, i + 2), [1.0], []) for i in range(n)]


def test_each_row_gets_the_states_of_its_judged_message_in_order(tmp_path: Path) -> None:
    states = cached_states(Trunk(), rows(), tmp_path, revision="a", tokens_per_batch=12)
    for row, found in zip(rows(), states, strict=True):
        places = range(*row.span)
        assert found.dtype == torch.bfloat16
        assert found.tolist() == [[row.ids[place], place] for place in places]


def test_what_is_in_the_folder_is_not_computed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SHARD_ROWS", 3)
    first = cached_states(Trunk(), rows(), tmp_path, revision="a")
    (tmp_path / "states-00001.safetensors").unlink()
    trunk = Trunk()
    again = cached_states(trunk, rows(), tmp_path, revision="a")
    assert trunk.read == 3
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


@pytest.mark.parametrize(("revision", "count"), [("b", 7), ("a", 6)])
def test_states_of_another_trunk_or_of_other_rows_are_refused(tmp_path: Path, revision: str, count: int) -> None:
    cached_states(Trunk(), rows(), tmp_path, revision="a")
    with pytest.raises(RunError, match="other rows or of another trunk"):
        cached_states(Trunk(), rows(count), tmp_path, revision=revision)
