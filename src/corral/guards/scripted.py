"""A guard that follows a script: for tests, examples and long runs without a model. It protects nothing.

On the command line ``--guard scripted`` flags texts that contain the word ``TRIGGER``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Final, Literal

from pydantic import Field

from corral.core.errors import ConfigError
from corral.core.files import sha256_json
from corral.data.messages import TARGETS, Conversation, Target, TargetChoice
from corral.guards.asking import present_targets
from corral.guards.base import Status, Verdict
from corral.guards.limits import MAX_CHARS, unreadable

Fault = Literal["raise", "short", "error", "timeout", "unparseable"]
FAULTS: Final[tuple[Fault, ...]] = ("raise", "short", "error", "timeout", "unparseable")
Rule = Callable[[str, Target], float]

_HARMFUL, _HARMLESS = 0.99, 0.01


class ScriptedGuard:
    """Judges by words, or by a function of the text.

    Args:
        words: one or several; a text that contains one of them is harmful; case matters.
        rule: judges instead of ``words``: from the judged text and its target to the harm score in [0, 1].
        categories: word to ``taxonomy/code``; a text with the word gets that category too.
        faults: word to what goes wrong when a judged text contains it: ``raise`` an exception, return a list that is
            one verdict ``short``, or give a verdict of status ``error``, ``timeout`` or ``unparseable``.
        name: name of the guard.
        delay: seconds to wait for each conversation.
        max_chars: longest judged message.

    Raises:
        ConfigError: a fault that is not one of these.
    """

    def __init__(
        self,
        words: str | Sequence[str] = ("TRIGGER",),
        *,
        rule: Rule | None = None,
        categories: Mapping[str, str] | None = None,
        faults: Mapping[str, Fault] | None = None,
        name: str = "scripted",
        delay: float = 0.0,
        max_chars: int = MAX_CHARS,
    ) -> None:
        self.words = (words,) if isinstance(words, str) else tuple(words)
        self.categories = dict(categories or {})
        self.faults = dict(faults or {})
        self.delay = delay
        self.max_chars = max_chars
        self._rule = rule or self._by_words
        self._name = name
        if unknown := set(self.faults.values()) - set(FAULTS):
            raise ConfigError(f"no fault is named `{unknown.pop()}`", where="faults", hint=f"Use {', '.join(FAULTS)}.")
        settings = [self.words, self.categories, self.faults, max_chars, rule is not None]
        self._revision = sha256_json(settings)[:16]

    @classmethod
    def load(
        cls,
        *,
        words: str | Sequence[str] = ("TRIGGER",),
        rule: Rule | None = None,
        categories: Mapping[str, str] | None = None,
        faults: Mapping[str, Fault] | None = None,
        delay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0,
        max_chars: Annotated[int, Field(ge=1)] = MAX_CHARS,
    ) -> ScriptedGuard:
        """The guard with these settings; see the class."""
        return cls(words, rule=rule, categories=categories, faults=faults, delay=delay, max_chars=max_chars)

    @property
    def name(self) -> str:
        """Name of the guard."""
        return self._name

    @property
    def revision(self) -> str:
        """Hash of the script; a ``rule`` is known only by being there."""
        return self._revision

    @property
    def taxonomy(self) -> str:
        """Taxonomy of the scripted categories."""
        return next((code.partition("/")[0] for code in self.categories.values()), "")

    def classify(self, conversations: Sequence[Conversation], *, target: TargetChoice = "auto") -> list[Verdict]:
        """Judge each conversation by the script."""
        verdicts = [self._verdict(conversation, conversation.target(target)) for conversation in conversations]
        return verdicts[: len(verdicts) - self._short_by(conversations, target)]

    def classify_both(self, conversations: Sequence[Conversation]) -> list[dict[Target, Verdict]]:
        """Judge prompt and response of each conversation by the script."""
        answers = [
            {target: self._verdict(conversation, target) for target in present_targets(conversation)}
            for conversation in conversations
        ]
        short_by = max(self._short_by(conversations, target) for target in TARGETS)
        return answers[: len(answers) - short_by]

    def _verdict(self, conversation: Conversation, target: Target) -> Verdict:
        started = time.perf_counter()
        if self.delay:
            time.sleep(self.delay)
        if reason := unreadable(conversation, target, max_chars=self.max_chars):
            return Verdict.failed(target, self.name, self.revision, Status.ERROR, reason)
        text = _text(conversation, target) or ""
        fault = self._fault(text)
        if fault == "raise":
            raise RuntimeError("the script says to raise")
        if fault in ("error", "timeout", "unparseable"):
            return Verdict.failed(target, self.name, self.revision, Status(fault), "the script says so")
        p_harm = self._rule(text, target)
        return Verdict(
            target,
            self.name,
            self.revision,
            flagged=p_harm >= 0.5,
            p_harm=p_harm,
            categories={code: _HARMFUL for word, code in self.categories.items() if word in text},
            latency_ms=1e3 * (time.perf_counter() - started),
        )

    def _by_words(self, text: str, target: Target) -> float:
        return _HARMFUL if any(word in text for word in self.words) else _HARMLESS

    def _fault(self, text: str) -> Fault | None:
        return next((fault for word, fault in self.faults.items() if word in text), None)

    def _short_by(self, conversations: Sequence[Conversation], target: TargetChoice) -> int:
        texts = [_text(conversation, conversation.target(target)) for conversation in conversations]
        return int(any(self._fault(text or "") == "short" for text in texts))


def _text(conversation: Conversation, target: Target) -> str | None:
    """Text of the judged message, ``None`` when there is none."""
    index = conversation.judged_index(target)
    return None if index is None else conversation.messages[index].text
