"""What ``guard-throughput`` measures with."""

from __future__ import annotations

import os

from pydantic import Field

from corral.core.config import Config


def available_cpus() -> list[int]:
    """CPUs that this process may run on."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


class ThroughputSettings(Config):
    """Sizes of one run; the bounds are meant for the defaults."""

    model: str = Field("embedded:smollm2-135m-instruct", description="model of the policy guard and of its peers")
    threads: int = Field(default_factory=lambda: len(available_cpus()), ge=1)
    requests: int = Field(64, ge=1, description="requests of a round, each of 20 to 90 words")
    rounds: int = Field(3, ge=1, description="timed rounds, each of other requests")
    engine_requests: int = Field(16, ge=1, description="requests of our `openai` engine to vLLM")
    generate_requests: int = Field(16, ge=1, description="requests that `generate` answers, one by one")
    generate_tokens: int = Field(8, ge=1, description="tokens it may write: a verdict and a code")
    accuracy_prompts: int = Field(1000, ge=1, description="real prompts that the dtypes are compared on")
    exact_prompts: int = Field(16, ge=1, description="prompts whose shared-prefix scores meet those of whole prompts")
    guard_weights: str | None = Field(None, description="folder of one trained guard in place of the default guard")
    batch_size: int = Field(32, ge=1, description="messages of a batch of the default guard")
    batches: int = Field(8, ge=1, description="batches of a round")
    message_tokens: int = Field(40, ge=1, description="tokens of each message")
    mixed_tokens: tuple[int, int] = Field((20, 60), description="shortest and longest message of a second load")
    singles: int = Field(48, ge=1, description="messages that the default guard judges one by one")
    seed: int = 0
