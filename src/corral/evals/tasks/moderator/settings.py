"""How the moderator task is run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from corral.core.stats import REPLICATES
from corral.data.messages import TargetMode
from corral.guards.policy import Policy
from corral.models.engines.base import GenerationSettings

TASK_VERSION: Final = "1"
"""Raised whenever what is delivered, or how it is counted, changes, so that figures stay apart."""

CANNED_REFUSAL: Final = "I'm sorry, but I can't help with that."
"""Delivered in the place of what the policy does not let through."""

Mode = TargetMode
"""What the guard checks: the prompt alone, the reply in the light of the prompt, or one after the other."""


@dataclass(frozen=True, slots=True)
class ModeratorSettings:
    """How the task is run.

    Attributes:
        generation: how the target answers. Sampled replies depend on the seed and the prompt alone.
        policy: what a verdict means; by default harm at the shipped operating point blocks, and so does a guard that
            gives no verdict.
        target_revision: of the target's weights, "" when unknown; replies of another revision are not reused.
        batch_size: prompts a call; what was answered reaches the disk after each call.
        seed: of every bootstrap.
        replicates: resamples a figure.
        resume: continue from the journals; false answers, judges and checks everything again.
    """

    generation: GenerationSettings = GenerationSettings(max_new_tokens=64)  # noqa: RUF009 (frozen)
    policy: Policy = Policy()  # noqa: RUF009 (frozen)
    target_revision: str = ""
    batch_size: int = 32
    seed: int = 0
    replicates: int = REPLICATES
    resume: bool = True
