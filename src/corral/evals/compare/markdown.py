"""A comparison as tables, for Markdown and the terminal alike."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from corral.evals.compare.results import Change, Comparison, MeasureChanges
from corral.evals.report import markdown_table
from corral.evals.report_tables import Table
from corral.evals.reporting.wording import (
    AREAS,
    basis_text,
    difference_interval_text,
    difference_text,
    full_title,
    interval_text,
    relative_text,
    value_text,
)

TONES: Final = {"better": "better", "worse": "worse", "open": "no change shown"}
PREFERRED: Final = "Whose answers a judge prefers"
_COLUMNS: Final = ("measure", "with", "A", "other", "other - A", "95 % interval", "relative", "p", "", "rests on")


def tables(comparison: Comparison) -> Iterator[Table]:
    """Who is compared, a table an area, and what is not compared."""
    columns = ("", "model", "revision", "guards", "measured")
    yield Table("Scorecards", columns, tuple(_side_cells(comparison)))
    for area, title in AREAS.items():
        rows = tuple(
            _cells(measure, change)
            for measure in comparison.measures
            if measure.area == area
            for change in measure.changes
        )
        if rows:
            yield Table(title, _COLUMNS, rows)
    if comparison.preferences:
        yield Table(PREFERRED, ("", "measure", "", "95 % interval", "rests on"), tuple(_preference_cells(comparison)))
    if comparison.not_compared:
        rows = tuple((each.name, each.reason) for each in comparison.not_compared)
        yield Table("Not compared", ("task or measure", "why"), rows)


def markdown(comparison: Comparison) -> str:
    """The whole comparison as Markdown."""
    letters = ", ".join(side.letter for side in comparison.sides[1:])
    lines = [f"# {letters} against A", ""]
    lines.append(f"Differences are the other minus A, paired on the samples of both. Made {comparison.created}.")
    for table in tables(comparison):
        lines += ["", *markdown_table(table)]
    lines += ["", "## What to know", "", *[f"- {caveat}" for caveat in all_caveats(comparison)]]
    return "\n".join(lines) + "\n"


def all_caveats(comparison: Comparison) -> list[str]:
    """What a reader must know, of what a judge prefers first."""
    preferred = [caveat for each in comparison.preferences for caveat in each.caveats]
    return list(dict.fromkeys([*preferred, *comparison.caveats]))


def p_text(p_value: float | None) -> str | None:
    """McNemar's p as reports print it."""
    if p_value is None:
        return None
    return "< 0.001" if p_value < 0.001 else f"{p_value:.3f}"


def _side_cells(comparison: Comparison) -> Iterator[tuple[str, ...]]:
    for side in comparison.sides:
        guards = ", ".join(f"{name} {revision}" for name, revision in side.guards.items())
        yield (side.letter, side.subject, side.revision or "unknown", guards, f"{side.created}, {side.machine}")


def _preference_cells(comparison: Comparison) -> Iterator[tuple[str, ...]]:
    for preference in comparison.preferences:
        for measure in preference.entry.measures:
            figure = preference.entry.figures[measure.name]
            yield (
                f"{preference.letter} against A",
                measure.title,
                value_text(figure.value, measure.unit),
                interval_text(figure.ci95, measure.unit),
                basis_text(figure.n, figure.clusters, figure.unscored),
            )


def _cells(measure: MeasureChanges, change: Change) -> tuple[str | None, ...]:
    relative = None if change.relative is None else relative_text(change.relative.value, change.relative.ci95)
    return (
        full_title(measure.title, measure.area, measure.group, measure.guard),
        change.letter,
        value_text(change.baseline.value, measure.unit),
        value_text(change.other.value, measure.unit),
        difference_text(change.difference.value, measure.unit),
        difference_interval_text(change.difference.ci95, measure.unit),
        relative,
        p_text(change.mcnemar_p),
        TONES[change.tone],
        basis_text(change.difference.n, change.difference.clusters, change.difference.unscored),
    )
