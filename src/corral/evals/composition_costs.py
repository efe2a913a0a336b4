"""What guards made of guards cost, beside what their parts cost alone on the same rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from corral.evals.report_tables import Cell, Table
from corral.evals.results import GuardResult, ModerationReport, PartCost, SetResult


def with_measured_parts(guards: Sequence[GuardResult]) -> Iterator[GuardResult]:
    """The results, with measured for estimated times where a part was also measured alone on the same rows."""
    alone = {
        (guard.name, result.name, result.rows_sha256): result.seconds
        for guard in guards
        for result in guard.sets
        if not result.parts
    }
    for guard in guards:
        sets = tuple(
            result.model_copy(
                update={
                    "parts": tuple(
                        _measured(part, alone.get((part.guard, result.name, result.rows_sha256)))
                        for part in result.parts
                    )
                }
            )
            for result in guard.sets
        )
        yield guard.model_copy(update={"sets": sets})


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


def _measured(part: PartCost, seconds: float | None) -> PartCost:
    return part if seconds is None else part.model_copy(update={"seconds_alone": seconds, "measured": True})


def _rows(guard: GuardResult, result: SetResult) -> Iterator[tuple[Cell, ...]]:
    for part in result.parts:
        estimated = "" if part.measured else "about "
        alone = None if part.seconds_alone is None else f"{estimated}{part.seconds_alone:.1f}"
        yield (
            result.name,
            guard.name,
            part.guard,
            part.rows if part.rows == part.calls else f"{part.rows} ({part.calls} calls)",
            f"{part.rows / result.n:.1%}",
            part.failed or None,
            f"{part.seconds:.1f}",
            alone,
            None,
        )
    total = sum(part.seconds for part in result.parts)
    yield result.name, guard.name, "together", result.n, None, None, f"{total:.1f}", None, _saved(result, total)


def _saved(result: SetResult, total: float) -> str | None:
    """Against what would be run if there were no composition: of a cascade its costly guard, else the dearest part."""
    known = [(part.seconds_alone, part.rows < result.n, part.guard) for part in result.parts if part.seconds_alone]
    if len(known) < 2:
        return None
    alone, _, name = max(known, key=lambda each: (each[1], each[0]))
    return f"{alone - total:+.1f} s, {(alone - total) / alone:.0%} against {name} alone"
