"""The report of a matrix: JSON and CSV for programs, Markdown for people. Texts stay out unless asked for."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from corral.core.stats import Estimate
from corral.evals.report_tables import Table
from corral.evals.tasks.content_moderation.items import Item, count_by
from corral.evals.tasks.content_moderation.matrix import TASK, TASK_VERSION, Cell, MatrixResult
from corral.evals.tasks.content_moderation.rates import Rates, Robustness, rates_of, robustness_of
from corral.guards.base import Status

Finding = Literal["agrees", "disagrees", "cannot say"]

_GALLERY: Final = 10
_SHOWN_CHARACTERS: Final = 120
RATES: Final = "Moderators"
NO_PUBLISHED: Final = (
    "No published number stands here: the paper's result tables are not available to us, and our items, moderators and "
    "prompts are not its own."
)


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """A published statement, and whether our run agrees.

    ``source`` says how sure we are that the paper says so; ``because`` names the figures that decide.
    """

    statement: str
    source: str
    finding: Finding
    because: str


@dataclass(frozen=True)
class MatrixReport:
    """Everything that a report shows; made by ``report_of``."""

    result: MatrixResult
    rates: tuple[Rates, ...]
    robustness: tuple[Robustness, ...]
    hypotheses: tuple[Hypothesis, ...] = ()
    notes: tuple[str, ...] = ()
    more: tuple[Table, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values; texts are not among them."""
        return {
            "task": TASK,
            "task_version": TASK_VERSION,
            "note": NO_PUBLISHED,
            "items": dict(count_by(self.result.items.values())),
            "moderators": {name: each.revision for name, each in self.result.moderators.items()},
            "missing": list(self.result.missing),
            "rates": [each.to_json() for each in self.rates],
            "robustness": [each.to_json() for each in self.robustness],
            "hypotheses": [
                {"statement": h.statement, "source": h.source, "finding": h.finding, "because": h.because}
                for h in self.hypotheses
            ],
            "notes": list(self.notes),
        }

    def to_csv(self) -> str:
        """One line a cell, with the labels of its item."""
        with io.StringIO() as out:
            writer = csv.writer(out, lineterminator="\n")
            writer.writerow([*_ITEM_COLUMNS, *_CELL_COLUMNS])
            for cell in self.result.cells:
                item = self.result.items[cell.item].to_json()
                writer.writerow(
                    [item[name] for name in _ITEM_COLUMNS] + [getattr(cell, name) for name in _CELL_COLUMNS]
                )
            return out.getvalue()

    def tables(self) -> Iterator[Table]:
        """Items, rates, changes and hypotheses, and what was measured beside, for every format."""
        items = count_by(self.result.items.values()).items()
        yield Table("Items", ("source, modality, label", "n"), tuple((name, str(n)) for name, n in items))
        yield Table(RATES, _RATES_HEAD, tuple(_rates_row(each) for each in self.rates))
        yield Table("Misses by category", _CATEGORY_HEAD, tuple(_category_rows(self.rates)))
        yield Table("Cells without a verdict", _WAYS_HEAD, tuple(_ways_rows(self.rates)))
        yield Table("Robustness", _CHANGE_HEAD, tuple(_change_row(each) for each in self.robustness))
        if self.hypotheses:
            rows = tuple((h.statement, h.source, h.finding, h.because) for h in self.hypotheses)
            yield Table("What others found, and whether we do", _HYPOTHESES_HEAD, rows)
        yield from self.more

    def worst_errors(self) -> Iterator[Cell]:
        """Wrong verdicts on items as they are, the surest first, at most ten a moderator."""
        items = self.result.items
        for moderator in self.result.moderators:
            cells = self.result.of(moderator)
            wrong = [c for c in cells if c.flagged is not None and c.flagged != items[c.item].harmful]
            yield from sorted(wrong, key=lambda c: -abs((c.p_harm or 0.0) - 0.5))[:_GALLERY]

    def to_markdown(self, *, show_content: bool = False) -> str:
        """Tables of rates and changes, hypotheses, and the worst errors, their texts only when asked for."""
        parts = ["# Content moderation", NO_PUBLISHED, *self.notes]
        if self.result.missing:
            parts.append(f"**Not finished:** {len(self.result.missing)} cells are missing, the first: " + _first(self))
        for table in self.tables():
            parts += [f"## {table.title}", *([RATES_NOTE] if table.title == RATES else [])]
            parts.append(_table(table.columns, table.rows))
        parts += ["## Worst errors", _gallery(self, show_content=show_content)]
        return "\n\n".join(parts) + "\n"


def report_of(
    result: MatrixResult,
    *,
    hypotheses: Sequence[Hypothesis] = (),
    notes: Sequence[str] = (),
    more: Sequence[Table] = (),
    seed: int = 0,
    replicates: int = 2000,
) -> MatrixReport:
    """The report of what has been judged so far.

    Args:
        result: the cells.
        hypotheses: of others, and whether our run agrees.
        notes: what a reader must know.
        more: tables of what was measured beside the matrix.
        seed: of the intervals.
        replicates: resamples of an interval.
    """
    rates = rates_of(result, by_style=True, seed=seed, replicates=replicates)
    changes = robustness_of(result, seed=seed, replicates=replicates)
    return MatrixReport(result, tuple(rates), tuple(changes), tuple(hypotheses), tuple(notes), tuple(more))


_ITEM_COLUMNS: Final = ("id", "modality", "style", "category", "benign_kind", "language", "source", "cluster")
_CELL_COLUMNS: Final = ("moderator", "condition", "status", "flagged", "p_harm", "windows", "latency_ms")
RATES_NOTE: Final = (
    "Rates with 95 % Wilson intervals, cells without a verdict left out; average precision over clusters, its floor in "
    "brackets. Items of categories that a moderator has nothing for are left out."
)
_RATES_HEAD: Final = (
    *("moderator", "items", "condition", "n", "accuracy", "FNR", "FPR plain", "FPR sensitive", "F1", "AP"),
    *("macro recall", "p50 ms", "p95 ms"),
)
_CATEGORY_HEAD: Final = ("moderator", "items", "category", "it has", "FNR")
_WAYS_HEAD: Final = ("moderator", "items", "outcomes", "counted", "accuracy", "FNR", "FPR")
_HYPOTHESES_HEAD: Final = ("statement", "source", "ours", "because")
_CHANGE_HEAD: Final = ("moderator", "items", "condition", "flips", "change of FNR", "change of FPR")


def _rates_row(rates: Rates) -> tuple[str, ...]:
    way = rates.ways["excluded"]
    ap = "-" if rates.ap.value is None else f"{_shown(rates.ap)} [{rates.ap_floor or 0:.2f}]"
    latency = ("-", "-") if rates.latency_ms is None else tuple(f"{ms:.1f}" for ms in rates.latency_ms)
    return (
        rates.moderator,
        f"{rates.modality} {rates.style}".strip(),
        rates.condition,
        str(rates.n),
        *(_shown(each) for each in (way.accuracy, way.fnr, way.fpr_plain, way.fpr_sensitive)),
        "-" if way.counts.f1 is None else f"{way.counts.f1:.2f}",
        ap,
        "-" if rates.macro_recall is None else f"{rates.macro_recall:.2f}",
        *latency,
    )


def _category_rows(rates: Sequence[Rates]) -> list[tuple[str, ...]]:
    return [
        (
            each.moderator,
            each.modality,
            category or "(other harm)",
            support,
            "not supported" if fnr is None else _shown(fnr),
        )
        for each in rates
        if each.condition == "plain" and not each.style
        for category, (support, fnr) in each.fnr_by_category.items()
    ]


def _ways_rows(rates: Sequence[Rates]) -> list[tuple[str, ...]]:
    return [
        (
            each.moderator,
            each.modality,
            ", ".join(f"{count} {status}" for status, count in sorted(each.outcomes.items())),
            way.replace("_", " "),
            *(_shown(figure) for figure in (figures.accuracy, figures.fnr, figures.fpr)),
        )
        for each in rates
        if each.condition == "plain" and not each.style and set(each.outcomes) - {Status.OK.value}
        for way, figures in each.ways.items()
    ]


def _change_row(change: Robustness) -> tuple[str, ...]:
    figures = (change.flip_rate, change.fnr_change, change.fpr_change)
    return (change.moderator, change.modality, change.condition, *(_shown(each) for each in figures))


def _shown(estimate: Estimate) -> str:
    if estimate.value is None:
        return "-"
    interval = "" if estimate.ci95 is None else f" ({100 * estimate.ci95[0]:.1f} to {100 * estimate.ci95[1]:.1f})"
    return f"{100 * estimate.value:.1f} %{interval}"


def _gallery(report: MatrixReport, *, show_content: bool) -> str:
    rows = [_error_row(report.result, cell, show_content) for cell in report.worst_errors()]
    return _table(("moderator", "item", "is", "flagged", "score", "content"), rows)


def _error_row(result: MatrixResult, cell: Cell, show_content: bool) -> tuple[str, ...]:
    item = result.items[cell.item]
    text = shown_text(item) if item.modality == "text" else "(not shown)"
    shown = text.replace("|", "\\|") if show_content else f"({len(item.text)} characters)"
    return (cell.moderator, item.id, *labels(item, cell), shown)


def labels(item: Item, cell: Cell) -> tuple[str, str, str]:
    """What an item is, whether it was flagged, and its score."""
    kind = f"{item.category or 'harmful'} {item.benign_kind}".strip()
    return kind, "yes" if cell.flagged else "no", "-" if cell.p_harm is None else f"{cell.p_harm:.2f}"


def shown_text(item: Item) -> str:
    """The beginning of a text, on one line."""
    return " ".join(item.text[:_SHOWN_CHARACTERS].split())


def _first(report: MatrixReport) -> str:
    return f"`{report.result.missing[0]}`."


def _table(head: Sequence[str], rows: Any) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(str(cell) for cell in row) + " |" for row in rows)])
