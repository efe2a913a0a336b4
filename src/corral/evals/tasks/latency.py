"""How fast a model answers and how much memory it takes, on this machine.

One request at a time (batch size 1), as a single user meets it. Each request is answered twice: with one token, whose
time is that of reading the prompt, and with more. What the second took beyond the first is the time of the tokens that
it wrote beyond the first. One request is answered before anything is measured, so that no figure holds the time of
loading or of first use.

Figures of different devices are never compared: machine, device, threads and library versions are part of the data
hash. The machine's other load is not known; a comparison needs both runs on a machine that does nothing else.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from corral.core.errors import ConfigError
from corral.core.files import sha256_json
from corral.core.manifest import describe_machine, package_versions
from corral.core.memory import max_rss_mb
from corral.data.messages import Conversation
from corral.evals.sample_cache import SampleCache, item_hash
from corral.evals.tasks.formulas import Formula, Peak, Quantile, RatioOfSums
from corral.evals.tasks.task import Measure, Progress, SampleScore, Subject, TaskResult
from corral.evals.tasks.win_rate.prompts import ComparisonPrompt, packaged_prompts
from corral.models.engines.base import Engine, Generation, GenerationSettings

BATCH_SIZE: Final = 1

_LIBRARIES: Final = ("corral", "torch", "transformers")
_ENDPOINT: Final = "endpoint"


@dataclass(frozen=True)
class Latency:
    """Time to the first token and to the whole answer, tokens a second, and peak memory.

    Guards have no part in it. The time is that of ``Engine.generate`` as a whole, tokenising included; behind an
    endpoint it holds the network and whatever else the server does, and no memory is given.

    Attributes:
        prompts: what is asked.
        new_tokens: at most so many a request; fewer where the model ends its answer.
        limit: at most the first so many prompts; all when ``None``.

    Raises:
        ConfigError: no prompt, or a number below its least.
    """

    prompts: tuple[ComparisonPrompt, ...] = field(default_factory=packaged_prompts)
    new_tokens: int = 32
    limit: int | None = 20

    def __post_init__(self) -> None:
        if not self.prompts:
            raise ConfigError("there are no prompts", where="prompts")
        for setting, value, least in (("new_tokens", self.new_tokens, 2), ("limit", self.limit, 1)):
            if value is not None and value < least:
                raise ConfigError(f"`{value}` is below {least}", where=setting)

    @property
    def name(self) -> str:
        """``latency``."""
        return "latency"

    @property
    def version(self) -> str:
        """Raised whenever what is timed changes."""
        return "1"

    @property
    def measures(self) -> tuple[Measure, ...]:
        """Quantiles over requests, rates over all of them, and the largest memory."""
        return (
            _measure(
                "answer_p50", f"Time of an answer of at most {self.new_tokens} tokens, p50", "ms", _p50("answer_ms")
            ),
            _measure(
                "answer_p95", f"Time of an answer of at most {self.new_tokens} tokens, p95", "ms", _p95("answer_ms")
            ),
            _measure("first_token_p50", "Time to the first token, p50", "ms", _p50("first_ms")),
            _measure("first_token_p95", "Time to the first token, p95", "ms", _p95("first_ms")),
            _measure("prefill", "Reading", "tokens/s", _rate("prompt_tokens", "first_s"), higher_is_better=True),
            _measure(
                "decode",
                "Writing",
                "tokens/s",
                _rate("decoded_tokens", "decode_s"),
                higher_is_better=True,
                headline=True,
            ),
            _measure("peak_memory", "Largest memory of the process so far", "MB", Peak(value="rss_mb")),
        )

    def run(self, subject: Subject, cache: SampleCache, progress: Progress) -> TaskResult:
        """Time every prompt, reading what an earlier run on this machine found from the cache.

        Raises:
            DataError: a prompt that the model cannot read.
            EngineError: the model could not answer.
        """
        prompts = self.prompts[: self.limit]
        progress.start(len(prompts))
        device = device_of(subject.engine)
        watch = _Stopwatch(subject.engine, self.new_tokens)
        values = cache.fill(
            subject,
            self.name,
            self.version,
            settings={"device": device, "new_tokens": self.new_tokens},
            items=[prompt.text for prompt in prompts],
            keys=[item_hash(prompt.text) for prompt in prompts],
            compute=watch.time,
            batch_size=BATCH_SIZE,
            progress=progress,
        )
        samples = [
            SampleScore(prompt.id, prompt.id, value, texts={"request": prompt.text})
            for prompt, value in zip(prompts, values, strict=True)
        ]
        texts = [prompt.text for prompt in prompts]
        return TaskResult.of(
            self,
            samples,
            data_hash=sha256_json({"prompts": texts, "new_tokens": self.new_tokens, "device": device}),
            caveats=[
                f"Batch size {BATCH_SIZE}; on {_described(device)}. Never compared across devices.",
                "Other load on the machine is not known.",
            ],
        )


def device_of(engine: Engine) -> dict[str, Any]:
    """What times depend on beside the model: machine, device, threads, library versions, as JSON values."""
    from corral.models.engines.torch import TorchEngine

    if not isinstance(engine, TorchEngine):
        return {"device": _ENDPOINT}
    import torch

    versions = package_versions()
    return {
        "device": str(engine.model.device),
        "threads": torch.get_num_threads(),
        "machine": describe_machine().model_dump(),
        "versions": {name: versions[name] for name in _LIBRARIES if name in versions},
    }


class _Stopwatch:
    """Times requests one by one, after one that does not count."""

    def __init__(self, engine: Engine, new_tokens: int) -> None:
        self._engine = engine
        self._one = GenerationSettings(max_new_tokens=1)
        self._more = GenerationSettings(max_new_tokens=new_tokens)
        self._local = device_of(engine)["device"] != _ENDPOINT
        self._warm = False

    def time(self, texts: Sequence[str]) -> list[dict[str, float]]:
        """Values of each request's sample."""
        return [self._values(text) for text in texts]

    def _values(self, text: str) -> dict[str, float]:
        if not self._warm:
            self._timed(text, self._more)
            self._warm = True
        first, first_s = self._timed(text, self._one)
        answer, answer_s = self._timed(text, self._more)
        values = {
            "first_ms": 1e3 * first_s,
            "first_s": first_s,
            "answer_ms": 1e3 * answer_s,
            "prompt_tokens": float(first.prompt_tokens),
        }
        # A token that ends the answer is sampled like any other.
        if beyond := len(answer.token_ids) - 1 + (answer.finish_reason == "stop"):
            values |= {"decoded_tokens": float(beyond), "decode_s": answer_s - first_s}
        return values | ({"rss_mb": max_rss_mb()} if self._local else {})

    def _timed(self, text: str, settings: GenerationSettings) -> tuple[Generation, float]:
        started = time.perf_counter()
        (generation,) = self._engine.generate([Conversation.user(text)], settings)
        return generation, time.perf_counter() - started


def _described(device: Mapping[str, Any]) -> str:
    if "machine" not in device:
        return "an endpoint, network included"
    machine = device["machine"]
    where = machine["accelerator"] if device["device"] != "cpu" else machine["processor"]
    return f"{device['device']} ({where}, {machine['cpus']} cores, {device['threads']} threads)"


def _p50(value: str) -> Quantile:
    return Quantile(value=value, q=0.5)


def _p95(value: str) -> Quantile:
    return Quantile(value=value, q=0.95)


def _rate(tokens: str, seconds: str) -> RatioOfSums:
    return RatioOfSums(numerator=tokens, denominator=seconds)


def _measure(
    name: str, title: str, unit: str, formula: Formula, *, higher_is_better: bool = False, headline: bool = False
) -> Measure:
    return Measure(
        name=name,
        title=title,
        unit=unit,
        higher_is_better=higher_is_better,
        area="cost",
        formula=formula,
        reproducible=False,
        headline=headline,
    )
