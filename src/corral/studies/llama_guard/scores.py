"""Scores of the study: rows as trained guards judge them under policies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from corral.core.runs import Run
from corral.data.examples import ModerationExample
from corral.guards.base import Guard
from corral.guards.llama_guard.guard import LlamaGuard
from corral.guards.llama_guard.prompts import PolicyPrompt
from corral.studies.llama_guard.trainings import TrainedModels, Training, policy_key
from corral.studies.verdict_store import Judged, VerdictStore


class ScoreStore(VerdictStore):
    """Journals of verdicts in a run directory, one a guard and policy.

    Args:
        run: the run.
        models: trains and loads.
        batch: rows a call; scores reach the disk after each.
    """

    def __init__(self, run: Run, models: TrainedModels, *, batch: int) -> None:
        super().__init__(run, batch=batch)
        self._models = models

    def judge(
        self, training: Training, policy: PolicyPrompt, rows: Sequence[ModerationExample], *, decode: bool = False
    ) -> Judged:
        """Rows as a trained guard judges them under a policy.

        Args:
            training: of the guard; done now if need be, and only if rows are left to judge.
            policy: in the prompt.
            rows: what is judged, each by its own target.
            decode: read the codes after ``unsafe`` too.
        """
        mode: Any = "decoded" if decode else "none"
        key = {"training": training.digest, "policy": policy_key(policy), "mode": mode}

        def guard() -> Guard:
            return LlamaGuard(
                self._models.engine(training),
                policy,
                category_mode=mode,
                model_revision=training.digest,
            )

        return self.judge_by(training.name, key, rows, guard)
