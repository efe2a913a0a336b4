"""The tables of a moderation report, for Markdown and the terminal alike.

Every F1 stands beside the F1 of flagging every row and the false-positive rate at the same threshold, every average
precision beside its floor, and every figure of ours beside its interval.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from corral.evals.published.tables import load_tables
from corral.evals.results import (
    Figure,
    GateTable,
    GuardResult,
    LanguageTable,
    ModerationReport,
    NotComparable,
    PublishedRow,
    SetResult,
    StyleTable,
)

Cell = str | int | None


@dataclass(frozen=True, slots=True)
class Table:
    """A title, a header and rows; ``None`` is a blank cell."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]


def overview(report: ModerationReport) -> Iterator[Table]:
    """Figures of all guards, by kind of set."""
    rows = [
        (guard, result)
        for name in _set_names(report)
        for guard in report.guards
        for result in guard.sets
        if result.name == name
    ]
    mixed = [(guard, result) for guard, result in rows if result.kind == "mixed"]
    if mixed:
        yield Table(
            "Ranking, sets with both classes",
            ("set", "guard", "n", "positive", "prompts", "AP", "floor", "AUROC", "R at 1 % FPR", "ECE", "unscored"),
            tuple(_ranking_row(guard, result) for guard, result in mixed),
        )
        yield Table(
            "Decisions at 0.5, sets with both classes",
            ("set", "guard", "F1", "flag-all F1", "F1 - flag-all", "P", "R", "FPR"),
            tuple(_decision_row(guard, result) for guard, result in mixed),
        )
    positives = tuple(_rate_row(guard, result, "recall") for guard, result in rows if result.kind == "positives")
    if positives:
        yield Table("All rows positive (recall)", ("set", "guard", "n", "prompts", "recall", "unscored"), positives)
    negatives = tuple(_rate_row(guard, result, "fpr") for guard, result in rows if result.kind == "negatives")
    if negatives:
        yield Table(
            "All rows benign (false-positive rate)", ("set", "guard", "n", "prompts", "FPR", "unscored"), negatives
        )


def beside_published(report: ModerationReport) -> Iterator[Table]:
    """One table for each set with comparable published figures: ours first, then the published rows."""
    for name in _set_names(report):
        ours = [(guard, result) for guard in report.guards for result in guard.sets if result.name == name]
        published = ours[0][1].published
        if not published:
            continue
        metrics = tuple(dict.fromkeys(row.metric for row in published))
        rows: list[tuple[Cell, ...]] = [
            (guard.name, *(interval(result.figures.get(metric)) for metric in metrics), "ours", None)
            for guard, result in ours
        ]
        rows += _published_systems(published, metrics)
        yield Table(f"{name}: beside published figures", ("system", *metrics, "from", "caveat"), tuple(rows))


def gates(report: ModerationReport) -> Iterator[Table]:
    """One table for each guard that was compared with the baseline."""
    for gate in report.gates:
        yield _gate_table(gate)


def languages(report: ModerationReport) -> Iterator[Table]:
    """One table for each guard with a family of sets in several languages."""
    for guard in report.guards:
        if guard.languages:
            rows = tuple(row for table in guard.languages for row in _language_rows(table))
            columns = ("family", "metric", "language", "value", "English minus it")
            yield Table(f"{guard.name}: languages", columns, rows)


def styles(report: ModerationReport) -> Iterator[Table]:
    """One table for each guard with a set in attack styles."""
    for guard in report.guards:
        if guard.styles:
            rows = tuple(row for table in guard.styles for row in _style_rows(table))
            columns = ("set", "style", "n", "metric", "as it is", "in the style", "lost")
            yield Table(f"{guard.name}: attack styles", columns, rows)


def slices(report: ModerationReport) -> Iterator[Table]:
    """One table for each guard and set that is broken down."""
    for guard in report.guards:
        for result in guard.sets:
            if result.slices:
                rows = tuple(
                    (each.by, each.value, each.n, each.positives, interval(each.recall), interval(each.fpr))
                    for each in result.slices
                )
                columns = ("by", "value", "n", "positive", "recall", "FPR")
                yield Table(f"{guard.name} on {result.name}: slices", columns, rows)


def unscored(report: ModerationReport) -> Iterator[Table]:
    """Figures under the three ways of counting rows without a score, where there are such rows."""
    rows: list[tuple[Cell, ...]] = []
    for guard in report.guards:
        for result in guard.sets:
            for way, figures in result.unscored_ways.items():
                shown = ", ".join(f"{name} {number(value)}" for name, value in figures.items())
                mark = " (headline)" if way == result.unscored_counted_as else ""
                rows.append((result.name, guard.name, result.unscored, f"{way}{mark}", shown))
    if rows:
        yield Table("Rows without a score", ("set", "guard", "unscored", "counted as", "figures"), tuple(rows))


def not_comparable(report: ModerationReport) -> Iterator[Table]:
    """Published figures that must not be read beside ours."""
    if report.not_comparable:
        rows = tuple(_not_comparable_row(each) for each in report.not_comparable)
        columns = ("table", "published", "could be taken for", "why it is not comparable", "figures as printed")
        yield Table("Not comparable", columns, rows)


def skipped(report: ModerationReport) -> Iterator[Table]:
    """Sets that were asked for and not measured."""
    rows = tuple((each.set, guard.name, each.reason, each.hint) for guard in report.guards for each in guard.skipped)
    if rows:
        yield Table("Skipped", ("set", "guard", "reason", "what to do"), rows)


def number(value: float | None) -> str:
    """Three decimals, or a dash for what is undefined."""
    return "-" if value is None else f"{value:.3f}"


def interval(figure: Figure | None) -> str | None:
    """Value and interval; blank when the figure does not belong to the set."""
    if figure is None:
        return None
    if figure.value is None:
        return "-"
    if figure.ci95 is None:
        return f"{figure.value:.3f} [withheld]"
    return f"{figure.value:.3f} [{figure.ci95[0]:.3f}, {figure.ci95[1]:.3f}]"


def _ranking_row(guard: GuardResult, result: SetResult) -> tuple[Cell, ...]:
    figures: Mapping[str, Figure] = result.figures
    coarse = " coarse" if figures["recall_at_fpr_1"].note.startswith("coarse") else ""
    return (
        _marked_name(result),
        guard.name,
        result.n,
        result.positives,
        result.clusters,
        interval(figures["ap"]),
        number(result.floor),
        interval(figures["auroc"]),
        f"{interval(figures['recall_at_fpr_1'])}{coarse}",
        interval(figures["ece"]),
        result.unscored,
    )


def _decision_row(guard: GuardResult, result: SetResult) -> tuple[Cell, ...]:
    figures: Mapping[str, Figure] = result.figures
    return (
        _marked_name(result),
        guard.name,
        interval(figures["f1"]),
        number(figures["flag_all_f1"].value),
        interval(figures["f1_minus_flag_all"]),
        interval(figures["precision"]),
        interval(figures["recall"]),
        interval(figures["fpr"]),
    )


def _marked_name(result: SetResult) -> str:
    """A dagger where the guard's score answers another question than the set's."""
    return f"{result.name} †" if result.score_rule.endswith("†") else result.name


def _rate_row(guard: GuardResult, result: SetResult, metric: str) -> tuple[Cell, ...]:
    return (result.name, guard.name, result.n, result.clusters, interval(result.figures[metric]), result.unscored)


def _published_systems(published: Sequence[PublishedRow], metrics: Sequence[str]) -> Iterator[tuple[Cell, ...]]:
    """One row a system and table column, its metrics side by side."""
    systems: dict[tuple[str, str, str], dict[str, PublishedRow]] = {}
    for row in published:
        systems.setdefault((row.table, row.column, row.system), {})[row.metric] = row
    for (table, column, system), cells in systems.items():
        first = next(iter(cells.values()))
        shown = (number(cells[metric].value) if metric in cells else None for metric in metrics)
        source = f"{table}/{column}, {first.mark.replace('_', ' ')}"
        yield (system, *shown, source, _caveat(first.relation, first.caveat))


def _caveat(relation: str, caveat: str) -> str | None:
    if relation == "subset":
        return f"roughly: {caveat}"
    return caveat or None


def _gate_table(gate: GateTable) -> Table:
    rows = tuple(
        (
            row.set,
            row.metric,
            number(row.guard),
            number(row.baseline),
            interval(row.difference),
            None if row.mcnemar_p is None else f"{row.mcnemar_p:.2g}",
            "holds" if row.holds else "does not hold",
        )
        for row in gate.rows
    )
    columns = ("set", "metric", gate.guard, gate.baseline, "difference", "McNemar p", "gate")
    return Table(f"{gate.guard} against {gate.baseline}, same rows and resamples", columns, rows)


def _language_rows(table: LanguageTable) -> Iterator[tuple[Cell, ...]]:
    for language, figure in table.by_language.items():
        worst = " (worst)" if language == table.worst_language else ""
        yield table.family, table.metric, f"{language}{worst}", interval(figure), interval(table.gap.get(language))
    yield table.family, table.metric, "mean", interval(table.mean), None


def _style_rows(table: StyleTable) -> Iterator[tuple[Cell, ...]]:
    for row in table.rows:
        lost = interval(row.lost)
        yield table.set, row.style, row.n, table.metric, number(row.plain), interval(row.figure), lost
    yield table.set, "mean over styles", table.mean_lost.n, table.metric, None, None, interval(table.mean_lost)


def _not_comparable_row(each: NotComparable) -> tuple[Cell, ...]:
    unit = load_tables()[each.table].unit
    figures = "; ".join(f"{name} {value:g}" for name, value in each.cells.items())
    return each.table, each.title, each.set or None, each.reason, f"{figures} ({unit})" if figures else None


def _set_names(report: ModerationReport) -> Sequence[str]:
    return list(dict.fromkeys(result.name for guard in report.guards for result in guard.sets))
