"""Rows of token ids, and batches of them, padded on the left so that answers end together.

Legend: B rows, T tokens, R tokens of the longest answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from corral.models.batching import pad
from corral.models.chat import ChatTokenizer
from corral.train.fine_tuning import encode_pair
from corral.train.mogu.pairs import ResponsePair


@dataclass(frozen=True, slots=True)
class RatioRow:
    """A prompt with the answer to learn and the one to avoid."""

    prompt_ids: list[int]
    learnt_ids: list[int]
    avoided_ids: list[int]

    @property
    def tokens(self) -> int:
        """What the row takes of a batch, which holds both answers, padded to the longer one."""
        return 2 * (len(self.prompt_ids) + max(len(self.learnt_ids), len(self.avoided_ids)))


@dataclass(frozen=True, slots=True)
class RouterRow:
    """A prompt with the desired answer."""

    prompt_ids: list[int]
    answer_ids: list[int]
    malicious: bool

    @property
    def tokens(self) -> int:
        """What the row takes of a batch."""
        return len(self.prompt_ids) + len(self.answer_ids)


@dataclass(frozen=True, slots=True)
class AnswerBatch:
    """Prompts with answers as a model reads them.

    Attributes:
        input_ids_BT: padded on the left.
        attention_mask_BT: 1 on real tokens.
        position_ids_BT: each row counted from 0.
        targets_BR: the last R tokens of each row.
        answer_mask_BR: true on those that belong to the answer.
    """

    input_ids_BT: Tensor
    attention_mask_BT: Tensor
    position_ids_BT: Tensor
    targets_BR: Tensor
    answer_mask_BR: Tensor

    def to_json(self) -> dict[str, Tensor]:
        """As the keyword arguments that a trainer's batch is made of."""
        return {name: getattr(self, name) for name in self.__slots__}


def answer_batch(pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> AnswerBatch:
    """Prompts and answers, each of at least one token, as one batch."""
    padded = pad([[*prompt, *answer] for prompt, answer in pairs], side="left")
    longest = max(len(answer) for _, answer in pairs)
    mask_BR = torch.zeros(len(pairs), longest, dtype=torch.bool)
    for row, (_, answer) in enumerate(pairs):
        mask_BR[row, longest - len(answer) :] = True
    return AnswerBatch(*padded, padded.input_ids_BT[:, -longest:], mask_BR)


def encode_ratio_rows(
    pairs: Sequence[ResponsePair], chat: ChatTokenizer, *, learn: str, max_tokens: int
) -> list[RatioRow]:
    """Rows of pairs with both answers, in order.

    Args:
        pairs: as ``require_both_answers`` gives them.
        chat: renders and tokenises.
        learn: ``rejecting`` or ``affirmative``; the other is avoided.
        max_tokens: of a prompt and an answer.

    Raises:
        DataError: see ``fine_tuning.encode_pair``.
    """
    rows = []
    for pair in pairs:
        sides = {
            "affirmative": encode_pair(
                pair.prompt,
                pair.affirmative,
                chat,
                complete=pair.affirmative_complete,
                max_tokens=max_tokens,
                where=pair.where,
            ),
            "rejecting": encode_pair(
                pair.prompt, pair.rejecting, chat, complete=True, max_tokens=max_tokens, where=pair.where
            ),
        }
        prompt, learnt = sides.pop(learn)
        ((_, avoided),) = sides.values()
        rows.append(RatioRow(prompt, learnt, avoided))
    return rows


def encode_router_rows(pairs: Sequence[ResponsePair], chat: ChatTokenizer, *, max_tokens: int) -> list[RouterRow]:
    """Rows with the desired answer, in order.

    Raises:
        DataError: see ``fine_tuning.encode_pair``.
    """
    rows = []
    for pair in pairs:
        prompt, answer = encode_pair(
            pair.prompt,
            pair.desired,
            chat,
            complete=pair.desired_complete,
            max_tokens=max_tokens,
            where=pair.where,
        )
        rows.append(RouterRow(prompt, answer, pair.malicious))
    return rows


def collate_ratio(rows: Sequence[RatioRow]) -> dict[str, Tensor]:
    """The learnt answers of all rows, then the avoided ones."""
    learnt = [(row.prompt_ids, row.learnt_ids) for row in rows]
    return answer_batch([*learnt, *((row.prompt_ids, row.avoided_ids) for row in rows)]).to_json()


def collate_router(rows: Sequence[RouterRow]) -> dict[str, Tensor]:
    """Prompts with desired answers, and ``malicious_B``."""
    batch = answer_batch([(row.prompt_ids, row.answer_ids) for row in rows])
    return {**batch.to_json(), "malicious_B": torch.tensor([float(row.malicious) for row in rows])}
