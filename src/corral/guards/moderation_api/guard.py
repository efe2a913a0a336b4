"""A guard of text behind a moderation endpoint, hosted or of another Corral server."""

from __future__ import annotations

import time
from collections.abc import Sequence

from corral.data.messages import Conversation, Target, TargetChoice
from corral.guards.asking import present_targets
from corral.guards.base import Status, Verdict
from corral.guards.limits import MAX_CHARS, unreadable
from corral.guards.moderation_api.client import TAXONOMY, Moderation, ModerationClient, NoModeration


class ModerationApiGuard:
    """Judges each message by itself: the endpoint is shown no other turn, and not who said it.

    A hosted model may change behind its name. The revision holds the address and the name alone, so keep the date with
    any figure. Of another Corral server the decision of its policy is taken, in shadow mode too; where its guards gave
    no verdict, neither does this one.

    Args:
        client: of the endpoint.
        max_chars: longest judged message.
        name: of the guard.
    """

    taxonomy = TAXONOMY

    def __init__(self, client: ModerationClient, *, max_chars: int = MAX_CHARS, name: str = "moderation-api") -> None:
        self.name = name
        self._client = client
        self._max_chars = max_chars
        self.revision = client.revision

    @staticmethod
    def load(*, base_url: str, model: str = "", max_chars: int = MAX_CHARS) -> ModerationApiGuard:
        """The guard of ``model`` at ``base_url``; see ``ModerationClient``."""
        return ModerationApiGuard(ModerationClient(base_url, model), max_chars=max_chars)

    def classify(self, conversations: Sequence[Conversation], *, target: TargetChoice = "auto") -> list[Verdict]:
        """Judge each conversation; see ``Guard.classify``."""
        return self._judge([(conversation, conversation.target(target)) for conversation in conversations])

    def classify_both(self, conversations: Sequence[Conversation]) -> list[dict[Target, Verdict]]:
        """Judge prompt and response of each conversation; see ``Guard.classify_both``."""
        places = [(i, target) for i, each in enumerate(conversations) for target in present_targets(each)]
        found: list[dict[Target, Verdict]] = [{} for _ in conversations]
        for (i, target), verdict in zip(places, self._judge([(conversations[i], t) for i, t in places]), strict=True):
            found[i][target] = verdict
        return found

    def _judge(self, asked: Sequence[tuple[Conversation, Target]]) -> list[Verdict]:
        reasons = [unreadable(conversation, target, max_chars=self._max_chars) for conversation, target in asked]
        texts = [_judged_text(*pair) for pair, reason in zip(asked, reasons, strict=True) if reason is None]
        started = time.perf_counter()
        answers = iter(self._client.ask(texts))
        each_ms = 1e3 * (time.perf_counter() - started) / max(len(texts), 1)
        return [
            self._verdict(target, next(answers), each_ms) if reason is None else self._failed(target, reason)
            for (_, target), reason in zip(asked, reasons, strict=True)
        ]

    def _verdict(self, target: Target, answer: Moderation | NoModeration, latency_ms: float) -> Verdict:
        if isinstance(answer, NoModeration):
            return self._failed(target, answer.detail, answer.status)
        return Verdict(
            target,
            self.name,
            self.revision,
            flagged=answer.flagged,
            p_harm=answer.p_harm,
            categories=answer.categories,
            latency_ms=latency_ms,
        )

    def _failed(self, target: Target, reason: str, status: Status = Status.ERROR) -> Verdict:
        return Verdict.failed(target, self.name, self.revision, status, reason)


def _judged_text(conversation: Conversation, target: Target) -> str:
    index = conversation.judged_index(target)
    return "" if index is None else conversation.messages[index].text
