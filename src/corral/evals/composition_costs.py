"""What guards made of guards cost, beside what their parts cost alone on the same rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from corral.evals.report_tables import Cell, Table
from corral.evals.results import GuardResult, ModerationReport, SetResult
from corral.guards.composition.costs import PartCost, saving


def with_measured_parts(guards: Sequence[GuardResult]) -> Iterator[GuardResult]:
    """The results, with measured for estimated times where the same guard was also measured alone on the same rows."""
    alone = {
        (guard.name, guard.revision, result.name, result.rows_sha256): result.seconds
        for guard in guards
        for result in guard.sets
        if not result.parts
    }

    def measured(part: PartCost, result: SetResult) -> PartCost:
        seconds = alone.get((part.guard, part.revision, result.name, result.rows_sha256))
        return part if seconds is None else part.model_copy(update={"seconds_alone": seconds, "measured": True})

    for guard in guards:
        sets = [
            result.model_copy(update={"parts": tuple(measured(part, result) for part in result.parts)})
            for result in guard.sets
        ]
        yield guard.model_copy(update={"sets": tuple(sets)})


def composition_costs(report: ModerationReport) -> Iterator[Table]:
    """One table: for each composition, set and part the rows that were asked about, the time, and what was saved."""
    rows = [
        row
        for guard in report.guards
        for result in guard.sets
        if len(result.parts) > 1 or any(part.calls != result.n for part in result.parts)
        for row in _rows(guard, result)
    ]
    if rows:
        columns = ("set", "guard", "part", "rows asked", "share", "no answer", "seconds", "seconds alone", "saved")
        yield Table("Cost of compositions", columns, tuple(rows))


def _rows(guard: GuardResult, result: SetResult) -> Iterator[tuple[Cell, ...]]:
    for part in result.parts:
        estimated = "" if part.measured else "about "
        yield (
            result.name,
            guard.name,
            part.path,
            part.rows if part.rows == part.calls else f"{part.rows} ({part.calls} calls)",
            f"{part.rows / result.n:.1%}",
            part.failed or None,
            f"{part.seconds:.1f}",
            f"{estimated}{part.seconds_alone:.1f}",
            None,
        )
    total = sum(part.seconds for part in result.parts)
    yield result.name, guard.name, "together", result.n, None, None, f"{total:.1f}", None, _saved(result)


def _saved(result: SetResult) -> str | None:
    found = saving(result.parts, result.n)
    if found is None:
        return None
    return f"{found.seconds:+.1f} s, {found.seconds / found.alone:.0%} against {found.path} alone"
