"""Several moderation reports read as one: measuring every set of a guard in one run takes long, and sets are added."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

from corral.core.errors import DataError
from corral.evals.results import (
    GateRow,
    GateTable,
    GuardResult,
    LanguageTable,
    ModerationReport,
    NotComparable,
    SetResult,
    Skipped,
    StyleTable,
)
from corral.evals.tasks.moderation_sets import in_order
from corral.evals.tasks.styled_sets import JOINT

Named = TypeVar("Named", GateRow, LanguageTable, NotComparable, SetResult, StyleTable)


def merged(reports: Sequence[ModerationReport]) -> ModerationReport:
    """One report with every set that any of them measured.

    A set of several reports counts as the one with the most rows measured it, of equals the first; a table across sets
    (languages, styles, comparison with a baseline) as the first that has it. A guard missing from a report has its sets
    from the others.

    Raises:
        DataError: no report, or reports of different task versions, seeds or numbers of resamples, or of different
            revisions of a guard.
    """
    if not reports:
        raise DataError("no report was given")
    first = reports[0]
    for other in reports[1:]:
        _require_same("task version", first.task_version, other.task_version)
        for setting in ("seed", "replicates"):
            _require_same(setting, first.settings.get(setting), other.settings.get(setting))
    names = list(dict.fromkeys(guard.name for report in reports for guard in report.guards))
    gates = [gate for report in reports for gate in report.gates]
    kept = [each for report in reports for each in report.not_comparable]
    return first.model_copy(
        update={
            "created": max(report.created for report in reports),
            "samples": {name: rows for report in reversed(reports) for name, rows in report.samples.items()},
            "guards": tuple(
                _guard([g for report in reports for g in report.guards if g.name == name]) for name in names
            ),
            "gates": tuple(
                _gate([g for g in gates if g.guard == name]) for name in dict.fromkeys(g.guard for g in gates)
            ),
            "baseline_rows": next((report.baseline_rows for report in reports if report.baseline_rows), {}),
            "not_comparable": _first_of_each(kept, "table", "column", "set"),
        }
    )


def _guard(parts: Sequence[GuardResult]) -> GuardResult:
    for other in parts[1:]:
        _require_same(f"revision of guard `{other.name}`", parts[0].revision, other.revision)
    by_rows = sorted(
        (each for part in parts for each in part.sets), key=lambda each: -each.n
    )  # stable: first of equals
    sets = sorted(_first_of_each(by_rows, "name"), key=_place)
    measured = {each.name for each in sets}
    skipped: dict[str, Skipped] = {
        each.set: each for part in parts for each in part.skipped if each.set not in measured
    }
    return parts[0].model_copy(
        update={
            "sets": tuple(sets),
            "skipped": tuple(skipped.values()),
            "languages": _first_of_each((each for part in parts for each in part.languages), "family", "metric"),
            "styles": _first_of_each((each for part in parts for each in part.styles), "set", "metric"),
        }
    )


def _gate(parts: Sequence[GateTable]) -> GateTable:
    for other in parts[1:]:
        _require_same("revision of the baseline", parts[0].baseline_revision, other.baseline_revision)
    rows = _first_of_each((row for part in parts for row in part.rows), "set", "metric")
    return parts[0].model_copy(update={"rows": rows})


def _place(result: SetResult) -> tuple[int, str]:
    """Sets in the order of reports, a set in a style behind the set as it is, sets of no registry last."""
    order = in_order()
    plain = result.name.partition(JOINT)[0]
    return (order.index(plain) if plain in order else len(order), result.name)


def _first_of_each(entries: Iterable[Named], *keys: str) -> tuple[Named, ...]:
    found: dict[tuple[object, ...], Named] = {}
    for each in entries:
        found.setdefault(tuple(getattr(each, key) for key in keys), each)
    return tuple(found.values())


def _require_same(what: str, first: object, other: object) -> None:
    if first != other:
        raise DataError(
            f"the reports differ in the {what}: `{first}` and `{other}`", hint="Measure again with the one of today."
        )
