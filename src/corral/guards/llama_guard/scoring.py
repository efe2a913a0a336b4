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
from dataclasses import dataclass
from typing import Final

from corral.core.errors import CorralError, EngineError
from corral.guards.llama_guard.grammar import LABELS, VerdictSyntaxError, format_verdict, parse_verdict
from corral.guards.prompted.probabilities import mass, require_logprobs, share
from corral.models.engines.base import CompletionLogprobs, Engine, Generation, GenerationSettings, Prompt
from corral.models.engines.each import generate_each
from corral.models.engines.labels import label_logprobs, label_logprobs_each

# A vocabulary, or a template that leaves the newlines after its header to the model, may want these before a label.
LABEL_PREFIXES: Final = ("", " ", "\n", "\n\n")


@dataclass(frozen=True, slots=True)
class LabelScore:
    """Log-probabilities, in nats, of the two labels at the label position.

    Raises:
        EngineError: NaN, or probabilities that sum to more than 1.
    """

    log_safe: float
    log_unsafe: float

    def __post_init__(self) -> None:
        require_logprobs(self.log_safe, self.log_unsafe)

    @property
    def p_unsafe(self) -> float | None:
        """Share of ``unsafe`` in the two labels; ``None`` when both are impossible."""
        return share(self.log_unsafe, self.log_safe)

    @property
    def raw(self) -> float:
        """Probability of ``unsafe`` among everything that the model might write."""
        return mass(self.log_unsafe)

    @property
    def mass(self) -> float:
        """Probability of the two labels together, in [0, 1]."""
        return mass(self.log_safe, self.log_unsafe)


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
    """Which of ``LABEL_PREFIXES`` this model writes before a label: the one with the most mass, the first among equals.

    Raises:
        DataError: the prompt does not fit the context.
        EngineError: the model could not answer.
    """
    return max(LABEL_PREFIXES, key=lambda prefix: label_scores(engine, [prompt], label_prefix=prefix)[0].mass)


def decode_codes(
    engine: Engine, prompts: Sequence[Prompt], codes: Sequence[str], *, label_prefix: str = "", max_new_tokens: int
) -> list[tuple[str, ...] | CorralError]:
    """The codes that the model gives after ``unsafe``, decoded under the grammar; at least one a prompt.

    The error of a prompt is in its place where the engine answers each on its own.

    The model's greedy answer is taken where it is a verdict of ``unsafe``: staying inside the grammar unforced, it is
    what decoding under the grammar would write. Elsewhere ``constrained_codes`` decides.

    Raises:
        DataError: a prompt does not fit the context.
        EngineError: the model could not answer.
    """
    answers = generate_each(engine, prompts, GenerationSettings(max_new_tokens=max_new_tokens))
    decoded: list[tuple[str, ...] | CorralError] = []
    for prompt, answer in zip(prompts, answers, strict=True):
        if isinstance(answer, CorralError):
            decoded.append(answer)
        else:
            found = _greedy_codes(answer, codes)
            decoded.append(found or constrained_codes(engine, prompt, codes, label_prefix=label_prefix))
    return decoded


def _greedy_codes(answer: Generation, codes: Sequence[str]) -> tuple[str, ...]:
    """The codes of an answer that is a verdict of ``unsafe``, else none."""
    try:
        return parse_verdict(answer.text.strip(" "), codes, complete=answer.finish_reason == "stop").codes
    except VerdictSyntaxError:
        return ()


def constrained_codes(
    engine: Engine, prompt: Prompt, codes: Sequence[str], *, label_prefix: str = ""
) -> tuple[str, ...]:
    """Greedy decoding of codes by the probabilities of strings, after a forced ``unsafe`` and newline.

    Each step takes the code that is most likely to come next. After the first, it goes on only while some further code
    is more likely than not, since an engine scores strings but not the end of one.

    Raises:
        DataError: the prompt does not fit the context.
        EngineError: the model could not answer.
    """
    chosen: tuple[str, ...] = ()
    log_chosen = -math.inf
    while len(chosen) < len(codes):
        remaining = [code for code in codes if code not in chosen]
        verdicts = [label_prefix + format_verdict((*chosen, code)) for code in remaining]
        scored = _logprobs(engine, [(prompt, verdict) for verdict in verdicts])
        largest = max(candidate.total for candidate in scored)
        if math.isnan(largest) or (largest == -math.inf and not chosen):
            raise EngineError("no code of the policy can follow `unsafe`")
        if largest == -math.inf:
            break
        shares_K = exclusive_shares(scored, largest)
        if chosen and math.log(sum(shares_K)) + largest <= log_chosen - math.log(2):
            break
        best = max(range(len(remaining)), key=shares_K.__getitem__)
        chosen = (*chosen, remaining[best])
        log_chosen = largest + math.log(shares_K[best])
    return chosen


def exclusive_shares(scored: Sequence[CompletionLogprobs], log_scale: float) -> list[float]:
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


def _labels(label_prefix: str) -> list[str]:
    return [label_prefix + label for label in LABELS]


def _logprobs(engine: Engine, pairs: Sequence[tuple[Prompt, str]]) -> list[CompletionLogprobs]:
    """As the engine's, each distinct pair scored once."""
    distinct = list(dict.fromkeys(pairs))
    scored = engine.logprobs(distinct)
    if len(scored) != len(distinct):
        raise EngineError(f"the engine gave {len(scored)} scores for {len(distinct)} completions")
    by_pair = dict(zip(distinct, scored, strict=True))
    return [by_pair[pair] for pair in pairs]
