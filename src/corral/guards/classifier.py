"""Guards that score token windows in one forward pass.

``ClassifierGuard`` does what all of them share: the limits on input, overlapping windows, batches of similar length
under a token budget, the maximum over windows, failures kept to the item that caused them, and timing. A subclass
says how a message becomes windows (``encode``), how token ids become raw scores (``forward``) and what the scores
mean (``conclude``).

Legend: S spans, W windows, K raw scores.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from corral.core.errors import ConfigError, GuardError
from corral.data.messages import Conversation, Target, TargetChoice
from corral.guards.asking import present_targets
from corral.guards.base import Status, Verdict
from corral.guards.failures import failure_detail
from corral.guards.limits import MAX_CHARS, unreadable
from corral.guards.windows import JudgedWindows, Window, max_over_windows
from corral.models.batching import token_budget_batches

FloatArray = NDArray[np.float64]

TOKENS_PER_BATCH: Final = 4096


@dataclass(frozen=True, slots=True)
class Span:
    """The judged tokens ``start:stop`` of sequence number ``row`` of a batch, and what they are judged as."""

    row: int
    start: int
    stop: int
    target: Target


@dataclass(frozen=True, slots=True)
class Scores:
    """What the maximum over windows of the raw scores means; fields as in ``Verdict``."""

    flagged: bool
    p_harm: float
    p_refusal: float | None = None
    p_attack: float | None = None
    categories: Mapping[str, float] = field(default_factory=dict)


@dataclass(slots=True)
class _Item:
    """One (conversation, target) pair on its way to a verdict."""

    target: Target
    windows: JudgedWindows = field(default_factory=lambda: JudgedWindows(()))
    rows: list[FloatArray] = field(default_factory=list)
    failure: str | None = None
    seconds: float = 0.0


class ClassifierGuard(ABC):
    """Base of guards that score token windows in one forward pass.

    Args:
        max_chars: a judged message of more characters is refused (status ``error``), never cut.
        tokens_per_batch: padded tokens in one forward pass; a longer single window goes alone.

    Raises:
        ConfigError: a limit below 1.
    """

    def __init__(self, *, max_chars: int = MAX_CHARS, tokens_per_batch: int = TOKENS_PER_BATCH) -> None:
        for name, value in (("max_chars", max_chars), ("tokens_per_batch", tokens_per_batch)):
            if value < 1:
                raise ConfigError(f"`{value}` is below 1", where=name, hint="Use a positive number.")
        self.max_chars = max_chars
        self.tokens_per_batch = tokens_per_batch

    @property
    @abstractmethod
    def name(self) -> str:
        """Short name, as in a policy's list of guards."""

    @property
    @abstractmethod
    def revision(self) -> str:
        """Content hash of weights and settings."""

    @property
    @abstractmethod
    def taxonomy(self) -> str:
        """Id of the taxonomy of its category scores."""

    @abstractmethod
    def encode(self, conversation: Conversation, target: Target) -> JudgedWindows:
        """Windows over the judged message; the conversation has one, with text.

        Windows with equal ``ids`` are read once, so a guard whose decoder is causal can judge prompt and response
        from one pass by giving the same ids with two spans.
        """

    @abstractmethod
    def forward(self, sequences: Sequence[tuple[int, ...]], spans: Sequence[Span]) -> FloatArray:
        """Raw scores (S, K) of the spans over one batch of token sequences; no row may depend on another."""

    @abstractmethod
    def conclude(self, scores_K: FloatArray, target: Target) -> Scores:
        """What finite raw scores, already maxima over windows, mean."""

    def why_unreadable(self, conversation: Conversation, target: Target) -> str | None:
        """Why this guard does not judge the message at all, ``None`` when it does; holds no text of it."""
        return unreadable(conversation, target, max_chars=self.max_chars)

    def make_verdict(self, scores: Scores, **about: Any) -> Verdict:
        """The verdict on an item; a guard with more to say gives a subclass of its own.

        Args:
            scores: what ``conclude`` gave.
            about: the fields of a verdict that are not scores.
        """
        return Verdict(
            flagged=scores.flagged,
            p_harm=scores.p_harm,
            p_refusal=scores.p_refusal,
            p_attack=scores.p_attack,
            categories=scores.categories,
            **about,
        )

    def classify(self, conversations: Sequence[Conversation], *, target: TargetChoice = "auto") -> list[Verdict]:
        """Judge each conversation; same length and order as given. A failure is a verdict with its status."""
        return self._judge([(conversation, conversation.target(target)) for conversation in conversations])

    def classify_both(self, conversations: Sequence[Conversation]) -> list[dict[Target, Verdict]]:
        """Judge prompt and response in one call; a target that the conversation does not have is absent."""
        wanted = [present_targets(conversation) for conversation in conversations]
        pairs = [(c, t) for c, present in zip(conversations, wanted, strict=True) for t in present]
        verdicts = iter(self._judge(pairs))
        return [{t: next(verdicts) for t in present} for present in wanted]

    def raw_scores(
        self, conversations: Sequence[Conversation], *, target: TargetChoice = "auto"
    ) -> list[FloatArray | None]:
        """Maximum over windows of the raw scores (K,) of each conversation: what a calibration is fitted on.

        ``None`` where the guard could not score.
        """
        items = [self._encoded(conversation, conversation.target(target)) for conversation in conversations]
        self._score(items)
        return [None if _failure(item) else max_over_windows(np.stack(item.rows)) for item in items]

    def _judge(self, pairs: Sequence[tuple[Conversation, Target]]) -> list[Verdict]:
        items = [self._encoded(conversation, target) for conversation, target in pairs]
        self._score(items)
        return [self._verdict(item) for item in items]

    def _encoded(self, conversation: Conversation, target: Target) -> _Item:
        started = time.perf_counter()
        item = _Item(target, failure=self.why_unreadable(conversation, target))
        if item.failure is None:
            try:
                item.windows = self.encode(conversation, target)
            except Exception as error:
                item.failure = failure_detail("the message could not be tokenised", error)
            else:
                if not item.windows.windows or not all(window.ids for window in item.windows.windows):
                    item.failure = "the judged message has no tokens"
        item.seconds = time.perf_counter() - started
        return item

    def _score(self, items: Sequence[_Item]) -> None:
        """Fill ``rows`` of every item that can be scored, reading each distinct token sequence once."""
        readers: dict[tuple[int, ...], list[tuple[_Item, Window]]] = {}
        for item in items:
            if item.failure is None:
                for window in item.windows.windows:
                    readers.setdefault(window.ids, []).append((item, window))
        sequences = list(readers)
        for batch in token_budget_batches([len(ids) for ids in sequences], self.tokens_per_batch):
            chosen = [sequences[index] for index in batch]
            self._score_batch(chosen, [readers[ids] for ids in chosen])

    def _score_batch(self, sequences: list[tuple[int, ...]], readers: list[list[tuple[_Item, Window]]]) -> None:
        spans = [
            Span(row, window.start, window.stop, item.target)
            for row, readings in enumerate(readers)
            for item, window in readings
        ]
        owners = [item for readings in readers for item, _ in readings]
        started = time.perf_counter()
        try:
            scores_SK = _one_row_each(self.forward(sequences, spans), spans)
        except Exception as error:
            self._after_failure(sequences, readers, owners, error)
            return
        per_token = (time.perf_counter() - started) / sum(len(sequences[span.row]) for span in spans)
        for span, item, scores_K in zip(spans, owners, scores_SK, strict=True):
            item.rows.append(scores_K)
            item.seconds += per_token * len(sequences[span.row])

    def _after_failure(
        self,
        sequences: list[tuple[int, ...]],
        readers: list[list[tuple[_Item, Window]]],
        owners: list[_Item],
        error: Exception,
    ) -> None:
        """Read the sequences of a failed batch one by one, so that only the one at fault fails."""
        if len(sequences) > 1:
            for ids, readings in zip(sequences, readers, strict=True):
                self._score_batch([ids], [readings])
            return
        for item in owners:
            item.failure = failure_detail("the model failed", error)

    def _verdict(self, item: _Item) -> Verdict:
        failure = _failure(item)
        if failure is None:
            try:
                return self._concluded(item)
            except Exception as error:
                failure = failure_detail("the scores could not be read", error)
        return Verdict(
            item.target,
            self.name,
            self.revision,
            status=Status.ERROR,
            windows=0,
            latency_ms=1e3 * item.seconds,
            detail=failure,
        )

    def _concluded(self, item: _Item) -> Verdict:
        return self.make_verdict(
            self.conclude(max_over_windows(np.stack(item.rows)), item.target),
            target=item.target,
            guard=self.name,
            revision=self.revision,
            windows=len(item.windows.windows),
            context_dropped=item.windows.context_dropped,
            latency_ms=1e3 * item.seconds,
        )


def _one_row_each(scores_SK: FloatArray, spans: Sequence[Span]) -> FloatArray:
    scores = np.asarray(scores_SK, dtype=np.float64)
    if scores.ndim != 2 or len(scores) != len(spans):
        raise GuardError(f"scores of shape {scores.shape} for {len(spans)} spans")
    return scores


def _failure(item: _Item) -> str | None:
    """Why an item has no scores, once everything was read."""
    if item.failure is None and not np.isfinite(np.stack(item.rows)).all():
        return "the model gave scores that are not finite"
    return item.failure
