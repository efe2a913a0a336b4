"""The moderation task: guards on the public sets, with intervals, flag-all F1 and published figures beside.

Versioned by ``TASK_VERSION``. A rerun with the same output folder judges nothing twice; figures are computed anew from
the journals each time.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import chain
from pathlib import Path

from corral.core.errors import NotFoundError, UserError
from corral.core.stats import REPLICATES
from corral.evals.beside_published import not_comparable, with_published
from corral.evals.composition_costs import with_measured_parts
from corral.evals.gates import compare
from corral.evals.languages import language_tables
from corral.evals.measures import measure
from corral.evals.results import GuardResult, ModerationReport
from corral.evals.tasks.eval_set import EvalSet
from corral.evals.tasks.moderation_sets import SETS, find_set, headline_sets, in_order
from corral.evals.tasks.scoring import TASK_VERSION, RowLoader, ScoredGuard, score_guard
from corral.evals.tasks.styled_sets import JOINT
from corral.evals.under_attack import style_tables
from corral.guards.base import Guard


@dataclass(frozen=True, slots=True)
class ModerationSettings:
    """How the task is run.

    Attributes:
        root: the data folder; ``data_root()`` when ``None``.
        limit: at most this many rows a set, whole prompts drawn at random; all when ``None``.
        samples: the limit of single sets, by name, in place of ``limit``.
        seed: of that draw and of every bootstrap.
        replicates: resamples a figure.
        batch_size: rows a call to a guard.
        resume: continue from the journals in the output folder.
    """

    root: Path | None = None
    limit: int | None = None
    samples: Mapping[str, int] = field(default_factory=dict)
    seed: int = 0
    replicates: int = REPLICATES
    batch_size: int = 128
    resume: bool = True


def choose_sets(names: Sequence[str]) -> list[EvalSet]:
    """Sets by name, in the order of reports; ``headline`` and ``all`` stand for several.

    A set in an attack style (``NAME+STYLE``) brings the set as it is, and comes right behind it.

    Raises:
        NotFoundError: unknown name, or none at all.
        UserError: a set that cannot be asked in a style.
    """
    named = [name for name in names if name not in ("headline", "all")]
    chosen = [find_set(name) for name in named]
    styled = {each.name: each for each in chosen if each.style}
    wanted = {each.name.partition(JOINT)[0] for each in chosen}
    wanted.update(*(headline_sets() if name == "headline" else in_order() for name in names if name not in named))
    if not wanted:
        raise NotFoundError("no set was named", hint="Use `headline`, `all`, or names separated by commas.")
    plain = [SETS.get(name) for name in in_order() if name in wanted]
    return [
        each for one in plain for each in (one, *(s for n, s in styled.items() if n.partition(JOINT)[0] == one.name))
    ]


def run_moderation(
    guards: Iterable[Guard],
    sets: Sequence[EvalSet],
    out: Path,
    settings: ModerationSettings,
    *,
    baseline: Guard | None = None,
    baseline_rows: dict[str, int] | None = None,
    on_guard: Callable[[GuardResult], None] | None = None,
) -> ModerationReport:
    """Measure guards on sets, and compare each with a baseline on the same rows.

    Args:
        guards: what to measure; taken one after the other, so a generator keeps one in memory.
        sets: from ``choose_sets``.
        out: folder of the journals; ``report.write_report`` puts the report beside them.
        settings: see there.
        baseline: measured too, and what every guard is compared with.
        baseline_rows: how many rows of each source the baseline was fitted to.
        on_guard: called with each result as soon as it is there.

    Raises:
        UserError: two guards have the same name.
        DataError: a data file differs from the record or holds a malformed row.
    """
    loader = RowLoader(settings.root, settings.limit, settings.samples, settings.seed)
    scored: list[ScoredGuard] = []
    results: list[GuardResult] = []
    for guard in chain(guards, [baseline] if baseline else []):
        each = score_guard(guard, sets, loader, out, batch_size=settings.batch_size, resume=settings.resume)
        if any(each.name == other.name for other in scored):
            raise UserError(f"two guards are named `{each.name}`", hint="Measure them in runs of their own.")
        scored.append(each)
        results.append(measure_guard(each, settings))
        if on_guard is not None:
            on_guard(results[-1])
    ours = scored[:-1] if baseline else []
    first = {result.name: result for guard in reversed(results) for result in guard.sets}
    return ModerationReport(
        task_version=TASK_VERSION,
        corral_version=version("corral"),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        machine=f"{platform.system()} {platform.machine()}",
        settings={
            "limit": settings.limit,
            "seed": settings.seed,
            "replicates": settings.replicates,
            "batch_size": settings.batch_size,
        },
        samples=dict(settings.samples),
        guards=tuple(with_measured_parts(results)),
        gates=tuple(compare(each, scored[-1], seed=settings.seed, replicates=settings.replicates) for each in ours),
        baseline_rows=baseline_rows or {},
        not_comparable=tuple(not_comparable([(each, first[each.name]) for each in sets if each.name in first])),
    )


def measure_guard(scored: ScoredGuard, settings: ModerationSettings) -> GuardResult:
    """All figures of one guard."""
    seed, replicates = settings.seed, settings.replicates
    return GuardResult(
        name=scored.name,
        revision=scored.revision,
        taxonomy=scored.taxonomy,
        sets=tuple(
            with_published(measure(each, seed=seed, replicates=replicates), each.eval_set)
            for each in scored.sets.values()
        ),
        skipped=scored.skipped,
        languages=tuple(language_tables(scored.sets.values(), seed=seed, replicates=replicates)),
        styles=tuple(style_tables(scored.sets, seed=seed, replicates=replicates)),
    )
