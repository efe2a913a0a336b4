"""Writing an error analysis: JSON and Markdown. Texts are there only when the analysis was asked for them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from corral.core.files import atomic_write_json, atomic_write_text
from corral.evals.error_analysis import Breakdown, ErrorReport, Mistake, SetMistakes
from corral.evals.report import markdown_table
from corral.evals.report_tables import Cell, Table

ERRORS_JSON: Final = "errors.json"
ERRORS_MARKDOWN: Final = "errors.md"
_SHOWN_CHARACTERS: Final = 300


def write_errors(report: ErrorReport, out: Path) -> None:
    """Write ``errors.json`` and ``errors.md`` into a folder."""
    atomic_write_json(out / ERRORS_JSON, report.model_dump(mode="json"))
    lines = [f"# Mistakes of {report.guard} (revision {report.revision}) at {report.threshold:g}"]
    for table in error_tables(report):
        lines += ["", *markdown_table(table)]
    atomic_write_text(out / ERRORS_MARKDOWN, "\n".join(lines) + "\n")


def error_tables(report: ErrorReport) -> Iterator[Table]:
    """Totals of all sets, then each set's breakdowns and worst mistakes."""
    totals = tuple(
        (
            each.name,
            _rate(each.false_negatives, each.positives),
            _rate(each.false_positives, each.negatives),
            each.unscored,
        )
        for each in report.sets
    )
    yield Table("Mistakes by set", ("set", "missed of positive", "flagged of negative", "unscored"), totals)
    for each in report.sets:
        yield _breakdown_table(each)
        for title, worst in (
            ("false positives, highest scores first", each.worst_false_positives),
            ("false negatives, lowest scores first", each.worst_false_negatives),
        ):
            if worst:
                yield _worst_table(f"{each.name}: {title}", worst)


def _breakdown_table(mistakes: SetMistakes) -> Table:
    def row(each: Breakdown) -> tuple[Cell, ...]:
        missed, flagged = _rate(each.false_negatives, each.positives), _rate(each.false_positives, each.negatives)
        return each.by, each.value, missed, flagged

    columns = ("by", "value", "missed of positive", "flagged of negative")
    return Table(f"{mistakes.name}: where the mistakes are", columns, tuple(map(row, mistakes.breakdowns)))


def _worst_table(title: str, worst: tuple[Mistake, ...]) -> Table:
    shown = any(each.text is not None for each in worst)
    rows = tuple(
        (
            each.id,
            f"{each.score:.3f}",
            each.language or None,
            each.characters,
            ", ".join(each.categories) or None,
            *([_beginning(each.text or "")] if shown else []),
        )
        for each in worst
    )
    columns = ("row", "score", "language", "characters", "categories")
    return Table(title, (*columns, "text") if shown else columns, rows)


def _beginning(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= _SHOWN_CHARACTERS else f"{flat[:_SHOWN_CHARACTERS]} ..."


def _rate(part: int, whole: int) -> str | None:
    return f"{part} of {whole} ({part / whole:.1%})" if whole else None
