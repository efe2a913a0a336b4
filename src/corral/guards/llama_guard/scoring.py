"""Scores from the label position, and the codes that follow, over any engine that gives log-probabilities.

With l_s and l_u the log-probabilities of the strings ``safe`` and ``unsafe`` right after the prompt, summed over their
tokens,

    p_unsafe = exp(l_u) / (exp(l_s) + exp(l_u))          mass = exp(l_s) + exp(l_u)

The papers report exp(l_u) alone, the raw value. Neither string begins the other, so the mass is at most 1; where it is
small the model was about to write something that is no verdict.

Legend: K codes of a prompt.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from corral.core.errors import CorralError, EngineError
from corral.guards.llama_guard.grammar import LABELS, VerdictSyntaxError, format_verdict
from corral.guards.llama_guard.written import read_answer
from corral.guards.prompted.leads import ANSWER_LEADS
from corral.guards.prompted.probabilities import LabelScore
from corral.models.engines.base import Engine, Generation, GenerationSettings, Prompt
from corral.models.engines.each import generate_each
from corral.models.engines.labels import LabelTokensEngine, label_logprobs, label_logprobs_each


def label_scores(engine: Engine, prompts: Sequence[Prompt], *, label_prefix: str = "") -> list[LabelScore]:
    """Score both labels after each prompt, by whole strings; same length and order.

    Args:
        engine: the model.
        prompts: framed prompts.
        label_prefix: what the model writes before a label; its probability is part of the labels'.

    Raises:
        DataError: a prompt does not fit the context.
        EngineError: the model could not answer, or answered with something other than log-probabilities.
    """
    return [LabelScore(*row) for row in label_logprobs(engine, prompts, _labels(label_prefix))]


def label_scores_each(
    engine: Engine, prompts: Sequence[Prompt], *, label_prefix: str = ""
) -> list[LabelScore | CorralError]:
    """As ``label_scores``, with the error of a prompt in its place where the engine answers each on its own."""
    rows = label_logprobs_each(engine, prompts, _labels(label_prefix))
    return [row if isinstance(row, CorralError) else LabelScore(*row) for row in rows]


def find_label_prefix(engine: Engine, prompt: Prompt) -> str:
    """Which of ``ANSWER_LEADS`` this model writes before a label: the one with the most mass, the first among equals.

    Raises:
        DataError: the prompt does not fit the context.
        EngineError: the model could not answer.
    """
    return max(ANSWER_LEADS, key=lambda prefix: label_scores(engine, [prompt], label_prefix=prefix)[0].mass)


def decode_codes(
    engine: Engine, prompts: Sequence[Prompt], codes: Sequence[str], *, label_prefix: str = "", max_new_tokens: int
) -> list[tuple[str, ...] | CorralError]:
    """The codes that the model gives after ``unsafe``, decoded under the grammar; at least one a prompt.

    The error of a prompt is in its place where the engine answers each on its own.

    An engine that scores labels at once decodes under the grammar. Another is asked for its greedy answer, which is
    taken where it is a verdict of ``unsafe``: staying inside the grammar unforced, it is what decoding under the
    grammar would write. Elsewhere ``constrained_codes`` decides.

    Raises:
        DataError: a prompt does not fit the context.
        EngineError: the model could not answer.
    """
    if isinstance(engine, LabelTokensEngine):
        return constrained_codes(engine, prompts, codes, label_prefix=label_prefix)
    answers = generate_each(engine, prompts, GenerationSettings(max_new_tokens=max_new_tokens))
    decoded: list[tuple[str, ...] | CorralError] = []
    for prompt, answer in zip(prompts, answers, strict=True):
        if isinstance(answer, CorralError):
            decoded.append(answer)
        else:
            found = _greedy_codes(answer, codes)
            decoded += [found] if found else constrained_codes(engine, [prompt], codes, label_prefix=label_prefix)
    return decoded


def _greedy_codes(answer: Generation, codes: Sequence[str]) -> tuple[str, ...]:
    """The codes of an answer that is a verdict of ``unsafe``, else none."""
    try:
        return read_answer(answer, codes).codes
    except VerdictSyntaxError:
        return ()


def constrained_codes(
    engine: Engine, prompts: Sequence[Prompt], codes: Sequence[str], *, label_prefix: str = ""
) -> list[tuple[str, ...] | CorralError]:
    """Greedy decoding of codes by the probabilities of strings, after a forced ``unsafe`` and newline.

    Each step takes the code that is most likely to come next. After the first, it goes on only while some further code
    is more likely than not, since an engine scores strings but not the end of one. A prompt that no code can follow has
    an error in its place.

    Raises:
        DataError: a prompt does not fit the context.
        EngineError: the model could not answer.
    """
    decoded: list[tuple[str, ...] | CorralError] = [() for _ in prompts]
    # Prompts that have the same codes so far are asked together.
    open_: dict[tuple[str, ...], list[tuple[int, float]]] = {(): [(i, -math.inf) for i in range(len(prompts))]}
    while open_:
        chosen, members = open_.popitem()
        remaining = [code for code in codes if code not in chosen]
        if not members or not remaining:
            continue
        verdicts = [label_prefix + format_verdict((*chosen, code)) for code in remaining]
        scored = _verdict_scores(engine, [prompts[i] for i, _ in members], verdicts)
        for (i, log_chosen), row in zip(members, scored, strict=True):
            step = _next_code(row, log_chosen)
            if isinstance(step, CorralError):
                decoded[i] = step
            elif step is not None:
                index, log_step = step
                named = decoded[i] = (*chosen, remaining[index])
                open_.setdefault(named, []).append((i, log_step))
    return decoded


def _next_code(scored: Sequence[_Scored], log_chosen: float) -> tuple[int, float] | CorralError | None:
    """The code to go on with, by index, and the log-probability of the verdict with it; ``None`` to end.

    Args:
        scored: the verdict so far with each code that is left.
        log_chosen: log-probability of the verdict so far; minus infinity before the first code.
    """
    largest = max(candidate.total for candidate in scored)
    first = log_chosen == -math.inf
    if math.isnan(largest) or (largest == -math.inf and first):
        return EngineError("no code of the policy can follow `unsafe`")
    if largest == -math.inf:
        return None
    shares_K = exclusive_shares(scored, largest)
    if not first and math.log(sum(shares_K)) + largest <= log_chosen - math.log(2):
        return None
    best = max(range(len(scored)), key=shares_K.__getitem__)
    return best, largest + math.log(shares_K[best])


class _Scored(NamedTuple):
    """A string: its tokens, and their log-probability in nats."""

    token_ids: tuple[int, ...]
    total: float


def exclusive_shares(scored: Sequence[_Scored], log_scale: float) -> list[float]:
    """Probability of each string without what belongs to longer ones among them, over exp(``log_scale``).

    ``S1`` begins ``S10``. Where the tokens of one begin the tokens of the other too, the shorter one's probability
    holds the longer one's; where they do not, the two are different events already.
    """
    shares = [0.0] * len(scored)
    for index in sorted(range(len(scored)), key=lambda i: -len(scored[i].token_ids)):
        ids = scored[index].token_ids
        longer = (
            shares[other]
            for other, candidate in enumerate(scored)
            if len(candidate.token_ids) > len(ids) and candidate.token_ids[: len(ids)] == ids
        )
        shares[index] = max(0.0, math.exp(scored[index].total - log_scale) - sum(longer))
    return shares


def _verdict_scores(engine: Engine, prompts: Sequence[Prompt], verdicts: Sequence[str]) -> list[list[_Scored]]:
    """For each prompt, each verdict as the engine scores it."""
    if isinstance(engine, LabelTokensEngine):
        tokens = [engine.label_tokens(verdict) for verdict in verdicts]
        rows = engine.label_logprobs(prompts, verdicts)
        return [[_Scored(*pair) for pair in zip(tokens, row, strict=True)] for row in rows]
    distinct = list(dict.fromkeys((prompt, verdict) for prompt in prompts for verdict in verdicts))
    scored = engine.logprobs(distinct)
    if len(scored) != len(distinct):
        raise EngineError(f"the engine gave {len(scored)} scores for {len(distinct)} completions")
    by_pair = {pair: _Scored(each.token_ids, each.total) for pair, each in zip(distinct, scored, strict=True)}
    return [[by_pair[prompt, verdict] for verdict in verdicts] for prompt in prompts]


def _labels(label_prefix: str) -> list[str]:
    return [label_prefix + label for label in LABELS]
