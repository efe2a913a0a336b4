"""A guard that judges a message by its worst reading.

It stands around any other guard: what that guard says of the message as written and of every other reading
(``readings``) is pooled by the maximum, so that a disguise can never lower a score. A message that hides nothing is
judged once. When any reading goes unanswered, so does the message.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from corral.core.files import sha256_json
from corral.data.messages import Conversation, Message, Target, TargetChoice, TextPart
from corral.guards.base import Guard, Status, Verdict
from corral.guards.deobfuscate.readings import readings

_VERSION: Final = 1
"""Raised whenever the readings of a text change."""


class DeobfuscatingGuard:
    """Reads codes and disguises before another guard judges.

    Args:
        guard: judges every reading.
    """

    def __init__(self, guard: Guard) -> None:
        self._guard = guard

    @property
    def name(self) -> str:
        """Name of the guard with ``+decode``."""
        return f"{self._guard.name}+decode"

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
        chosen = [conversation.target(target) for conversation in conversations]
        read = [_read(conversation, which) for conversation, which in zip(conversations, chosen, strict=True)]
        verdicts = iter(self._guard.classify([each for some in read for each in some], target=target))
        return [self._pooled([next(verdicts) for _ in some]) for some in read]

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

    def _pooled(self, verdicts: Sequence[Verdict]) -> Verdict:
        unanswered = next((verdict for verdict in verdicts if verdict.status is not Status.OK), None)
        worst = unanswered or max(verdicts, key=lambda verdict: (bool(verdict.flagged), verdict.p_harm or 0.0))
        pooled = replace(
            worst,
            guard=self.name,
            revision=self.revision,
            windows=sum(verdict.windows for verdict in verdicts),
            latency_ms=sum(verdict.latency_ms for verdict in verdicts),
        )
        if unanswered is not None:
            return pooled
        return replace(
            pooled,
            p_attack=_highest([verdict.p_attack for verdict in verdicts]),
            p_refusal=_highest([verdict.p_refusal for verdict in verdicts]),
            categories={
                code: max(verdict.categories.get(code, 0.0) for verdict in verdicts)
                for code in dict.fromkeys(code for verdict in verdicts for code in verdict.categories)
            },
        )


def _read(conversation: Conversation, target: Target) -> list[Conversation]:
    """The conversation as it is, and with every other reading of its judged message."""
    index = conversation.judged_index(target)
    if index is None:
        return [conversation]
    message = conversation.messages[index]
    before, after = conversation.messages[:index], conversation.messages[index + 1 :]
    others = readings(message.text)[1:]
    return [
        conversation,
        *(replace(conversation, messages=(*before, _saying(message, each.text), *after)) for each in others),
    ]


def _saying(message: Message, text: str) -> Message:
    """The message with other words; parts that are not text stay."""
    rest = tuple(part for part in message.content if not isinstance(part, TextPart))
    return replace(message, content=(TextPart(text), *rest), tool_calls=())


def _highest(scores: Sequence[float | None]) -> float | None:
    known = [score for score in scores if score is not None]
    return max(known, default=None)
