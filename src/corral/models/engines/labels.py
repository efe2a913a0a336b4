"""How likely a model is to answer with each of a few labels: what a guard that is asked in words is scored by."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from corral.core.errors import CorralError, EngineError
from corral.models.engines.base import Engine, Prompt


@runtime_checkable
class LabelEngine(Protocol):
    """An engine with a way to score labels that is faster than scoring each as a completion."""

    def label_logprobs(
        self, prompts: Sequence[Prompt], labels: Sequence[str], *, answer_prefixes: Sequence[str] | None = None
    ) -> list[tuple[float, ...]]:
        """As the function ``label_logprobs``."""


@runtime_checkable
class LabelTokensEngine(LabelEngine, Protocol):
    """A label engine that can say which tokens a label has."""

    def label_tokens(self, label: str) -> tuple[int, ...]:
        """Token ids of a label as ``label_logprobs`` reads it."""


@runtime_checkable
class LabelEachEngine(Protocol):
    """An engine that tells the error of one prompt apart from those of the others."""

    def label_logprobs_each(
        self, prompts: Sequence[Prompt], labels: Sequence[str], *, answer_prefixes: Sequence[str] | None = None
    ) -> list[tuple[float, ...] | CorralError]:
        """As the function ``label_logprobs_each``."""


def label_logprobs(
    engine: Engine, prompts: Sequence[Prompt], labels: Sequence[str], *, answer_prefixes: Sequence[str] | None = None
) -> list[tuple[float, ...]]:
    """Log-probability of each label, in nats, at one place of the answer to each prompt; same length and order.

    Labels are scored as whole strings, by the sum over their tokens.

    Args:
        engine: the model.
        prompts: what it is asked.
        labels: what it may answer.
        answer_prefixes: for each prompt, the answer as written so far, which is given and not scored.

    Raises:
        DataError: a prompt that cannot be rendered or does not fit the context, or a label without tokens.
        EngineError: the model could not answer.
    """
    if isinstance(engine, LabelEngine):
        return engine.label_logprobs(prompts, labels, answer_prefixes=answer_prefixes)
    prefixes = [""] * len(prompts) if answer_prefixes is None else list(answer_prefixes)
    whole = engine.logprobs([(p, f + label) for p, f in zip(prompts, prefixes, strict=True) for label in labels])
    given = engine.logprobs([(p, f) for p, f in zip(prompts, prefixes, strict=True) if f])
    if len(whole) != len(prompts) * len(labels) or len(given) != sum(map(bool, prefixes)):
        raise EngineError("the engine gave another number of scores than was asked for")
    before = iter(given)
    totals = iter(whole)
    answers = []
    for prefix in prefixes:
        start = next(before).total if prefix else 0.0
        answers.append(tuple(next(totals).total - start for _ in labels))
    return answers


def label_logprobs_each(
    engine: Engine, prompts: Sequence[Prompt], labels: Sequence[str], *, answer_prefixes: Sequence[str] | None = None
) -> list[tuple[float, ...] | CorralError]:
    """As ``label_logprobs``, with the error of a prompt that failed in its place where the engine can tell.

    Raises:
        DataError, EngineError: as ``label_logprobs``, by an engine that computes prompts together.
    """
    if isinstance(engine, LabelEachEngine):
        return engine.label_logprobs_each(prompts, labels, answer_prefixes=answer_prefixes)
    return [*label_logprobs(engine, prompts, labels, answer_prefixes=answer_prefixes)]
