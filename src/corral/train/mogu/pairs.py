"""Instructions with an answer that complies and one that refuses: what MoGU learns from.

They come from a user's file, or from an engine's own answers to benign prompts beside refusals that we wrote. An answer
that complies with a malicious instruction is never a target here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from corral.core.errors import CorralError, DataError
from corral.data.messages import Conversation
from corral.data.readers import Row, read_rows
from corral.data.refusals import opens_with_refusal
from corral.data.self_written.replies import refusals
from corral.models.engines.base import Engine, GenerationSettings
from corral.models.engines.each import generate_each

if TYPE_CHECKING:
    from corral.data.examples import ModerationExample

_LABELS: Final = {0: False, 1: True}


@dataclass(frozen=True, slots=True)
class ResponsePair:
    """One instruction.

    Attributes:
        prompt: what is asked.
        malicious: whether it asks for harm.
        affirmative: an answer that complies, "" for none.
        rejecting: an answer that refuses, "" for none.
        affirmative_complete: false of an answer that was cut off, whose end is no end of a turn.
        where: names it in errors.
    """

    prompt: Conversation
    malicious: bool
    affirmative: str = ""
    rejecting: str = ""
    affirmative_complete: bool = True
    where: str = ""

    @property
    def desired(self) -> str:
        """The answer that the whole model is to give: a refusal if malicious, else the one that complies."""
        return self.rejecting if self.malicious else self.affirmative

    @property
    def desired_complete(self) -> bool:
        """Whether it ends its turn."""
        return self.malicious or self.affirmative_complete


def read_pairs(path: Path) -> list[ResponsePair]:
    """The pairs of a file with columns ``prompt``, ``label`` (1 malicious, 0 benign), ``affirmative``, ``rejecting``.

    Raises:
        NotFoundError: no such file.
        DataError: a malformed row: another label, no prompt, or a pair without the answer that its label needs; names
            file and line.
    """
    return [_from_row(row) for row in read_rows(path, strict=True)]


def answered_pairs(
    rows: Iterable[ModerationExample], engine: Engine, *, max_new_tokens: int, seed: int
) -> list[ResponsePair]:
    """Pairs of labelled prompts: a refusal of ours each, and the engine's own answer to the benign ones.

    A benign prompt that the engine refuses, or says nothing to, is left out.

    Args:
        rows: prompts with a label of harm.
        engine: the model that is to be trained, as a rule; greedy.
        max_new_tokens: of an answer.
        seed: of the choice of refusals.

    Raises:
        CorralError: the engine could not answer a prompt.
    """
    rows = list(rows)
    benign = [row for row in rows if not row.harmful]
    settings = GenerationSettings(max_new_tokens=max_new_tokens)
    answers = iter(generate_each(engine, [row.conversation for row in benign], settings))
    pairs = []
    for row in rows:
        codes = [code for code, holds in row.categories.items() if holds]
        refusal, where = refusals().draw(f"{seed}/{row.text}", codes), f"{row.source}/{row.id}"
        if row.harmful:
            pairs.append(ResponsePair(row.conversation, True, rejecting=refusal, where=where))
            continue
        answer = next(answers)
        if isinstance(answer, CorralError):
            raise answer
        text = answer.text.strip()
        if text and not opens_with_refusal(text):
            complete = answer.finish_reason == "stop"
            pairs.append(ResponsePair(row.conversation, False, text, refusal, complete, where))
    return pairs


def require_both_answers(pairs: Sequence[ResponsePair]) -> list[ResponsePair]:
    """The benign pairs, each of which must have both answers: what an expert is trained on.

    Raises:
        DataError: an answer is missing, or there is no benign pair.
    """
    benign = [pair for pair in pairs if not pair.malicious]
    if not benign:
        raise DataError("there is no benign instruction to train an expert on", where="pairs")
    for pair in benign:
        for side in ("affirmative", "rejecting"):
            if not getattr(pair, side):
                raise DataError(f"the pair has no `{side}` answer", where=pair.where or "pairs")
    return benign


def _from_row(row: Row) -> ResponsePair:
    label = row.value.get("label")
    if isinstance(label, str) and label.isdecimal():
        label = int(label)  # a CSV file has no numbers
    if isinstance(label, bool) or not isinstance(label, int) or label not in _LABELS:
        raise DataError(f"label is `{label}`", where=row.where, hint="Write 1 for malicious, 0 for benign.")
    prompt, affirmative, rejecting = (_text(row, column) for column in ("prompt", "affirmative", "rejecting"))
    if not prompt.strip():
        raise DataError("the row has no `prompt`", where=row.where)
    pair = ResponsePair(Conversation.user(prompt), _LABELS[label], affirmative, rejecting, where=row.where)
    if not pair.desired.strip():
        needed = "rejecting" if pair.malicious else "affirmative"
        raise DataError(f"the pair has no `{needed}` answer", where=row.where)
    return pair


def _text(row: Row, column: str) -> str:
    value = row.value.get(column)
    if value is not None and not isinstance(value, str):
        raise DataError(f"`{column}` is of type {type(value).__name__}", where=row.where)
    return value or ""
