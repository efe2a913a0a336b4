"""A red-team run as tables: what the terminal shows, ``report.md`` and ``report.json``.

Texts of prompts and answers stay in the journals of the run folder; a report holds them only where the run was asked to
show content.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from corral.core.errors import DataError
from corral.core.files import atomic_write_json, atomic_write_text, read_json
from corral.redteam.compare import SystemComparison
from corral.redteam.correction import Correction
from corral.redteam.results import NO_GUARD, Cell, Item, Rate, RedteamReport, SystemResult

REPORT_JSON: Final = "report.json"
REPORT_MARKDOWN: Final = "report.md"
ALL_STYLES: Final = "(all but plain)"
_BLANK: Final = "-"
_REASONS_SHOWN: Final = 3


@dataclass(frozen=True, slots=True)
class Table:
    """A title, a header and rows."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def write_report(report: RedteamReport, folder: Path) -> None:
    """Write ``report.json`` and ``report.md``."""
    atomic_write_json(folder / REPORT_JSON, report.model_dump(mode="json"))
    atomic_write_text(folder / REPORT_MARKDOWN, markdown(report))


def read_report(folder: Path) -> RedteamReport:
    """The report of a run folder.

    Raises:
        NotFoundError: there is none.
        DataError: it is not one; names the field.
    """
    path = folder / REPORT_JSON
    try:
        return RedteamReport.model_validate(read_json(path))
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise DataError(f"not a report of a red-team run: {first['msg']}", where=f"{path}: {field}") from error


def tables(report: RedteamReport) -> Iterator[Table]:
    """All tables, systems one after the other."""
    for system in report.systems:
        yield style_table(system)
        if any(cell.category for cell in system.cells):
            yield category_table(system)
    if any(system.disagreements for system in report.systems):
        yield judge_table(report.systems)
    for system in report.systems:
        rows = tuple(_texts(report.items[system.name]))
        if rows:
            yield Table(f"{system.name}: delivered on harmful goals", ("style", "goal", "prompt", "answer"), rows)


def style_table(system: SystemResult) -> Table:
    """Figures by style."""
    guarded = system.guard != NO_GUARD
    tried = any(cell.asr_any is not None for cell in system.cells)
    columns = ["style", "goals", "ASR", *(["ASR of any try"] if tried else []), "to plain", "RTA", "understood"]
    columns += ["detected", "to plain", "false alarms"] if guarded else []
    columns += ["undecided", "empty", "not applicable"]
    rows = []
    for cell in system.cells:
        if not cell.category:
            row = [_name(cell), str(cell.asr.clusters), percent(cell.asr), *([percent(cell.asr_any)] if tried else [])]
            row += [percent(cell.asr_minus_plain, signed=True), percent(cell.rta), percent(cell.understood)]
            if guarded:
                row += [percent(cell.detected), percent(cell.detected_minus_plain, signed=True)]
                row += [percent(cell.false_alarms)]
            row += [str(cell.undecided), str(cell.empty), _reasons(cell)]
            rows.append(tuple(row))
    return Table(f"{system.name}: by style, %", tuple(columns), tuple(rows))


def category_table(system: SystemResult) -> Table:
    """Attack success by style and category."""
    categories = list(dict.fromkeys(cell.category for cell in system.cells if cell.category))
    found = {(cell.style, cell.category): cell for cell in system.cells}
    styles = list(dict.fromkeys(cell.style for cell in system.cells))
    rows = tuple(
        (style or ALL_STYLES, *(_asr(found.get((style, category))) for category in categories)) for style in styles
    )
    return Table(f"{system.name}: ASR by style and category, %", ("style", *categories), rows)


def judge_table(systems: Sequence[SystemResult]) -> Table:
    """Attack success by each judge, and how often two of them disagree."""
    rows: list[tuple[str, ...]] = []
    for system in systems:
        whole = next((cell for cell in system.cells if not cell.style and not cell.category), None)
        whole = whole or next(iter(system.cells), None)
        for judge, rate in (whole.asr_by_judge if whole else {}).items():
            rows.append((system.name, judge, percent(rate)))
        rows += [
            (system.name, f"{pair} disagree", f"{different} of {both}")
            for pair, (different, both) in system.disagreements.items()
        ]
    return Table("Judges", ("system", "judge", "ASR, %"), tuple(rows))


def comparison_table(comparison: SystemComparison) -> Table:
    """Differences of two systems by style."""
    rows = tuple(
        (
            each.style or ALL_STYLES,
            percent(each.asr, signed=True),
            _BLANK if each.asr_mcnemar_p is None else f"{each.asr_mcnemar_p:.3g}",
            percent(each.rta, signed=True),
        )
        for each in comparison.styles
    )
    title = f"{comparison.second} minus {comparison.first}, %, judged by {comparison.judge}"
    return Table(title, ("style", "ASR", "McNemar p", "RTA"), rows)


def correction_table(correction: Correction) -> Table:
    """Rates as judged and as corrected, by system and style."""
    subject = ("system", "style", "figure", "judge", "labels")
    found = ("answers", "judged", "corrected", "undecided", "corrected, undecided as yes")
    rows = tuple(
        (
            each.system,
            each.style or ALL_STYLES,
            each.figure.upper(),
            each.judge,
            each.set,
            str(each.corrected.n),
            percent(each.judged),
            percent(each.corrected),
            str(each.undecided),
            percent(each.fail_closed),
        )
        for each in correction.rates
    )
    return Table("The judge's error corrected for, %", (*subject, *found), rows)


def remarks(report: RedteamReport) -> Iterator[str]:
    """What must be read beside the tables."""
    for system in report.systems:
        if system.failed:
            kinds = ", ".join(f"{count} {kind}" for kind, count in system.failed.items())
            yield f"{system.name}: failed and left out: {kinds}." + ("" if system.valid else " The run is INVALID.")
        if system.not_run:
            yield f"{system.name}: {system.not_run} attempts were not begun: {system.stopped}."
        if system.no_verdict:
            yield f"{system.name}: no verdict on {system.no_verdict} attempts; the policy decided."
    for style, reason in report.unavailable.items():
        yield f"`{style}` is not available: {reason}."
    if report.repeated_goals:
        yield f"{report.repeated_goals} goals were in several sources and taken once."
    if report.left_out_goals:
        yield f"{report.left_out_goals} goals of categories that are left out were not used."
    for source, licence in report.licences.items():
        yield f"Goals of {source}: {licence}."
    yield from report.caveats


def markdown(report: RedteamReport) -> str:
    """The report as Markdown."""
    goals = ", ".join(f"{count} {kind}" for kind, count in report.goals.items())
    lines = ["# Red-team run", "", f"{report.created}, {report.machine}, Corral {report.corral_version}.", ""]
    lines += [f"Goals: {goals} (`{report.goals_sha256[:16]}`). Intervals are 95 %.", ""]
    lines += [f"Judges: {', '.join(f'{name} `{revision}`' for name, revision in report.judges.items())}.", ""]
    lines += [f"- {line}" for line in remarks(report)]
    for table in tables(report):
        lines += ["", f"## {_cell(table.title)}", ""]
        lines += [_row(table.columns), _row(["---"] * len(table.columns)), *map(_row, table.rows)]
    return "\n".join(lines) + "\n"


def percent(rate: Rate | None, *, signed: bool = False) -> str:
    """Value and interval in percent; a dash where undefined."""
    if rate is None or rate.value is None:
        return _BLANK
    shown = f"{100 * rate.value:{'+' if signed else ''}.1f}"
    if rate.ci95 is None:
        return f"{shown} [withheld]"
    return f"{shown} [{100 * rate.ci95[0]:.1f}, {100 * rate.ci95[1]:.1f}]"


def _name(cell: Cell) -> str:
    return f"{cell.style or ALL_STYLES}{'' if cell.complete else ' (incomplete)'}"


def _asr(cell: Cell | None) -> str:
    return _BLANK if cell is None else percent(cell.asr)


def _reasons(cell: Cell) -> str:
    if not cell.not_applicable:
        return "0"
    shown = list(cell.not_applicable.items())[:_REASONS_SHOWN]
    return "; ".join(f"{count}: {reason}" for reason, count in shown)


def _texts(items: Sequence[Item]) -> Iterator[tuple[str, ...]]:
    for item in items:
        if item.kind == "harmful" and item.outcome == "complies" and not item.replaced and item.texts is not None:
            yield item.style, item.goal, item.texts["prompt"], item.texts["answer"]


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(map(_cell, cells))} |"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
