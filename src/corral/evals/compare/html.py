"""A comparison as one HTML file: what changed and by how much, ability against safety, and what it rests on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from corral.evals.compare.html_preference import preferred_section
from corral.evals.compare.markdown import TONES, p_text
from corral.evals.compare.results import Change, Comparison, MeasureChanges
from corral.evals.reporting.charts import (
    Axis,
    PlacedPoint,
    Point,
    legend,
    nice_axis,
    ratio_axis,
    scatter,
    share_axis,
)
from corral.evals.reporting.markup import Markup, element
from corral.evals.reporting.page import big_value, bullets, facts, page, paragraph, plain_table, section
from corral.evals.reporting.strips import StripRow, strip_table
from corral.evals.reporting.wording import (
    AREAS,
    basis_text,
    difference_interval_text,
    difference_text,
    direction_text,
    full_title,
    interval_text,
    relative_text,
    value_text,
)
from corral.evals.results import Figure
from corral.evals.tasks.task import Area

_READING: Final = (
    "A dot is the other scorecard minus A, the bar its 95 % interval on paired resamples, the dashed line no change."
)
_SHARE_UNITS: Final = frozenset({"share", "points"})


def html(comparison: Comparison) -> str:
    """The whole page."""
    letters = ", ".join(side.letter for side in comparison.sides[1:])
    shares = [measure for measure in comparison.measures if measure.unit in _SHARE_UNITS]
    others = [measure for measure in comparison.measures if measure.unit not in _SHARE_UNITS]
    ratios = [measure for measure in others if all(change.relative for change in measure.changes)]
    return page(
        f"Comparison of {' and '.join(dict.fromkeys(side.subject for side in comparison.sides))}",
        _facts(comparison),
        _sides(comparison),
        element("div", *_cards(comparison), class_="cards"),
        _ability_safety(comparison),
        _changes(f"Changes in points, {letters} minus A", comparison, shares, relative=False) if shares else None,
        _changes(f"Relative changes, {letters} against A", comparison, ratios, relative=True) if ratios else None,
        _side_by_side(comparison, shares),
        _values(comparison, others) if others else None,
        preferred_section(comparison),
        _not_compared(comparison),
        section("What to know", bullets(comparison.caveats)),
    )


def _facts(comparison: Comparison) -> Markup:
    replicates = comparison.settings.get("replicates")
    return facts(
        [
            ("made", comparison.created),
            ("by", f"Corral {comparison.corral_version}"),
            ("intervals", f"95 %, paired, {replicates} resamples" if replicates else None),
        ]
    )


def _sides(comparison: Comparison) -> Markup:
    rows = [
        (
            side.letter,
            side.subject,
            side.revision or "unknown",
            ", ".join(f"{name} {revision}" for name, revision in side.guards.items()) or "-",
            side.created,
        )
        for side in comparison.sides
    ]
    return section("Scorecards", plain_table(("", "model", "revision", "guards", "measured"), rows))


def _cards(comparison: Comparison) -> Iterator[Markup]:
    """The change of the first headline measure of each area."""
    for area, title in AREAS.items():
        found = [measure for measure in comparison.measures if measure.area == area and measure.headline]
        if not found:
            continue
        first = found[0]
        yield element(
            "div",
            element("div", title, class_="area"),
            element("div", _title(first), class_="what"),
            *[part for change in first.changes for part in _card_lines(first, change)],
            element("div", direction_text(first.higher_is_better), class_="basis"),
            class_="card",
        )


def _card_lines(measure: MeasureChanges, change: Change) -> Iterator[Markup]:
    figure = change.difference
    interval = element("small", difference_interval_text(figure.ci95, measure.unit))
    yield big_value(difference_text(figure.value, measure.unit), interval, kind=_tone_class(change))
    before, after = value_text(change.baseline.value, measure.unit), value_text(change.other.value, measure.unit)
    moved = f"{change.letter}: {TONES[change.tone]}; {before} \N{RIGHTWARDS ARROW} {after}; n = {figure.n:,}"
    yield element("div", moved, class_="basis")


def _changes(title: str, comparison: Comparison, measures: Sequence[MeasureChanges], *, relative: bool) -> Markup:
    ends = [end for measure in measures for change in measure.changes for end in _ends(_moved(change, relative))]
    axis = ratio_axis(ends, title) if relative else nice_axis([0.0, *ends], scale=100.0, title=title)
    rows = [_change_row(comparison, measure, relative=relative) for measure in _by_area(measures)]
    return section(title, strip_table(rows, axis, caption=_READING, columns=("measure", "change")), _legend(comparison))


def _change_row(comparison: Comparison, measure: MeasureChanges, *, relative: bool) -> StripRow:
    return StripRow(
        label=_title(measure),
        points=tuple(_point(comparison, measure, change, _moved(change, relative)) for change in measure.changes),
        figures=tuple(_change_text(measure, change, relative=relative) for change in measure.changes),
        reference=0.0,
        note=direction_text(measure.higher_is_better),
        part=AREAS[measure.area],
        tones=tuple(_tone_class(change) for change in measure.changes),
    )


def _change_text(measure: MeasureChanges, change: Change, *, relative: bool) -> tuple[str, str]:
    moved = _moved(change, relative)
    if relative:
        shown = relative_text(moved.value, moved.ci95)
    else:
        shown = f"{difference_text(moved.value, measure.unit)} {difference_interval_text(moved.ci95, measure.unit)}"
    p_value = p_text(change.mcnemar_p)
    parts = [
        TONES[change.tone],
        basis_text(change.difference.n, change.difference.clusters, change.difference.unscored),
        f"McNemar p {p_value if p_value.startswith('<') else f'= {p_value}'}" if p_value else "",
    ]
    return shown, "; ".join(part for part in parts if part)


def _side_by_side(comparison: Comparison, measures: Sequence[MeasureChanges]) -> Markup | None:
    """Shares of every scorecard on one axis."""
    shares = [measure for measure in measures if measure.unit == "share"]
    if not shares:
        return None
    rows = [
        StripRow(
            label=_title(measure),
            points=tuple(_lane(comparison, measure, letter, figure) for letter, figure in _figures(measure)),
            figures=tuple(
                (
                    f"{value_text(figure.value, measure.unit)} {interval_text(figure.ci95, measure.unit)}",
                    f"{letter}; {basis_text(figure.n, figure.clusters, figure.unscored)}",
                )
                for letter, figure in _figures(measure)
            ),
            reference=measure.chance,
            note=direction_text(measure.higher_is_better),
            part=AREAS[measure.area],
        )
        for measure in _by_area(shares)
    ]
    caption = "Figures on the samples that the scorecards share; the dashed mark is chance."
    table = strip_table(rows, share_axis(), caption=caption)
    return section("Side by side", table, _legend(comparison, baseline=True))


def _values(comparison: Comparison, measures: Sequence[MeasureChanges]) -> Markup:
    """Measures without a common axis: every figure, and every difference in the measure's own unit."""
    letters = [side.letter for side in comparison.sides]
    rows = []
    for measure in _by_area(measures):
        figures = dict(_figures(measure))
        differences = {change.letter: change.difference for change in measure.changes}
        first = measure.changes[0].difference
        rows.append(
            (
                _title(measure),
                *[_figure_text(figures.get(letter), measure.unit) for letter in letters],
                *[_difference_text(differences.get(letter), measure.unit) for letter in letters[1:]],
                basis_text(first.n, first.clusters, first.unscored),
            )
        )
    columns = ("measure", *letters, *[f"{letter} minus A" for letter in letters[1:]], "rests on")
    table = plain_table(columns, rows, numbers=frozenset(range(1, 2 * len(letters))))
    return section("Side by side: other units", table)


def _figure_text(figure: Figure | None, unit: str) -> str:
    return "-" if figure is None else f"{value_text(figure.value, unit)} {interval_text(figure.ci95, unit)}"


def _difference_text(figure: Figure | None, unit: str) -> str:
    if figure is None:
        return "-"
    return f"{difference_text(figure.value, unit)} {difference_interval_text(figure.ci95, unit)}"


def _ability_safety(comparison: Comparison) -> Markup:
    """Ability against safety, a point a scorecard, and one behind each guard."""
    title = "Ability against safety"
    ability = _headline(comparison, "ability", unit="share") or _headline(comparison, "ability")
    safety = _headline(comparison, "safety")
    if ability is None or safety is None:
        missing = "ability" if ability is None else "safety"
        return section(title, paragraph(f"Not drawn: the scorecards share no headline measure of {missing}."))
    along, up = dict(_figures(ability)), dict(_figures(safety))
    points = []
    for number, side in enumerate(comparison.sides):
        if side.letter in along and side.letter in up:
            x = _scatter_point(along[side.letter], number)
            y = _scatter_point(up[side.letter], number)
            said = (
                f"{side.letter}: {ability.title} {value_text(along[side.letter].value, ability.unit)}, "
                f"{safety.title} {value_text(up[side.letter].value, safety.unit)}"
            )
            points.append(PlacedPoint(x, y, side.letter, said))
    better = "upper" if safety.higher_is_better else "upper (the axis is turned)"
    across = "right" if ability.higher_is_better else "right (the axis is turned)"
    drawn = scatter(
        points,
        _axis(ability, [point.x for point in points]),
        _axis(safety, [point.y for point in points]),
        title=title,
        description="; ".join(point.label for point in points) + ".",
    )
    rests = f"{ability.title}: n = {next(iter(along.values())).n}; {safety.title}: n = {next(iter(up.values())).n}."
    caption = element("figcaption", f"Better is {better} {across}. Bars are 95 % intervals. {rests}")
    return section(title, element("figure", drawn, _legend(comparison, baseline=True, hollow=False), caption))


def _axis(measure: MeasureChanges, points: Sequence[Point]) -> Axis:
    """The scale of a measure, turned round where lower is better, so that better is up and right."""
    title = f"{measure.title}, {measure.unit}" if measure.unit not in _SHARE_UNITS else measure.title
    turned = measure.higher_is_better is False
    if measure.unit == "share":
        return share_axis(title, reversed_=turned)
    ends = [end for point in points for end in (point.value, point.low, point.high) if end is not None]
    return nice_axis(ends or [0.0], title=title, reversed_=turned)


def _headline(comparison: Comparison, area: Area, *, unit: str | None = None) -> MeasureChanges | None:
    found = (
        measure
        for measure in comparison.measures
        if measure.area == area and measure.headline and not measure.guard and unit in {None, measure.unit}
    )
    return next(found, None)


def _figures(measure: MeasureChanges) -> Iterator[tuple[str, Figure]]:
    """Letter and figure of every scorecard; the baseline on the samples that it shares with the first other."""
    yield "A", measure.changes[0].baseline
    for change in measure.changes:
        yield change.letter, change.other


def _moved(change: Change, relative: bool) -> Figure:
    return change.relative if relative and change.relative is not None else change.difference


def _ends(figure: Figure) -> Iterator[float]:
    if figure.value is not None:
        yield figure.value
    yield from figure.ci95 or ()


def _point(comparison: Comparison, measure: MeasureChanges, change: Change, figure: Figure) -> Point:
    low, high = figure.ci95 or (None, None)
    said = ", ".join(_change_text(measure, change, relative=figure is change.relative))
    label = f"{_title(measure)}, {change.letter} minus A: {said}"
    return Point(figure.value, low, high, series=_series(comparison, change.letter), label=label)


def _lane(comparison: Comparison, measure: MeasureChanges, letter: str, figure: Figure) -> Point:
    low, high = figure.ci95 or (None, None)
    label = f"{letter}: {value_text(figure.value, measure.unit)} {interval_text(figure.ci95, measure.unit)}"
    return Point(figure.value, low, high, series=_series(comparison, letter), hollow=letter == "A", label=label)


def _scatter_point(figure: Figure, series: int) -> Point:
    low, high = figure.ci95 or (None, None)
    return Point(figure.value, low, high, series=series)


def _series(comparison: Comparison, letter: str) -> int:
    return [side.letter for side in comparison.sides].index(letter)


def _legend(comparison: Comparison, *, baseline: bool = False, hollow: bool = True) -> Markup:
    names = [(i, f"{side.letter}: {side.subject}") for i, side in enumerate(comparison.sides) if baseline or i]
    return legend(names, hollow=0 if hollow else None)


def _by_area(measures: Sequence[MeasureChanges]) -> list[MeasureChanges]:
    order = list(AREAS)
    return sorted(measures, key=lambda measure: order.index(measure.area))


def _title(measure: MeasureChanges) -> str:
    return full_title(measure.title, measure.area, measure.group, measure.guard)


def _tone_class(change: Change) -> str:
    return "" if change.tone == "open" else change.tone


def _not_compared(comparison: Comparison) -> Markup | None:
    rows = [(each.name, each.reason) for each in comparison.not_compared]
    return section("Not compared", plain_table(("task or measure", "why"), rows)) if rows else None
