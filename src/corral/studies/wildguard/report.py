"""The report of a run: every figure with its interval, the arms beside each other, ours beside published."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from corral.core.evidence import Claim
from corral.core.files import read_json
from corral.core.runs import Run
from corral.studies.wildguard.measures import HARM, READINGS, REFUSAL, Question, Scores
from corral.studies.wildguard.public_sets import read_public
from corral.studies.wildguard.rows import BENIGN_REFUSALS, REFUSALS, RESPONSES, STOCK_REFUSALS
from corral.studies.wildguard.settings import FULL, TASKS, WildGuardConfig
from corral.studies.wildguard.trainings import GUARD, KEYWORDS, PROMPT_TESTS, only

_METRICS: Final = ("f1", "flag_all_f1", "ap", "recall", "fpr")
_QUESTIONS: Final[Mapping[str, tuple[str, Question]]] = {
    **{name: (name, HARM) for name in (*PROMPT_TESTS, RESPONSES)},
    **{f"{REFUSALS}, {reading} reading": (REFUSALS, question) for reading, question in READINGS.items()},
    BENIGN_REFUSALS: (BENIGN_REFUSALS, REFUSAL),
    STOCK_REFUSALS: (STOCK_REFUSALS, REFUSAL),
}


def study_report(scores: Scores, claims: Sequence[Claim], config: WildGuardConfig, run: Run) -> dict[str, Any]:
    """Tables by test and arm, claims in short, and where the guard is."""
    arms = [*config.arms, *(only(task) for task in TASKS if config.single_tasks), KEYWORDS]
    return {
        "claims": {claim.claim: claim.holds for claim in claims},
        "tests": {
            name: {arm: _figures(scores, arm, *asked) for arm in arms if scores.has(arm, asked[0])}
            for name, asked in _QUESTIONS.items()
            if scores.has(FULL, asked[0])
        },
        "public": read_public(run),
        "rows": read_json(run.artefacts / "rows.json"),
        "guard": str((run.artefacts / GUARD).relative_to(run.path)),
    }


def _figures(scores: Scores, arm: str, test: str, question: Question) -> dict[str, Any]:
    return {metric: scores.figure(arm, test, question, metric).to_json() for metric in _METRICS}
