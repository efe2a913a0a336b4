"""vLLM's speed at the same questions, and what our ``openai`` engine makes of a real server.

It is asked in two ways, and the better one counts: by our engine, which takes what it needs for the whole labels; and
by a bare client that sends token ids made beforehand, all requests at once, and asks for one token with
log-probabilities, so that nothing of ours can slow the peer.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

from corral.bench.guard_throughput.policy_guard import policy_guard_over, policy_prompt, unsafe_probabilities
from corral.core.errors import DataError, EngineError
from corral.models.chat import ChatTokenizer
from corral.models.engines.base import Generation, GenerationSettings
from corral.models.engines.openai import OpenAIEngine
from corral.models.engines.openai_scoring import TOP_LOGPROBS

_TIMEOUT: Final = 120.0
_EXERCISE: Final = GenerationSettings(max_new_tokens=8)


def measure_vllm(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Speed of a running server, its scores, and whether every method of the engine works with it.

    Args:
        settings: ``url``, ``served_name``, ``context`` (tokens), ``model`` (for its tokenizer), ``warm_up`` (texts) and
            ``rounds`` (texts of each round) for the bare client, ``engine_requests`` (other texts) for our engine, and
            ``compared``, those to be scored.

    Returns:
        ``round_seconds``; ``engine_seconds`` of all ``engine_requests``; ``p_unsafe`` of ``compared``, by our engine;
        ``exercised`` (see ``exercise``) and ``version``.

    Raises:
        EngineError: a request failed.
    """
    from corral.models.loading import load_tokenizer

    chat = ChatTokenizer(load_tokenizer(settings["model"]))
    url, name = settings["url"], settings["served_name"]
    seconds = asyncio.run(_bare_rounds(url, name, chat, [settings["warm_up"], *settings["rounds"]]))
    with OpenAIEngine(url, name, chat=chat) as engine:
        guard = policy_guard_over(engine)
        started = time.perf_counter()
        unsafe_probabilities(guard, settings["engine_requests"])
        engine_seconds = time.perf_counter() - started
        return {
            "round_seconds": seconds[1:],
            "engine_seconds": engine_seconds,
            "p_unsafe": unsafe_probabilities(guard, settings["compared"]),
            "exercised": exercise(engine, settings["context"]),
            "version": _version(url),
        }


def exercise(engine: OpenAIEngine, context: int) -> dict[str, bool]:
    """Which methods of the engine do with this server what they promise.

    Args:
        engine: with the model's tokenizer.
        context: tokens that the server reads at most.
    """
    prompt = policy_prompt("How do I bake bread?")
    answer = engine.generate([prompt], _EXERCISE)[0]
    scored = engine.logprobs([(prompt, "safe")])[0]
    labels = engine.label_logprobs([prompt], ["safe", "unsafe"], answer_prefixes=["The verdict: "])[0]
    too_long = [0] * (context + 1)
    kept = engine.generate_each([prompt, too_long, prompt], _EXERCISE)
    return {
        "generate": answer.prompt_tokens > 0 and len(answer.token_ids) <= _EXERCISE.max_new_tokens,
        "stream": "".join(engine.stream(prompt, _EXERCISE)) == answer.text,
        "logprobs": len(scored.logprobs) > 0 and all(value <= 0.0 for value in scored.logprobs),
        "labels_after_a_beginning": len(labels) == 2 and all(value <= 0.0 for value in labels),
        "error_kept_apart": [type(item) for item in kept] == [Generation, DataError, Generation],
    }


async def _bare_rounds(url: str, name: str, chat: ChatTokenizer, rounds: Sequence[Sequence[str]]) -> list[float]:
    """Seconds of each round, all of its requests sent at once; tokenising is not timed."""
    import httpx2

    bodies = [[_body(name, chat.encode_prompt(policy_prompt(text))) for text in texts] for texts in rounds]
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=None)
    seconds = []
    async with httpx2.AsyncClient(timeout=_TIMEOUT, limits=limits, trust_env=False) as client:
        for round_bodies in bodies:
            started = time.perf_counter()
            try:
                replies = await asyncio.gather(*(client.post(f"{url}/completions", json=body) for body in round_bodies))
            except httpx2.HTTPError as error:
                raise EngineError(f"the server did not answer: {type(error).__name__} {error}".rstrip()) from error
            seconds.append(time.perf_counter() - started)
            if failed := [reply for reply in replies if not reply.is_success]:
                raise EngineError(f"the server answered {failed[0].status_code} to {len(failed)} requests")
    return seconds


def _body(name: str, ids: list[int]) -> dict[str, Any]:
    return {"model": name, "prompt": ids, "max_tokens": 1, "temperature": 0.0, "logprobs": TOP_LOGPROBS}


def _version(url: str) -> str | None:
    """The server's version; ``None`` where it does not tell."""
    import httpx2

    reply = httpx2.get(f"{url.removesuffix('/v1')}/version", timeout=_TIMEOUT, trust_env=False)
    return str(reply.json().get("version")) if reply.is_success else None
