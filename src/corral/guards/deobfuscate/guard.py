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

from corral.core.files import sha256_json
from corral.data.messages import Conversation, Message, Target, TargetChoice, TextPart
from corral.guards.asking import ask
from corral.guards.base import Guard, Verdict
from corral.guards.composition.verdict import (
    ComposedVerdict,
    Part,
    composed,
    first_failed,
    highest,
    highest_categories,
    unanswered,
)
from corral.guards.deobfuscate.readings import readings

AS_WRITTEN: Final = "as written"
_VERSION: Final = 1
"""Raised whenever the readings of a text change."""


class DeobfuscatingGuard:
    """Reads codes and disguises before another guard judges.

    Args:
        guard: judges every reading.
        name: name of the whole; by default the guard's with ``+decode``.
    """

    def __init__(self, guard: Guard, *, name: str | None = None) -> None:
        self._guard = guard
        self._name = name or f"{guard.name}+decode"

    @property
    def parts(self) -> dict[str, Guard]:
        """The guard that judges every reading."""
        return {self._guard.name: self._guard}

    @property
    def name(self) -> str:
        """Name of the guard with ``+decode``, unless it was given another."""
        return self._name

    @property
    def revision(self) -> str:
        """Hash of the guard's revision and of how texts are read."""
        return sha256_json([self._guard.revision, _VERSION])[:16]

    @property
    def taxonomy(self) -> str:
        """Taxonomy of the guard."""
        return self._guard.taxonomy

    def classify(self, conversations: Sequence[Conversation], *, target: TargetChoice = "auto") -> list[Verdict]:
        """Judge each conversation; see ``Guard.classify``."""
        read = [_read(conversation, conversation.target(target)) for conversation in conversations]
        verdicts = iter(ask(self._guard, [each for some in read for each, _ in some], target=target))
        return [self._pooled([Part(self._guard.name, next(verdicts), how) for _, how in some]) for some in read]

    def classify_both(self, conversations: Sequence[Conversation]) -> list[dict[Target, Verdict]]:
        """Judge prompt and response of each conversation; see ``Guard.classify_both``."""
        both: tuple[Target, ...] = ("prompt", "response")
        answers: list[dict[Target, Verdict]] = [{} for _ in conversations]
        for target in both:
            rows = [i for i, each in enumerate(conversations) if each.judged_index(target) is not None]
            verdicts = self.classify([conversations[i] for i in rows], target=target)
            for row, verdict in zip(rows, verdicts, strict=True):
                answers[row][target] = verdict
        return answers

    def _pooled(self, parts: Sequence[Part]) -> ComposedVerdict:
        if (failed := first_failed(parts)) is not None:
            return unanswered(failed, parts, guard=self.name, revision=self.revision)
        verdicts = [part.verdict for part in parts]
        worst = max(parts, key=lambda part: (bool(part.verdict.flagged), part.verdict.p_harm or 0.0))
        open_ones = tuple(dict.fromkeys(question for verdict in verdicts for question in verdict.unanswered))
        return composed(
            worst.verdict,
            parts,
            guard=self.name,
            revision=self.revision,
            p_attack=None if "attack" in open_ones else highest(verdict.p_attack for verdict in verdicts),
            p_refusal=None if "refusal" in open_ones else highest(verdict.p_refusal for verdict in verdicts),
            categories=highest_categories(verdicts),
            unanswered=open_ones,
            decided_by=", ".join(worst.form) or AS_WRITTEN,
        )


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
