"""From what the processes measured to the figures of the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any, Final, NamedTuple

from corral.bench.guard_throughput.accuracy import compare
from corral.bench.guard_throughput.bounds import LABEL_AGREEMENT, MAX_DELTA_P
from corral.bench.isolated import Isolated
from corral.bench.vllm import PYTHON_VARIABLE
from corral.core.errors import CorralError

NO_INT8: Final = "this processor or this torch has no exact products of 8-bit integers"
NO_VLLM: Final = f"{PYTHON_VARIABLE} is not set; it names the interpreter of an environment with vllm"


class DefaultGuardRounds(NamedTuple):
    """The default guard, plain transformers, and the guard in 8 bits, ``None`` where that cannot be computed."""

    ours: Isolated
    plain: Isolated
    int8: Isolated | None


def policy_figures(requests: int, ours: Isolated, generated: Isolated) -> dict[str, Any]:
    """The policy guard and ``generate``; ``requests`` are those of a round."""
    speed = _speed(requests, ours.values["round_seconds"])
    seconds = generated.values["request_seconds"]
    generate_speed = len(seconds) / sum(seconds)
    return {
        "ratio_vs_generate": speed / generate_speed,
        "policy_prompts_per_second": speed,
        "generate_per_second": generate_speed,
        "policy_tokens": ours.values["policy_tokens"],
        "tokens_per_request": ours.values["tokens_per_request"],
        "policy_guard": {
            **{name: ours.values[name] for name in ("load_seconds", "warm_up_seconds", "round_seconds")},
            "max_rss_mb": ours.max_rss_mb,
        },
        "generate": {"request_seconds": seconds, "max_rss_mb": generated.max_rss_mb},
    }


def vllm_figures(
    requests: int, engine_requests: int, ours: Isolated, served: Isolated | CorralError | None
) -> dict[str, Any]:
    """The policy guard beside the better of vLLM's two clients; nulls and the reason where vLLM was not measured.

    Args:
        requests: of a round.
        engine_requests: sent by our engine.
        ours: the policy guard's rounds.
        served: vLLM's; or why its measurement failed, which a check then shows; or ``None`` where none was asked for.
    """
    if not isinstance(served, Isolated):
        reason = NO_VLLM if served is None else str(served)
        vllm: dict[str, Any] | None = None if served is None else {"exercised": {}}
        return {"ratio_vs_vllm": None, "ratio_vs_vllm_reason": reason, "vllm_per_second": None, "vllm": vllm}
    bare = _speed(requests, served.values["round_seconds"])
    engine = engine_requests / served.values["engine_seconds"]
    best = max(bare, engine)
    scores = served.values["p_unsafe"]
    return {
        "ratio_vs_vllm": _speed(requests, ours.values["round_seconds"]) / best,
        "ratio_vs_vllm_reason": None,
        "vllm_per_second": best,
        "vllm": {
            "bare_client_per_second": bare,
            "openai_engine_per_second": engine,
            "agreement_with_ours": compare(ours.values["p_unsafe"][: len(scores)], scores),
            **{name: served.values[name] for name in ("version", "exercised", "round_seconds", "engine_seconds")},
        },
    }


def default_guard_figures(messages: int, rounds: DefaultGuardRounds) -> dict[str, Any]:
    """The default guard beside plain transformers; ``messages`` are those of a round."""
    ours, plain, _ = rounds
    loads = _loads(messages, ours, plain)
    latencies = ours.values["latency_ms"]
    return {
        "default_guard_per_second": loads["uniform"]["per_second"],
        "default_guard_ratio_vs_transformers": loads["uniform"]["ratio"],
        "default_guard_p50_ms": median(latencies),
        "max_rss_mb": ours.max_rss_mb,
        "default_guard": {
            **{name: ours.values[name] for name in ("networks", "asked_all")},
            **loads,
            "slowest_ms": max(latencies),
            "bf16_gflops": median(ours.values["bf16_gflops"]),
            "transformers_max_rss_mb": plain.max_rss_mb,
        },
    }


def english_guard_figures(messages: int, rounds: DefaultGuardRounds) -> dict[str, Any]:
    """The half of the default guard that reads English, asked about every message, beside plain transformers."""
    loads = _loads(messages, rounds.ours, rounds.plain)
    return {
        "english_guard_ratio_vs_transformers": loads["uniform"]["ratio"],
        "english_guard_p50_ms": median(rounds.ours.values["latency_ms"]),
        "english_guard": loads,
    }


def int8_figures(messages: int, rounds: DefaultGuardRounds, accuracy: Mapping[str, Any] | None) -> dict[str, Any]:
    """The same of the guard in 8 bits, the peer's dtype being that of the default; nulls and the reason without it.

    ``agrees`` says whether its scores are as near to float32 as bfloat16 has to be. No check rests on it: it is a mode
    that users choose, and not the default.
    """
    named = ("per_second", "ratio_vs_transformers", "p50_ms", "max_delta_p", "label_agreement", "agrees", "max_rss_mb")
    if rounds.int8 is None or accuracy is None:
        return {**{f"default_guard_int8_{name}": None for name in named}, "default_guard_int8_reason": NO_INT8}
    uniform = _loads(messages, rounds.int8, rounds.plain)["uniform"]
    agrees = accuracy["label_agreement"] >= LABEL_AGREEMENT and accuracy["max_delta_p"] <= MAX_DELTA_P
    found = {
        "per_second": uniform["per_second"],
        "ratio_vs_transformers": uniform["ratio"],
        "p50_ms": median(rounds.int8.values["latency_ms"]),
        "max_rss_mb": rounds.int8.max_rss_mb,
        **{name: accuracy[name] for name in ("max_delta_p", "label_agreement")},
        "agrees": agrees,
    }
    return {**{f"default_guard_int8_{name}": found[name] for name in named}, "default_guard_int8_reason": None}


def _loads(messages: int, ours: Isolated, plain: Isolated) -> dict[str, Any]:
    return {
        load: _beside(messages, seconds, plain.values["round_seconds"][load])
        for load, seconds in ours.values["round_seconds"].items()
    }


def _beside(messages: int, ours: Sequence[float], plain: Sequence[float]) -> dict[str, Any]:
    speed, plain_speed = _speed(messages, ours), _speed(messages, plain)
    return {
        "per_second": speed,
        "transformers_per_second": plain_speed,
        "ratio": speed / plain_speed,
        "round_seconds": ours,
        "transformers_round_seconds": plain,
    }


def _speed(count: int, round_seconds: Sequence[float]) -> float:
    """Items a second of the median round."""
    return count / median(round_seconds)
