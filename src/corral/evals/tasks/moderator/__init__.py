"""The moderator task: how often a guarded model delivers harm (ASR) and refuses what is benign (RTA).

The target answers every prompt once; guards are laid over the same answers, so all differences are paired.
"""

from corral.evals.tasks.moderator.prompts import load_prompts
from corral.evals.tasks.moderator.results import ModeratorReport, ModeratorResult
from corral.evals.tasks.moderator.run import compare_guards, run_moderator
from corral.evals.tasks.moderator.settings import CANNED_REFUSAL, Mode, ModeratorSettings

__all__ = [
    "CANNED_REFUSAL",
    "Mode",
    "ModeratorReport",
    "ModeratorResult",
    "ModeratorSettings",
    "compare_guards",
    "load_prompts",
    "run_moderator",
]
