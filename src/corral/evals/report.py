"""Writing a moderation report: JSON, CSV and Markdown with the same numbers. No format holds any text of a row."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from corral.core.errors import DataError
from corral.core.files import atomic_write_json, atomic_write_text, read_json
from corral.evals import report_tables
from corral.evals.composition_costs import composition_costs
from corral.evals.report_tables import Table
from corral.evals.results import Figure, GuardResult, ModerationReport, SetResult

REPORT_JSON: Final = "report.json"
REPORT_CSV: Final = "report.csv"
REPORT_MARKDOWN: Final = "report.md"

_CSV_COLUMNS: Final = (
    "system",
    "revision",
    "set",
    "slice",
    "metric",
    "value",
    "low",
    "high",
    "n",
    "clusters",
    "unscored",
    "rule",
    "mark",
    "note",
    "rows_sha256",
)


def write_report(report: ModerationReport, out: Path) -> None:
    """Write ``report.json``, ``report.csv`` and ``report.md`` into a folder, each whole or not at all."""
    atomic_write_json(out / REPORT_JSON, report.model_dump(mode="json"))
    atomic_write_text(out / REPORT_CSV, csv_text(report))
    atomic_write_text(out / REPORT_MARKDOWN, markdown(report))


def read_report(out: Path) -> ModerationReport:
    """The report that ``write_report`` left in a folder.

    Raises:
        NotFoundError: there is none.
        DataError: it is not a report of this schema version.
    """
    path = out / REPORT_JSON
    try:
        return ModerationReport.model_validate(read_json(path))
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise DataError(f"not a moderation report: {field}: {first['msg']}", where=str(path)) from error


def csv_text(report: ModerationReport) -> str:
    """One line a figure: ours, slices, languages, and the comparable published ones."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, _CSV_COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    for guard in report.guards:
        writer.writerows(_guard_lines(guard))
    seen: set[tuple[str, ...]] = set()
    for guard in report.guards:
        for result in guard.sets:
            for line in _published_lines(result):
                key = tuple(map(str, line.values()))
                if key not in seen:
                    seen.add(key)
                    writer.writerow(line)
    return stream.getvalue()


def terminal_tables(report: ModerationReport) -> Iterator[Table]:
    """What is printed after a run: figures, published rows, gate, languages, and what is missing and why."""
    for section in (
        report_tables.overview,
        composition_costs,
        report_tables.beside_published,
        report_tables.gates,
        report_tables.languages,
        report_tables.styles,
        report_tables.unscored,
        report_tables.not_comparable,
        report_tables.skipped,
    ):
        yield from section(report)


def markdown(report: ModerationReport) -> str:
    """The whole report as Markdown."""
    lines = ["# Moderation report", ""]
    limit, replicates, seed = (report.settings.get(name) for name in ("limit", "replicates", "seed"))
    facts = {
        "task": f"{report.task} version {report.task_version}, Corral {report.corral_version}, {report.created}",
        "machine": report.machine,
        "rows": "all" if limit is None else f"a sample of at most {limit} a set",
        **({"samples of": _named(report.samples)} if report.samples else {}),
        "intervals": f"95 %, {replicates} resamples of prompts, seed {seed}",
        **{f"guard {guard.name}": f"revision {guard.revision}" for guard in report.guards},
    }
    lines += [f"- {name}: {value}" for name, value in facts.items()]
    if report.baseline_rows:
        lines.append(f"- baseline: fitted to {sum(report.baseline_rows.values())} rows")
    for table in terminal_tables(report):
        lines += ["", *markdown_table(table)]
    lines += ["", "## What is positive, and what to know", ""]
    lines += [f"- {line}" for line in _notes(report)]
    for table in report_tables.slices(report):
        lines += ["", *markdown_table(table)]
    return "\n".join(lines) + "\n"


def _named(samples: Mapping[str, int]) -> str:
    return ", ".join(f"{name} ({rows} rows at most)" for name, rows in samples.items())


def _notes(report: ModerationReport) -> Iterator[str]:
    seen = set()
    for guard in report.guards:
        for result in guard.sets:
            files = ", ".join(f"{path} {digest[:12]}" for path, digest in result.files.items())
            text = " ".join((f"{result.name} ({result.head}): {result.positive_rule}. Data: {files}.", *result.caveats))
            if text not in seen:
                seen.add(text)
                yield text


def markdown_table(table: Table) -> list[str]:
    """Lines of a heading and a table; blank cells stay blank."""
    lines = [f"## {table.title}", "", _markdown_row(table.columns), _markdown_row(("---",) * len(table.columns))]
    return lines + [_markdown_row(tuple("" if cell is None else str(cell) for cell in row)) for row in table.rows]


def _markdown_row(cells: tuple[str, ...]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|').replace(chr(10), ' ') for cell in cells)} |"


def _guard_lines(guard: GuardResult) -> Iterator[dict[str, Any]]:
    base = {"system": guard.name, "revision": guard.revision}
    for result in guard.sets:
        here = {**base, "set": result.name, "rows_sha256": result.rows_sha256}
        for metric, figure in result.figures.items():
            yield {**here, "metric": metric, **_figure_cells(figure)}
        for metric in ("floor", "expected_random_ap", "lift"):
            value = getattr(result, metric)
            if value is not None:
                yield {**here, "metric": metric, "value": value, "n": result.n, "clusters": result.clusters}
        for each in result.slices:
            for metric, rate in (("recall", each.recall), ("fpr", each.fpr)):
                if rate is not None:
                    yield {**here, "slice": f"{each.by}={each.value}", "metric": metric, **_figure_cells(rate)}
    for table in guard.languages:
        here = {**base, "set": table.family}
        for language, figure in table.by_language.items():
            yield {**here, "slice": f"language={language}", "metric": table.metric, **_figure_cells(figure)}
        yield {**here, "slice": "mean over languages", "metric": table.metric, **_figure_cells(table.mean)}
        for language, figure in table.gap.items():
            yield {**here, "slice": f"English minus {language}", "metric": table.metric, **_figure_cells(figure)}
    yield from _style_lines(guard, base)


def _style_lines(guard: GuardResult, base: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for table in guard.styles:
        here = {**base, "set": table.set}
        for row in table.rows:
            yield {**here, "slice": f"style={row.style}", "metric": table.metric, **_figure_cells(row.figure)}
            yield {**here, "slice": f"lost to {row.style}", "metric": table.metric, **_figure_cells(row.lost)}
        mean = _figure_cells(table.mean_lost)
        yield {**here, "slice": "lost, mean over styles", "metric": table.metric, **mean}


def _published_lines(result: SetResult) -> Iterator[dict[str, Any]]:
    for row in result.published:
        yield {
            "system": row.system,
            "set": result.name,
            "metric": row.metric,
            "value": row.value,
            "rule": f"published in {row.table}/{row.column}",
            "mark": row.mark,
            "note": f"{row.relation}: {row.caveat}" if row.caveat else row.relation,
        }


def _figure_cells(figure: Figure) -> dict[str, Any]:
    low, high = figure.ci95 or ("", "")
    return {
        "value": "" if figure.value is None else figure.value,
        "low": low,
        "high": high,
        "n": figure.n,
        "clusters": figure.clusters,
        "unscored": figure.unscored,
        "rule": figure.rule,
        "note": figure.note,
    }
