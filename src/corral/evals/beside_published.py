"""Published figures beside ours, and the ones that may not stand there, each with the reason.

A figure is compared only if set, split, label rule and metric are equal. Where our copy of a set lacks some rows of the
published one, the figure stands beside ours with that caveat; everything else goes to a block of its own.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator

from corral.evals.published.tables import load_tables, published_cells
from corral.evals.results import NotComparable, PublishedRow, SetResult
from corral.evals.tasks.eval_set import EvalSet, PublishedColumn
from corral.evals.tasks.moderation_sets import NOT_COMPARABLE


def with_published(result: SetResult, eval_set: EvalSet) -> SetResult:
    """The result with the published figures that may stand beside it."""
    whole = result.n == result.rows_in_set
    return result.model_copy(update={"published": tuple(published_rows(eval_set, result.figures)) if whole else ()})


def not_comparable(results: Iterable[tuple[EvalSet, SetResult]]) -> list[NotComparable]:
    """Published columns without a place beside our figures.

    First, with their figures, the columns that could be taken for a set that was measured; then what no set of the task
    stands for. Results on a sample of a set are not comparable with any figure on the whole of it.
    """
    out = []
    for eval_set, result in results:
        sampled = result.n < result.rows_in_set
        reason = f"ours is a sample of {result.n} of {result.rows_in_set} rows"
        for link in eval_set.published:
            if link.relation == "no" or sampled:
                out.append(refused(link, eval_set.name, link.reason if link.relation == "no" else reason))
    return [*out, *standing_nowhere()]


def published_rows(eval_set: EvalSet, metrics: Container[str]) -> Iterator[PublishedRow]:
    """Published figures that may stand beside ours on the whole of a set, of these metrics."""
    for link in eval_set.published:
        if link.relation == "no":
            continue
        for cell in published_cells(link.table, link.column):
            if cell.metric in metrics:
                yield PublishedRow(
                    table=cell.table,
                    column=cell.column,
                    system=cell.system,
                    metric=cell.metric,
                    value=cell.fraction,
                    mark=cell.mark,
                    relation=link.relation,
                    caveat="; ".join(text for text in (link.reason, cell.note) if text),
                )


def refused(link: PublishedColumn, name: str, reason: str) -> NotComparable:
    """A published column that could be taken for a set, with its figures, and why it may not stand beside ours."""
    cells = published_cells(link.table, link.column)
    return NotComparable(
        table=link.table,
        column=link.column,
        title=load_tables()[link.table].columns[link.column],
        set=name,
        reason=reason,
        cells={f"{cell.system}, {cell.metric}": cell.value for cell in cells},
    )


def standing_nowhere() -> Iterator[NotComparable]:
    """Columns that no set of the task stands for, one entry for a whole table where one reason covers it."""
    for place, reason in NOT_COMPARABLE.items():
        table, _, column = place.partition("/")
        title = load_tables()[table].columns[column] if column else load_tables()[table].title
        yield NotComparable(table=table, column=column, title=title, reason=reason)
