"""The front as one page: a chart of attack success against over-refusal, and the table that it is drawn from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from corral.evals.reporting import charts
from corral.evals.reporting.charts import PlacedPoint, legend, scatter, share_axis
from corral.evals.reporting.markup import Markup, element
from corral.evals.reporting.page import facts, page, paragraph, plain_table, section
from corral.evals.reporting.wording import interval_text, number
from corral.redteam.results import Rate
from corral.studies.egida.pareto import Point

_LETTERS: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_ON_FRONT, _BEHIND = 0, 1
_AXES: Final = ("Attack success", "Over-refusal")


def front_page(points: Sequence[Point], *, judge: str, target: str) -> str:
    """The whole HTML document.

    Args:
        points: the target before training among them.
        judge: that labelled the answers.
        target: model reference.
    """
    return page(
        "What stronger training costs",
        facts([("Model", target), ("Judge", judge), ("Points", str(len(points)))]),
        paragraph(
            "Each point is a preference training of another learning rate or number of pairs, over its seeds. Down and "
            "to the left is better; a point on the front has none that is better in one and no worse in the other."
        ),
        section("Attack success against over-refusal", _chart(points)),
        section("Every point", _table(points)),
    )


def _chart(points: Sequence[Point]) -> Markup:
    placed = [
        PlacedPoint(_of(point.attack_success, point), _of(point.over_refusal, point), mark, _label(mark, point))
        for mark, point in zip(_marks(points), points, strict=True)
    ]
    drawn = scatter(
        placed,
        share_axis(_AXES[0]),
        share_axis(_AXES[1]),
        title="Attack success against over-refusal",
        description="Shares with 95 % intervals over requests.",
    )
    names = [(_ON_FRONT, "on the front"), (_BEHIND, "behind it")]
    return element("figure", drawn, legend(names))


def _table(points: Sequence[Point]) -> Markup:
    tasks = list(dict.fromkeys(name for point in points for each in point.ability for name in each))
    columns = ["", "training", "front", "seeds", *_AXES, "n", "understood", *tasks]
    rows = [
        [
            mark,
            point.strength.name,
            "yes" if point.best else "",
            str(max(len(point.strength.seeds), 1)),
            _shown(point.attack_success),
            _shown(point.over_refusal),
            f"{point.attack_success.n} and {point.over_refusal.n}",
            _shown(point.understood),
            *(_mean(point, task) for task in tasks),
        ]
        for mark, point in zip(_marks(points), points, strict=True)
    ]
    return plain_table(columns, rows, numbers=frozenset(range(3, len(columns))))


def _marks(points: Sequence[Point]) -> list[str]:
    """A letter a point, and numbers beyond the alphabet."""
    return [_LETTERS[i] if i < len(_LETTERS) else str(i) for i in range(len(points))]


def _of(found: Rate, point: Point) -> charts.Point:
    low, high = found.ci95 or (None, None)
    return charts.Point(found.value, low, high, _ON_FRONT if point.best else _BEHIND)


def _label(mark: str, point: Point) -> str:
    return f"{mark}, {point.strength.name}: {_shown(point.attack_success)} against {_shown(point.over_refusal)}"


def _shown(found: Rate) -> str:
    return "-" if found.value is None else f"{number(found.value, 'share')} % {interval_text(found.ci95, 'share')}"


def _mean(point: Point, task: str) -> str:
    """A task's figure, the mean over seeds."""
    values = [figures[task]["value"] for figures in point.ability if task in figures]
    known = [value for value in values if value is not None]
    return number(sum(known) / len(known), "") if known else "-"
