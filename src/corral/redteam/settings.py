"""How a red-team run is done, and how far it may go."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from corral.core.errors import ConfigError
from corral.core.stats import REPLICATES
from corral.data.messages import TargetMode
from corral.guards.policy import Policy
from corral.models.engines.base import GenerationSettings

RUN_VERSION: Final = "1"
"""Raised whenever what is asked, or how it is counted, changes, so that figures stay apart."""

Mode = TargetMode
"""What a guard checks: user turns as they come, the last reply, or both."""


@dataclass(frozen=True, slots=True)
class Budget:
    """Where a run stops asking a target; ``None`` is no limit. What was answered is judged and reported.

    Attributes:
        prompts: answers, those of earlier sessions included.
        tokens: read and written by the target, those of earlier sessions included.
        seconds: of this session.

    Raises:
        ConfigError: a limit below 1.
    """

    prompts: int | None = None
    tokens: int | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        for name in ("prompts", "tokens", "seconds"):
            limit = getattr(self, name)
            if limit is not None and limit < 1:
                raise ConfigError(f"`{limit}` is below 1", where=f"budget.{name}")

    def spent(self, *, prompts: int, tokens: int, seconds: float) -> str | None:
        """Which limit is reached, ``None`` while none is."""
        used = {"prompts": prompts, "tokens": tokens, "seconds": seconds}
        for name, amount in used.items():
            limit = getattr(self, name)
            if limit is not None and amount >= limit:
                return f"the budget of {limit:g} {name} is spent"
        return None


@dataclass(frozen=True, slots=True)
class RunSettings:
    """How a run is done.

    Attributes:
        generation: how targets answer; sampled answers depend on the seed and the prompt alone.
        restarts: tries of every style on every goal, each with chances of its own.
        seed: of styles, sampling and intervals.
        policy: what a guard's verdict means; by default harm at the shipped operating point blocks, and so does a guard
            that gives no verdict.
        mode: what a guard checks.
        batch_size: prompts a call; what was answered reaches the disk after each.
        retries: times that a prompt is sent again after an error of the engine.
        budget: where to stop.
        replicates: resamples of an interval.
        resume: continue from the journals; false asks, judges and checks everything again.

    Raises:
        ConfigError: a count out of range.
    """

    generation: GenerationSettings = field(default_factory=lambda: GenerationSettings(max_new_tokens=64))
    restarts: int = 1
    seed: int = 0
    policy: Policy = field(default_factory=Policy.default)
    mode: Mode = "prompt"
    batch_size: int = 16
    retries: int = 2
    budget: Budget = field(default_factory=Budget)
    replicates: int = REPLICATES
    resume: bool = True

    def __post_init__(self) -> None:
        for name, least in (("restarts", 1), ("batch_size", 1), ("retries", 0), ("replicates", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"`{getattr(self, name)}` is below {least}", where=name)
