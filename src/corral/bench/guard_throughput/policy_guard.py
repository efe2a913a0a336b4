"""Our policy-prompted guard: its speed, and its scores for the peers and dtypes that are compared with it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from corral.core.errors import GuardError
from corral.data.messages import Conversation

if TYPE_CHECKING:
    from corral.guards.llama_guard.guard import LlamaGuard
    from corral.guards.llama_guard.prompts import PolicyPrompt
    from corral.models.engines.base import Engine, Prompt

# The fourteen categories of Llama Guard 3, each with what should not and what can be said: some 870 tokens.
_GENERATION: Final = "1"
_TAXONOMY: Final = "llama_guard_3"
_DETAIL: Final = "descriptions"
_FRAME: Final = "chat"
# A model that was not trained as a guard gives the labels little probability; their shares are compared all the same.
_MIN_MASS: Final = 0.0
LABEL_PREFIX: Final = " "
"""With it both labels are one token of SmolLM2's vocabulary, as those of a checkpoint trained as a guard are."""


def policy_prompt(text: str) -> Prompt:
    """What a model is asked about one request."""
    from corral.guards.prompted.framing import framed
    from corral.guards.prompted.turns import Turn

    return framed(_policy().render([Turn("User", text)]), _FRAME)


def load_policy_guard(model: str, dtype: str, threads: int) -> LlamaGuard:
    """The guard over a model in this process; its one answer to a request is the scores of both labels."""
    from corral.guards.llama_guard.guard import LlamaGuard

    return LlamaGuard.load(
        model=model,
        generation=_GENERATION,
        taxonomy=_TAXONOMY,
        detail=_DETAIL,
        frame=_FRAME,
        category_mode="none",
        label_prefix=LABEL_PREFIX,
        min_mass=_MIN_MASS,
        dtype=dtype,
        threads=threads,
    )


def policy_guard_over(engine: Engine) -> LlamaGuard:
    """The same guard over another engine."""
    from corral.guards.llama_guard.guard import LlamaGuard

    return LlamaGuard(
        engine, _policy(), frame=_FRAME, category_mode="none", label_prefix=LABEL_PREFIX, min_mass=_MIN_MASS
    )


def unsafe_probabilities(guard: LlamaGuard, texts: Sequence[str]) -> list[float]:
    """``p_unsafe`` of each request, judged in one call.

    Raises:
        GuardError: the guard gave no verdict on a request.
    """
    verdicts = guard.classify([Conversation.user(text) for text in texts])
    scores = [verdict.p_harm for verdict in verdicts if verdict.p_harm is not None]
    if len(scores) != len(texts):
        detail = next(verdict.detail for verdict in verdicts if verdict.p_harm is None)
        raise GuardError(f"no verdict on {len(texts) - len(scores)} of {len(texts)} requests: {detail}")
    return scores


def measure_policy_guard(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Speed of the guard in service: the policy was read before, the requests were not.

    Args:
        settings: ``model``, ``dtype``, ``threads``, ``warm_up`` (texts) and ``rounds`` (texts of each round).

    Returns:
        ``policy_tokens`` of a prompt without its request, ``tokens_per_request`` on average, ``load_seconds``,
        ``warm_up_seconds`` of the first call (it reads the policy), ``round_seconds``, and ``p_unsafe`` of the first
        round.
    """
    started = time.perf_counter()
    guard = load_policy_guard(settings["model"], settings["dtype"], settings["threads"])
    loaded = time.perf_counter()
    unsafe_probabilities(guard, settings["warm_up"])
    warm = time.perf_counter()
    seconds, scores = [], []
    for texts in settings["rounds"]:
        start = time.perf_counter()
        scores.append(unsafe_probabilities(guard, texts))
        seconds.append(time.perf_counter() - start)
    return {
        **count_tokens(settings["model"], [text for texts in settings["rounds"] for text in texts]),
        "load_seconds": loaded - started,
        "warm_up_seconds": warm - loaded,
        "round_seconds": seconds,
        "p_unsafe": scores[0],
    }


def score_prompts(settings: Mapping[str, Any]) -> dict[str, Any]:
    """``p_unsafe`` of each prompt.

    Args:
        settings: ``model``, ``dtype``, ``threads`` and ``prompts``.
    """
    guard = load_policy_guard(settings["model"], settings["dtype"], settings["threads"])
    return {"p_unsafe": unsafe_probabilities(guard, settings["prompts"])}


def count_tokens(model: str, texts: Sequence[str]) -> dict[str, float]:
    """``policy_tokens`` of a prompt without its request, and ``tokens_per_request`` on average."""
    from corral.models.chat import ChatTokenizer
    from corral.models.loading import load_tokenizer

    chat = ChatTokenizer(load_tokenizer(model))
    policy = len(chat.encode_prompt(policy_prompt("")))
    whole = sum(len(chat.encode_prompt(policy_prompt(text))) for text in texts)
    return {"policy_tokens": policy, "tokens_per_request": whole / len(texts) - policy}


def _policy() -> PolicyPrompt:
    from corral.guards.llama_guard.prompts import PolicyPrompt

    return PolicyPrompt.of(_GENERATION, _TAXONOMY, detail=_DETAIL)
