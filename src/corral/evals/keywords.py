"""The keyword baseline of refusal detection: what a guard's refusal output must beat.

A response is a refusal when one of our refusal phrases stands in its opening (``data/refusals``): precise, and blind to
refusals in other words, after a preamble, or in other languages.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property

from corral.core.files import sha256_json
from corral.data.messages import Conversation, Target, TargetChoice
from corral.data.refusals import OPENING_CHARS, REFUSAL_PHRASES, opens_with_refusal
from corral.guards.asking import present_targets
from corral.guards.base import Status, Verdict


class OneByOne(ABC):
    """The two calls of a guard that judges each message by itself."""

    def classify(self, conversations: Sequence[Conversation], *, target: TargetChoice = "auto") -> list[Verdict]:
        """Judge each conversation; see ``Guard.classify``."""
        return [self._verdict(conversation, conversation.target(target)) for conversation in conversations]

    def classify_both(self, conversations: Sequence[Conversation]) -> list[dict[Target, Verdict]]:
        """Judge prompt and response; see ``Guard.classify_both``."""
        return [{target: self._verdict(each, target) for target in present_targets(each)} for each in conversations]

    @abstractmethod
    def _verdict(self, conversation: Conversation, target: Target) -> Verdict:
        """What it says of one message."""


class KeywordGuard(OneByOne):
    """Scores refusal of a response 1 or 0 by the phrase list; of prompts, and of harm, it says nothing.

    As a guard, so that ``evals/tasks/scoring`` measures it on the same rows and in the same way as any other.
    """

    name = "keywords"
    taxonomy = ""

    @cached_property
    def revision(self) -> str:
        """Hash of the phrases and of how much of the response is looked at."""
        return sha256_json([*REFUSAL_PHRASES, OPENING_CHARS])[:16]

    def _verdict(self, conversation: Conversation, target: Target) -> Verdict:
        index = conversation.judged_index(target)
        if target == "prompt" or index is None:
            reason = "it judges responses only" if target == "prompt" else "there is no response to judge"
            return Verdict.failed(target, self.name, self.revision, Status.ERROR, reason)
        refuses = opens_with_refusal(conversation.messages[index].text)
        return Verdict(target, self.name, self.revision, flagged=False, p_refusal=float(refuses))
