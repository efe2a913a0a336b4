"""The scorecard as tables, for Markdown and the terminal alike."""

from __future__ import annotations

from collections.abc import Iterator

from corral.evals.report import markdown_table
from corral.evals.report_tables import Table
from corral.evals.reporting.wording import AREAS, basis_text, direction_text, full_title, interval_text, value_text
from corral.evals.results import PublishedRow
from corral.evals.scorecard.results import MeasureRow, Scorecard

PUBLISHED = "Published figures of the same sets, not measured here"
_METRICS = {"ap": "average precision", "f1": "F1", "recall": "recall", "fpr": "FPR"}
_COLUMNS = ("measure", "figure", "95 % interval", "chance", "rests on", "")


def tables(card: Scorecard) -> Iterator[Table]:
    """A table an area, then what was skipped and why."""
    for area, title in AREAS.items():
        rows = tuple(_cells(row) for row in card.rows() if row.area == area)
        if rows:
            yield Table(title, _COLUMNS, rows)
    if published := published_table(card):
        yield published
    for title, failed in (("Failed", True), ("Not measured", False)):
        skipped = tuple((task.task, task.reason, task.hint) for task in card.skipped if task.failed is failed)
        if skipped:
            yield Table(title, ("task", "why", "what to do"), skipped)


def published_table(card: Scorecard) -> Table | None:
    """Figures that others printed of the sets that were measured whole, marked with where they are from."""
    rows = tuple(
        (
            name,
            row.system,
            _METRICS.get(row.metric, row.metric),
            value_text(row.value, "share"),
            _source(row),
            row.caveat,
        )
        for entry in card.tasks
        for name, published in entry.published.items()
        for row in published
    )
    return Table(PUBLISHED, ("set", "system", "metric", "published", "from", "caveat"), rows) if rows else None


def _source(row: PublishedRow) -> str:
    return f"{row.mark}, {row.table}" + (", on more rows than ours" if row.relation == "subset" else "")


def markdown(card: Scorecard) -> str:
    """The whole scorecard as Markdown."""
    facts = {
        "revision": card.revision or "unknown",
        **{f"guard {guard.name}": f"revision {guard.revision}" for guard in card.guards},
        "scorecard": f"version {card.scorecard_version}, Corral {card.corral_version}, {card.created}",
        "machine": card.machine,
        "items a task": f"at most {limit}" if (limit := card.settings.get("limit")) else "the default of each task",
    }
    lines = [f"# Scorecard of {card.subject}", "", *[f"- {name}: {value}" for name, value in facts.items()]]
    for table in (*tables(card), _method(card)):
        lines += ["", *markdown_table(table)]
    caveats = [f"- {entry.task}: {caveat}" for entry in card.tasks for caveat in entry.caveats]
    if caveats:
        lines += ["", "## What to know", "", *caveats]
    return "\n".join(lines) + "\n"


def _cells(row: MeasureRow) -> tuple[str | None, ...]:
    return (
        full_title(row.title, row.area, row.group, row.guard),
        value_text(row.value, row.unit),
        interval_text(row.ci95, row.unit),
        None if row.chance is None else value_text(row.chance, row.unit),
        basis_text(row.n, row.clusters, row.unscored),
        "; ".join(note for note in (direction_text(row.higher_is_better), row.note) if note),
    )


def _method(card: Scorecard) -> Table:
    return Table(
        "How it was measured",
        ("task", "version", "data", "judge", "samples", "seconds"),
        tuple(
            (
                entry.task,
                entry.version,
                entry.data_hash[:12],
                entry.judge_revision,
                entry.samples,
                f"{entry.seconds:.1f}",
            )
            for entry in card.tasks
        ),
    )
