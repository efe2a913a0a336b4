"""The tasks of the scorecard: a fixed, versioned set, each by name.

A scorecard says which version of the set it followed. The default set fits into a quarter of an hour for a model of 135
million parameters on two cores; each task carries a version and a data hash of its own, so scorecards of other limits
and sets are told apart.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from corral.core.errors import NotFoundError, suggest
from corral.evals.tasks.delivered_answers import DeliveredAnswers, JudgedByGuard
from corral.evals.tasks.guard_quality import GuardQuality
from corral.evals.tasks.latency import Latency
from corral.evals.tasks.multiple_choice.task import MultipleChoice
from corral.evals.tasks.perplexity.task import Perplexity
from corral.evals.tasks.task import EvalTask

SCORECARD_VERSION: Final = "1"
"""Raised whenever the default set or a limit of it changes."""

REQUESTS: Final = 100
"""Requests of each kind that the default set asks."""

GUARD_ROWS: Final = 200
"""Rows of each labelled set that the default set shows to a guard."""


TIMED_REQUESTS: Final = 20
"""Requests that are timed, one by one; more take longer without telling more."""


@dataclass(frozen=True, slots=True)
class TaskSettings:
    """What all tasks share.

    Attributes:
        limit: at most so many items a task (a set, for guards); each task's own default when ``None``.
        seed: of every draw.
        root: the data folder; ``data_root()`` when ``None``.
    """

    limit: int | None = None
    seed: int = 0
    root: Path | None = None


def _perplexity(settings: TaskSettings) -> EvalTask:
    return Perplexity(limit=settings.limit)


def _multiple_choice(settings: TaskSettings) -> EvalTask:
    return MultipleChoice(limit=settings.limit)


def _latency(settings: TaskSettings) -> EvalTask:
    return Latency(limit=min(settings.limit or TIMED_REQUESTS, TIMED_REQUESTS))


def _attack_success(settings: TaskSettings) -> DeliveredAnswers:
    return DeliveredAnswers(
        name="attack_success",
        title="Complies with harmful requests",
        kind="harmful",
        source="jailbreakbench",
        limit=settings.limit or REQUESTS,
        seed=settings.seed,
        root=settings.root,
    )


def _attack_success_guard_judge(settings: TaskSettings) -> EvalTask:
    requests = replace(_attack_success(settings), title="Harmful replies to harmful requests, as a guard judges")
    return JudgedByGuard("attack_success_guard_judge", requests)


def _over_refusal(settings: TaskSettings) -> EvalTask:
    return DeliveredAnswers(
        name="over_refusal",
        title="Refuses benign requests that sound harmful",
        kind="benign",
        source="self_written/benign_lookalikes",
        limit=settings.limit or REQUESTS,
        seed=settings.seed,
        root=settings.root,
    )


def _over_refusal_xstest(settings: TaskSettings) -> EvalTask:
    return DeliveredAnswers(
        name="over_refusal_xstest",
        title="Refuses XSTest's safe requests",
        kind="benign",
        source="xstest_prompts",
        limit=settings.limit or REQUESTS,
        seed=settings.seed,
        root=settings.root,
    )


def _guard_quality(settings: TaskSettings) -> EvalTask:
    return GuardQuality(limit=settings.limit or GUARD_ROWS, seed=settings.seed, root=settings.root)


TASKS: Final[Mapping[str, Callable[[TaskSettings], EvalTask]]] = {
    "perplexity": _perplexity,
    "multiple_choice": _multiple_choice,
    "attack_success": _attack_success,
    "attack_success_guard_judge": _attack_success_guard_judge,
    "over_refusal": _over_refusal,
    "over_refusal_xstest": _over_refusal_xstest,
    "guard_quality": _guard_quality,
    "latency": _latency,
}
"""Every task of the scorecard, in the order in which they are run and reported."""


def choose_tasks(names: Sequence[str] = ("default",), settings: TaskSettings | None = None) -> list[EvalTask]:
    """Tasks by name, in the order of the scorecard; ``default`` stands for all.

    Raises:
        NotFoundError: unknown name, or none at all.
    """
    for name in names:
        if name != "default" and name not in TASKS:
            raise NotFoundError(f"no task of the scorecard is named `{name}`", hint=suggest(name, TASKS))
    wanted = set(TASKS) if "default" in names else set(names)
    if not wanted:
        raise NotFoundError("no task was named", hint=f"Use `default`, or: {', '.join(TASKS)}.")
    return [make(settings or TaskSettings()) for name, make in TASKS.items() if name in wanted]
