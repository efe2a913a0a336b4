"""Charts that are tables: one row a measure, with its strip, its figure and what the figure rests on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from corral.evals.reporting.charts import Axis, Point, point_mark, strip, strip_axis
from corral.evals.reporting.markup import Markup, element, join


@dataclass(frozen=True, slots=True)
class StripRow:
    """One measure.

    Attributes:
        label: its title.
        points: a lane each.
        figures: the text of each lane: figure, and what it rests on.
        reference: place of the dashed mark.
        note: below the label.
        part: rows of one part stand together under its name.
        tones: ``better`` or ``worse`` colours the figure of a lane, "" does not; none colours any.
    """

    label: str
    points: tuple[Point, ...]
    figures: tuple[tuple[str, str], ...]
    reference: float | None = None
    note: str = ""
    part: str = ""
    tones: tuple[str, ...] = ()


def strip_table(
    rows: Sequence[StripRow], axis: Axis, *, caption: str, columns: tuple[str, str] = ("measure", "figure")
) -> Markup:
    """The chart.

    Args:
        rows: in order; those of one part next to each other.
        axis: of every strip.
        caption: what it shows and how to read it.
        columns: heads of the first and last column.
    """
    head = element(
        "tr",
        element("th", columns[0], scope="col"),
        element("th", strip_axis(axis), scope="col", class_="plot", aria_label=axis.title or "plot"),
        element("th", columns[1], scope="col"),
    )
    parts: dict[str, list[StripRow]] = {}
    for row in rows:
        parts.setdefault(row.part, []).append(row)
    bodies = [_body(name, of_part, axis) for name, of_part in parts.items()]
    return element("table", element("caption", caption), element("thead", head), *bodies, class_="strips")


def _body(part: str, rows: Sequence[StripRow], axis: Axis) -> Markup:
    head = element("tr", element("th", part, scope="rowgroup", colspan=3)) if part else None
    return element("tbody", head, *[_row(row, axis) for row in rows], class_="part")


def _row(row: StripRow, axis: Axis) -> Markup:
    note = element("span", row.note, class_="basis") if row.note else None
    label = join(row.label, element("br") if note else None, note)
    tones = row.tones or ("",) * len(row.figures)
    dots = [point_mark(point) if len(row.points) > 1 else None for point in row.points]
    figures = [
        element("div", dot, element("b", figure, class_=tone or None), element("span", basis, class_="basis"))
        for dot, (figure, basis), tone in zip(dots, row.figures, tones, strict=True)
    ]
    return element(
        "tr",
        element("th", label, scope="row"),
        element("td", strip(row.points, axis, reference=row.reference), class_="plot"),
        element("td", *figures, class_="figure"),
    )
