"""The public columns of WildGuard's table: the trained guard's F1 beside the published figures, where they compare."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from corral.core.files import atomic_write_json, read_json
from corral.core.runs import Run
from corral.evals.beside_published import with_published
from corral.evals.measures import measure
from corral.evals.tasks.moderation import choose_sets
from corral.evals.tasks.scoring import RowLoader, score_guard
from corral.guards.base import Guard
from corral.studies.wildguard.settings import PublicConfig, WildGuardConfig

PUBLIC: Final = "public.json"
_TABLE: Final = "T1"
_SHOWN: Final = ("f1", "flag_all_f1", "fpr", "ap", "recall")


def measure_public(run: Run, config: WildGuardConfig, settings: PublicConfig, shown: Callable[[], Guard]) -> None:
    """Score the guard on the public sets that are present, and write ``public.json``; done once a run.

    Verdicts are journals below ``cells/public``. A published figure stands beside ours only where the whole set was
    scored under the same label rule.
    """
    path = run.artefacts / PUBLIC
    if path.exists():
        return
    scored = score_guard(
        shown(),
        choose_sets(settings.sets),
        RowLoader(limit=settings.limit, seed=config.seed),
        run.path / "cells" / "public",
        batch_size=config.scoring_batch,
    )
    sets: dict[str, Any] = {}
    for name, each in scored.sets.items():
        result = with_published(measure(each, seed=config.seed, replicates=config.replicates), each.eval_set)
        sets[name] = {
            "n": result.n,
            "rows_in_set": result.rows_in_set,
            "unscored": result.unscored,
            "figures": {
                figure: {"value": result.figures[figure].value, "ci95": result.figures[figure].ci95}
                for figure in _SHOWN
                if figure in result.figures
            },
            "published": [
                {"system": row.system, "f1": row.value, "mark": row.mark, "caveat": row.caveat}
                for row in result.published
                if row.table == _TABLE and row.metric == "f1"
            ],
        }
        run.log(cell="public", set=name, rows=result.n, f1=result.figures["f1"].value)
    skipped = {each.set: each.reason for each in scored.skipped}
    atomic_write_json(path, {"guard": scored.revision, "sets": sets, "skipped": skipped})


def read_public(run: Run) -> dict[str, Any] | None:
    """What ``measure_public`` wrote; ``None`` when the settings do not ask for it."""
    path = run.artefacts / PUBLIC
    return dict(read_json(path)) if path.is_file() else None
