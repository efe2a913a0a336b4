"""Comparing scorecards: paired differences with intervals, and a refusal where figures may not be compared."""

from corral.evals.compare.preference import preferences
from corral.evals.compare.rejudge import Judges
from corral.evals.compare.report import write_comparison
from corral.evals.compare.results import Change, Comparison, MeasureChanges, Preference
from corral.evals.compare.run import compare

__all__ = [
    "Change",
    "Comparison",
    "Judges",
    "MeasureChanges",
    "Preference",
    "compare",
    "preferences",
    "write_comparison",
]
