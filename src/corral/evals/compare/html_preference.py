"""The part of a comparison's page that shows whose answers a judge prefers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from corral.evals.compare.markdown import PREFERRED
from corral.evals.compare.results import Comparison, Preference
from corral.evals.reporting.charts import Point, share_axis
from corral.evals.reporting.markup import Markup
from corral.evals.reporting.page import bullets, section
from corral.evals.reporting.strips import StripRow, strip_table
from corral.evals.reporting.wording import basis_text, interval_text, value_text

_READING: Final = (
    "Above one half the judge prefers the other scorecard's model, below it A's. The rows below say how far the judge "
    "can be trusted: the dashed mark is what a coin would give."
)


def preferred_section(comparison: Comparison) -> Markup | None:
    """Win rates with their intervals, and how far the judge agrees with itself; nothing without a judge."""
    if not comparison.preferences:
        return None
    rows = [row for each in comparison.preferences for row in _rows(comparison, each)]
    caveats = dict.fromkeys(caveat for each in comparison.preferences for caveat in each.caveats)
    return section(PREFERRED, strip_table(rows, share_axis(), caption=_READING), bullets(caveats))


def _rows(comparison: Comparison, preference: Preference) -> Iterator[StripRow]:
    series = [side.letter for side in comparison.sides].index(preference.letter)
    for measure in preference.entry.measures:
        figure = preference.entry.figures[measure.name]
        low, high = figure.ci95 or (None, None)
        value, interval = value_text(figure.value, measure.unit), interval_text(figure.ci95, measure.unit)
        label = f"{preference.letter} against A, {measure.title}: {value} {interval}"
        yield StripRow(
            label=measure.title,
            points=(Point(figure.value, low, high, series=series, label=label),),
            figures=((f"{value} {interval}", basis_text(figure.n, figure.clusters, figure.unscored)),),
            reference=measure.chance,
            part=f"{preference.letter} against A, judged by {preference.judge}",
        )
