"""The whole benchmark: one measurement after the other, each alone on the machine, then the comparison."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from corral.bench.guard_throughput.accuracy import compare, max_delta
from corral.bench.guard_throughput.bounds import check_report
from corral.bench.guard_throughput.figures import (
    DefaultGuardRounds,
    default_guard_figures,
    english_guard_figures,
    int8_figures,
    policy_figures,
    vllm_figures,
)
from corral.bench.guard_throughput.prompts import accuracy_prompts
from corral.bench.guard_throughput.settings import ThroughputSettings, available_cpus
from corral.bench.isolated import Isolated, run_isolated
from corral.bench.requests import benign_requests
from corral.bench.vllm import CONTEXT, SERVED_NAME, serving_vllm, vllm_interpreter
from corral.core.errors import CorralError
from corral.guards.default.guard import ENGLISH_WEIGHTS

Say = Callable[[str], None]


class _Requests(NamedTuple):
    """Texts of a warm-up, of the timed rounds, and for our engine over vLLM; none occurs twice."""

    warm_up: list[str]
    rounds: list[list[str]]
    engine: list[str]


def measure_guard_throughput(settings: ThroughputSettings, say: Say) -> dict[str, Any]:
    """Measure everything; see docs/guides/benchmarks.md for what each figure means.

    Args:
        settings: sizes.
        say: told what is measured next.

    Returns:
        The report as JSON values; ``checks`` says which bounds hold, with null where one was not measured.

    Raises:
        CorralError: a measurement failed.
        NotFoundError: ``CORRAL_VLLM_PYTHON`` names no file.
    """
    started = time.perf_counter()
    python = vllm_interpreter()
    requests = _requests(settings)
    compared = accuracy_prompts(settings.accuracy_prompts, seed=settings.seed)
    ours = _policy_guard(settings, requests, say)
    generated = _generate(settings, requests, compared.texts, say)
    served = None if python is None else _vllm_or_error(python, settings, requests, say)
    accuracy = _accuracy(settings, compared.texts, generated.values["p_unsafe"], say)
    int8 = bool(run_isolated("int8-possible", {}).values["possible"])
    guard = _default_guard(settings, settings.guard_weights, say, int8=int8)
    english = guard if settings.guard_weights else _default_guard(settings, str(ENGLISH_WEIGHTS), say, int8=False)
    guard_accuracy = _default_guard_accuracy(settings, compared.texts, say, int8=int8)

    report: dict[str, Any] = {
        **policy_figures(settings.requests, ours, generated),
        **vllm_figures(settings.requests, settings.engine_requests, ours, served),
        **default_guard_figures(settings.batches * settings.batch_size, guard),
        **english_guard_figures(settings.batches * settings.batch_size, english),
        **int8_figures(settings.batches * settings.batch_size, guard, guard_accuracy.get("int8")),
        "default_guard_accuracy": guard_accuracy,
        **{name: accuracy[name] for name in ("label_agreement", "max_delta_p", "shared_prefix_max_delta_p")},
        "accuracy": {
            "prompts": len(compared.texts),
            "source": compared.source,
            "real_prompts": compared.real,
            **accuracy,
        },
        "seconds": round(time.perf_counter() - started, 1),
    }
    return {
        **report,
        "checks": {name: asdict(check) for name, check in check_report(report).items()},
        "settings": settings.model_dump(mode="json"),
        **_circumstances(),
    }


def _requests(settings: ThroughputSettings) -> _Requests:
    size, rounds = settings.requests, settings.rounds
    texts = benign_requests((1 + rounds) * size + settings.engine_requests, seed=settings.seed)
    groups = [texts[start : start + size] for start in range(0, (1 + rounds) * size, size)]
    return _Requests(groups[0], groups[1:], texts[(1 + rounds) * size :])


def _policy_guard(settings: ThroughputSettings, requests: _Requests, say: Say) -> Isolated:
    say(f"policy guard: {settings.rounds} rounds of {settings.requests} requests")
    asked = {"warm_up": requests.warm_up, "rounds": requests.rounds}
    return run_isolated("policy-guard", {**_model(settings, "bfloat16"), **asked})


def _generate(settings: ThroughputSettings, requests: _Requests, prompts: list[str], say: Say) -> Isolated:
    say(f"transformers: generate, {settings.generate_requests} requests one by one in float32")
    texts = [*requests.warm_up, *(text for texts in requests.rounds for text in texts)]
    return run_isolated(
        "generate",
        {
            **_model(settings, "float32"),
            "max_new_tokens": settings.generate_tokens,
            "requests": texts[: 1 + settings.generate_requests],
            "prompts": prompts[: settings.exact_prompts],
        },
    )


def _vllm_or_error(python: Path, settings: ThroughputSettings, requests: _Requests, say: Say) -> Isolated | CorralError:
    """What a peer does must not cost the figures that need no peer."""
    try:
        return _vllm(python, settings, requests, say)
    except CorralError as error:
        say(f"vLLM: {error}")
        return error


def _vllm(python: Path, settings: ThroughputSettings, requests: _Requests, say: Say) -> Isolated:
    served = run_isolated("served-model", {"model": settings.model}).values["folder"]
    say("vLLM: starting its server, which takes minutes the first time")
    with serving_vllm(python, Path(served), cpus=available_cpus()[: settings.threads]) as url:
        say(f"vLLM: {settings.rounds} rounds of {settings.requests} requests; our engine: {len(requests.engine)}")
        return run_isolated(
            "vllm-client",
            {
                "url": url,
                "served_name": SERVED_NAME,
                "context": CONTEXT,
                "model": settings.model,
                "warm_up": requests.warm_up,
                "rounds": requests.rounds,
                "engine_requests": requests.engine,
                "compared": requests.rounds[0][: settings.engine_requests],
            },
        )


def _accuracy(settings: ThroughputSettings, prompts: list[str], whole: list[float], say: Say) -> dict[str, Any]:
    """The timed path against float32, and float32 with the shared prefix against whole prompts on a sample."""
    scores = {}
    for dtype in ("bfloat16", "float32"):
        say(f"accuracy: {len(prompts)} prompts in {dtype}")
        scores[dtype] = run_isolated("policy-scores", {**_model(settings, dtype), "prompts": prompts}).values
    reference = scores["float32"]["p_unsafe"]
    return {
        **compare(scores["bfloat16"]["p_unsafe"], reference),
        "shared_prefix_max_delta_p": max_delta(reference[: len(whole)], whole),
        "shared_prefix_prompts": len(whole),
    }


def _default_guard(settings: ThroughputSettings, weights: str | None, say: Say, *, int8: bool) -> DefaultGuardRounds:
    """A guard and its peer in turn, a process each a round, so that a machine that slows down slows both.

    Args:
        settings: sizes.
        weights: folder of one trained guard; ``None`` for the default guard. Its peer reads every message with each of
            its networks.
        say: told what is measured next.
        int8: measure it in 8 bits too.
    """
    sizes = {
        "weights": weights,
        "dtype": "auto",
        "loads": {"uniform": [settings.message_tokens] * 2, "mixed": list(settings.mixed_tokens)},
        **settings.model_dump(include={"threads", "batch_size", "batches"}),
        "rounds": 1,
        "singles": -(-settings.singles // settings.rounds),
    }
    ours, plain, rounded = [], [], []
    for number in range(settings.rounds):
        say(f"{Path(weights).name if weights else 'default guard'} and transformers: round {number + 1}")
        seeded = {**sizes, "seed": settings.seed + (len(sizes["loads"]) + 1) * number}
        ours.append(run_isolated("default-guard", seeded))
        networks = ours[-1].values["networks"]
        of_tokens = {"tokenizer": networks[0]["base"]}
        plain.append(_added([run_isolated("plain-transformers", {**seeded, **of_tokens, **each}) for each in networks]))
        if int8:
            rounded.append(run_isolated("default-guard", {**seeded, "dtype": "int8"}))
    return DefaultGuardRounds(_joined(ours), _joined(plain), _joined(rounded) if rounded else None)


def _added(networks: Sequence[Isolated]) -> Isolated:
    """One peer made of several that read every message one after the other."""
    loads = networks[0].values["round_seconds"]
    seconds = {
        load: [sum(each) for each in zip(*(found.values["round_seconds"][load] for found in networks), strict=True)]
        for load in loads
    }
    memory, wall = (sum(getattr(found, name) for found in networks) for name in ("max_rss_mb", "seconds"))
    return Isolated({"round_seconds": seconds}, memory, wall)


def _default_guard_accuracy(
    settings: ThroughputSettings, prompts: list[str], say: Say, *, int8: bool
) -> dict[str, dict[str, Any]]:
    """The default guard's ``p_harm`` in each other dtype against float32."""
    scores = {}
    for dtype in ("float32", "bfloat16", *(["int8"] if int8 else [])):
        say(f"default guard: {len(prompts)} prompts in {dtype}")
        asked = {"weights": settings.guard_weights, "dtype": dtype, "prompts": prompts}
        asked |= settings.model_dump(include={"threads", "batch_size"})
        scores[dtype] = run_isolated("default-guard-scores", asked).values["p_harm"]
    reference = scores.pop("float32")
    return {dtype: compare(found, reference) for dtype, found in scores.items()}


def _joined(rounds: Sequence[Isolated]) -> Isolated:
    """Rounds that were measured apart as one measurement."""
    values = dict(rounds[0].values)
    values["round_seconds"] = {
        load: [seconds for each in rounds for seconds in each.values["round_seconds"][load]]
        for load in values["round_seconds"]
    }
    if "asked_all" in values:
        values["asked_all"] = sum(each.values["asked_all"] for each in rounds) / len(rounds)
    for name in ("latency_ms", "bf16_gflops"):
        if name in values:
            values[name] = [value for each in rounds for value in each.values[name]]
    return Isolated(values, max(each.max_rss_mb for each in rounds), sum(each.seconds for each in rounds))


def _model(settings: ThroughputSettings, dtype: str) -> dict[str, Any]:
    return {"model": settings.model, "dtype": dtype, "threads": settings.threads}


def _circumstances() -> dict[str, Any]:
    from corral.core.manifest import describe_machine, package_versions

    return {
        "machine": describe_machine().model_dump(mode="json"),
        "versions": package_versions(),
        "date": datetime.now(UTC).date().isoformat(),
    }
