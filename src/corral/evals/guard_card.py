"""The model card of a trained guard: its settings, what it was trained on, and every score, written from files.

Nothing in a card is typed by hand except the notes that the recipe keeps: rows and licences come from the run's account
of its mixture, figures from the evaluation report of exactly these weights.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from corral.core.errors import DataError
from corral.data.self_written import PREFIX
from corral.data.sources import SOURCES
from corral.evals import report_tables
from corral.evals.report import markdown_table
from corral.evals.report_tables import Table
from corral.evals.results import ModerationReport


def guard_card(
    notes: str, account: Mapping[str, Any], settings: Mapping[str, Any], revision: str, report: ModerationReport
) -> str:
    """The card as Markdown.

    Args:
        notes: the recipe's own text: what the guard is, known failures.
        account: ``artefacts/mixture.json`` of the run, stage by stage, and of the refits that followed.
        settings: the run's resolved settings.
        revision: of the weights, as in the run's report.
        report: evaluation of the guard (first) and of baselines.

    Raises:
        DataError: the report is of other weights.
    """
    measured, stages = report.guards[0], account["stages"]
    rows = ", then on ".join(f"{stage['training_rows']:,}" for stage in stages)
    if not measured.revision.startswith(revision):
        raise DataError(f"the report is of revision `{measured.revision}`, the run made `{revision}`")
    blocks = [
        notes.rstrip(),
        f"Revision `{revision}`; scores are those of `{measured.revision}` (weights and dtype). Trained on {rows} "
        f"rows, calibrated on {stages[-1]['development_rows']:,} held-out rows of the same sources. Rows whose prompt "
        "occurs in an evaluation set of `keep_clean_of`, whole or by a run of ten words, were left out. "
        f"{_left_in(stages[-1])}",
        *_refitted(account),
        *(
            "\n".join(markdown_table(table))
            for table in (sources_table(_taken(account)), _settings(settings), *_scores(report))
        ),
    ]
    return "\n\n".join(blocks) + "\n"


def scores_card(notes: str, report: ModerationReport) -> str:
    """The card of a guard that no single run made, such as a composition: notes and scores.

    Args:
        notes: what the guard is, how it is made, known failures.
        report: evaluation of the guard (first) and of baselines.
    """
    measured = report.guards[0]
    tables = ["\n".join(markdown_table(table)) for table in _scores(report)]
    return "\n\n".join([notes.rstrip(), f"Scores are those of revision `{measured.revision}`.", *tables]) + "\n"


def _refitted(account: Mapping[str, Any]) -> Iterator[str]:
    """Which heads were trained anew after the stages, and on what, if any were."""
    for refit in account.get("refits", ()):
        heads = ", ".join(f"`{head}`" for head in refit["heads"])
        yield (
            f"After that {heads} alone was trained anew on {refit['training_rows']:,} rows and calibrated on "
            f"{refit['development_rows']:,} of other groups, all else frozen. {_left_in(refit)}"
        )


def _left_in(account: Mapping[str, Any]) -> str:
    """What remains in common with evaluation sets beyond those that training was kept clean of."""
    counts = dict(account.get("left_in", {}))
    replies = counts.pop("replies", 0)
    shared = ", ".join(f"{name} {count}" for name, count in counts.items() if count) or "none"
    return (
        f"Rows left in that share as much with another evaluation set: {shared}. Rows whose reply shares a run of ten "
        f"words with a reply of an evaluation set, mostly stock refusals: {replies}."
    )


def _scores(report: ModerationReport) -> Iterator[Table]:
    yield from report_tables.overview(report)
    yield from report_tables.gates(report)
    yield from report_tables.languages(report)
    yield from report_tables.styles(report)
    yield from report_tables.skipped(report)


def _taken(account: Mapping[str, Any]) -> dict[str, int]:
    """Rows of each source that were drawn, over all stages and refits."""
    taken: dict[str, int] = defaultdict(int)
    for stage in [*account["stages"], *account.get("refits", ())]:
        for entry in stage["entries"]:
            taken[entry["source"]] += entry["taken"]
    return taken


def sources_table(taken: Mapping[str, int]) -> Table:
    """Rows taken of each source, its licence and upstream."""
    rows = tuple((name, count, *_origin(name)) for name, count in sorted(taken.items()))
    return Table("Training data", ("source", "rows", "licence", "upstream"), rows)


def _origin(name: str) -> tuple[str, str]:
    if name.startswith(PREFIX):
        return "Apache-2.0", "written for this project"
    source = SOURCES.get(name)
    return source.licence, source.upstream


def _settings(settings: Mapping[str, Any]) -> Table:
    return Table("Settings", ("setting", "value"), tuple(_flat(settings)))


def _flat(settings: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Settings as dotted names, without the mixture, which has a table of its own; stages are numbered."""
    for name, value in settings.items():
        parts = [(f"{name}.{i}", each) for i, each in enumerate(value, 1)] if isinstance(value, list | tuple) else []
        if isinstance(value, Mapping):
            yield from ((f"{name}.{inner}", shown) for inner, shown in _flat(value))
        elif parts and all(isinstance(each, Mapping) for _, each in parts) and name != "mixture":
            yield from _flat(dict(parts))
        elif name.endswith("start_from") and value:
            yield name, f".../{Path(value).name}"  # where a folder lay says nothing to who reads the card
        elif name != "mixture":
            yield name, ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
