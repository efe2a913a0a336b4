"""Rows of DOOR: of every triple a safe answer to learn and a harmful one to unlearn, after the same harmful start.

============  ==========================================  ==================================
kind          input                                       targets
============  ==========================================  ==================================
``help``      template(q) + r + end                       r + end
``refuse``    template(q) + start of h + space + r + end  r + end, to learn
``unlearn``   template(q) + h + end                       what follows the start, to unlearn
============  ==========================================  ==================================
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from corral.core.errors import DataError
from corral.data.examples import PreferenceExample
from corral.models.chat import ChatTokenizer
from corral.train.derta.rows import NO_ROOM, Example, OnReject, check_example, encode_seam, generator_of
from corral.train.door.settings import DoorConfig, HarmfulStartConfig
from corral.train.sft import IGNORED

Kind = Literal["help", "refuse", "unlearn"]
KINDS: Final[tuple[Kind, ...]] = ("help", "refuse", "unlearn")


@dataclass(frozen=True, slots=True)
class DoorRow:
    """Token ids of a row: what is read, and what is learnt or unlearnt after it.

    Attributes:
        kind: see the head of this file.
        read_ids: prompt and harmful start.
        target_ids: at least one.
    """

    kind: Kind
    read_ids: list[int]
    target_ids: list[int]

    @property
    def input_ids(self) -> list[int]:
        """All of them."""
        return [*self.read_ids, *self.target_ids]

    @property
    def labels(self) -> list[int]:
        """The targets in their places, ``IGNORED`` before."""
        return [*[IGNORED] * len(self.read_ids), *self.target_ids]


@dataclass(frozen=True)
class BuiltDoorRows:
    """All rows.

    Attributes:
        rows: to train on.
        used: the triples that both rows were made of, for the model that weighs.
        dropped: reason to the number of rows that were left out for it.
    """

    rows: tuple[DoorRow, ...]
    used: tuple[PreferenceExample, ...]
    dropped: Mapping[str, int]

    def account(self) -> dict[str, object]:
        """Rows and targets by kind, and what was dropped, as plain JSON values."""
        by_kind = {kind: [row for row in self.rows if row.kind == kind] for kind in KINDS}
        return {
            "rows": {kind: len(some) for kind, some in by_kind.items()},
            "targets": {kind: sum(len(row.target_ids) for row in some) for kind, some in by_kind.items()},
            "dropped": dict(self.dropped),
        }


def build_door_rows(
    examples: Sequence[tuple[str, Example]],
    chat: ChatTokenizer,
    config: DoorConfig,
    *,
    on_reject: OnReject | None = None,
) -> BuiltDoorRows:
    """Two rows of every triple, one of every help example, in order, cut at ``max_tokens``.

    Args:
        examples: each with where it is from; see ``derta.rows.build_rows``.
        chat: renders and tokenises.
        config: settings.
        on_reject: is told of examples that cannot be used; without it, the first one raises.

    Raises:
        DataError: an empty answer, two equal ones, or a template that leaves the assistant's turn out; names the
            example.
    """
    rows: list[DoorRow] = []
    used: list[PreferenceExample] = []
    dropped: Counter[str] = Counter()
    for number, (where, example) in enumerate(examples):
        try:
            check_example(example, chat, "chat")
        except DataError as error:
            error.where = where
            if on_reject is None:
                raise
            on_reject(where, error)
            continue
        made = list(_rows_of(number, example, chat, config))
        kept = [row for row in made if row.target_ids]
        dropped[NO_ROOM] += len(made) - len(kept)
        rows += kept
        if isinstance(example, PreferenceExample) and len(kept) == len(made):
            used.append(example)
    return BuiltDoorRows(tuple(rows), tuple(used), dict(+dropped))


def draw_start(tokens: int, config: HarmfulStartConfig, chance: np.random.Generator) -> int:
    """How many tokens of a harmful answer stand before both sides: none, or 1 to ``longest``; one is left to unlearn.

    Args:
        tokens: of the answer.
        config: see there.
        chance: of this triple.
    """
    most = min(config.longest, tokens - 1)
    return 0 if most < 1 or chance.random() < config.p_zero else int(chance.integers(1, most + 1))


def _rows_of(number: int, example: Example, chat: ChatTokenizer, config: DoorConfig) -> Iterator[DoorRow]:
    prompt = chat.encode_prompt(example.prompt)
    end = [int(chat.tokenizer.eos_token_id)]

    def row(kind: Kind, read: list[int], targets: list[int], *, complete: bool) -> DoorRow:
        whole = targets + end if complete else targets
        return DoorRow(kind, read[: config.max_tokens], whole[: max(config.max_tokens - len(read), 0)])

    if not isinstance(example, PreferenceExample):
        yield row("help", prompt, chat.encode_text(example.completion), complete=example.complete)
        return
    harmful, ends = chat.encode_text_with_ends(example.rejected)
    start = draw_start(len(harmful), config.start, generator_of(config.seed, f"door/{number}"))
    read, safe = encode_seam(example.rejected[: ends[start - 1]] if start else "", example.chosen, chat)
    yield row("refuse", [*prompt, *read], safe, complete=example.chosen_complete)
    yield row("unlearn", [*prompt, *harmful[:start]], harmful[start:], complete=example.rejected_complete)
