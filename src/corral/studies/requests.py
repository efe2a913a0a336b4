"""Requests that studies ask models: harmful and harmless ones of several sources, each once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from corral.data.self_written import PREFIX, self_written_rows
from corral.redteam.goals import Goal, load_goals

_Kind = Literal["harmful", "benign"]


def requests(harmful: Mapping[str, int], benign: Mapping[str, int], seed: int) -> list[Goal]:
    """Harmful and harmless requests of every source, each once; none of a sexual category.

    Args:
        harmful: source of goals to the number drawn.
        benign: source of harmless requests to the number drawn.
        seed: of the draw.

    Raises:
        NotFoundError: a source that is not in the data folder.
    """
    found: dict[str, Goal] = {}
    kinds: tuple[tuple[_Kind, Mapping[str, int]], ...] = (("harmful", harmful), ("benign", benign))
    for kind, sources in kinds:
        for name, limit in sources.items():
            for goal in _goals(name, kind, limit, seed):
                found.setdefault(goal.cluster, goal)
    return list(found.values())


def _goals(name: str, kind: _Kind, limit: int, seed: int) -> Sequence[Goal]:
    if not name.startswith(PREFIX):
        return load_goals([name], kind=kind, limit=limit, seed=seed).goals
    rows = [row for row in self_written_rows(name) if row.target == "prompt" and row.harmful is (kind == "harmful")]
    return [
        Goal(f"{row.source}/{row.id}", row.text, kind, source=row.source, licence=row.licence) for row in rows[:limit]
    ]
