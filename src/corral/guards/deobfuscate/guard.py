"""A guard that judges a message by its worst reading.

It stands around any other guard: what that guard says of the message as written and of every other reading
(``readings``) is pooled by the maximum, so that a disguise can never lower a score. A message that hides nothing is
judged once. When any reading goes unanswered, so does the message. The verdict keeps what was said of each reading,
the text as written first, and names the one that decided; the text itself is in none of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from corral.data.messages import TARGETS, Conversation, Message, Target, TargetChoice, TextPart
from corral.guards.asking import ask, ask_both
from corral.guards.base import Guard, Verdict
from corral.guards.composition.base import ComposedGuard
from corral.guards.composition.verdict import ComposedVerdict, Part, first_failed, highest_answers
from corral.guards.deobfuscate.readings import readings

AS_WRITTEN: Final = "as written"
_VERSION: Final = 2
"""Raised whenever the readings of a text change."""


class DeobfuscatingGuard(ComposedGuard):
    """Reads codes and disguises before another guard judges.

    Args:
        guard: judges every reading.
        name: name of the whole; by default the part's with ``+decode``.
        part: name of the guard within it; by default its own.
    """

    def __init__(self, guard: Guard, *, name: str | None = None, part: str | None = None) -> None:
        inner = part or guard.name
        super().__init__((guard,), (inner,), kind="decode", name=name or f"{inner}+decode", settings=_VERSION)

    def classify(self, conversations: Sequence[Conversation], *, target: TargetChoice = "auto") -> list[Verdict]:
        """Judge each conversation; see ``Guard.classify``."""
        read = [_read(conversation, conversation.target(target)) for conversation in conversations]
        verdicts = iter(ask(self.guards[0], [each for some in read for each, _ in some], target=target))
        return [self._pooled([Part(self.part_names[0], next(verdicts), how) for _, how in some]) for some in read]

    def classify_both(self, conversations: Sequence[Conversation]) -> list[dict[Target, Verdict]]:
        """Judge prompt and response of each conversation, as written in one call; see ``Guard.classify_both``."""
        as_written = ask_both(self.guards[0], conversations)
        answers: list[dict[Target, Verdict]] = [{} for _ in conversations]
        for target in TARGETS:
            rows = [i for i, each in enumerate(conversations) if each.judged_index(target) is not None]
            others = [_read(conversations[i], target)[1:] for i in rows]
            verdicts = iter(ask(self.guards[0], [each for some in others for each, _ in some], target=target))
            for row, some in zip(rows, others, strict=True):
                parts = [Part(self.part_names[0], as_written[row][target])]
                parts += [Part(self.part_names[0], next(verdicts), how) for _, how in some]
                answers[row][target] = self._pooled(parts)
        return answers

    def _pooled(self, parts: Sequence[Part]) -> ComposedVerdict:
        if (failed := first_failed(parts)) is not None:
            return self._unanswered(failed, parts)
        verdicts = [part.verdict for part in parts]
        worst = max(parts, key=lambda part: (bool(part.verdict.flagged), part.verdict.p_harm or 0.0))
        decided_by = ", ".join(worst.form) or AS_WRITTEN
        return self._composed(worst.verdict, parts, **highest_answers(verdicts), decided_by=decided_by)


def _read(conversation: Conversation, target: Target) -> list[tuple[Conversation, tuple[str, ...]]]:
    """The conversation as it is, and with every other reading of its judged message, each with what was undone."""
    index = conversation.judged_index(target)
    if index is None:
        return [(conversation, ())]
    message = conversation.messages[index]
    before, after = conversation.messages[:index], conversation.messages[index + 1 :]
    return [
        (conversation, ()),
        *(
            (replace(conversation, messages=(*before, _saying(message, each.text), *after)), each.how)
            for each in readings(message.text)[1:]
        ),
    ]


def _saying(message: Message, text: str) -> Message:
    """The message with other words; parts that are not text stay."""
    rest = tuple(part for part in message.content if not isinstance(part, TextPart))
    return replace(message, content=(TextPart(text), *rest), tool_calls=())
