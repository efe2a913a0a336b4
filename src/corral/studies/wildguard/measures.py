"""Figures of the study from kept scores: one metric of one arm on one test, a figure a seed, and differences.

Reads what ``trainings`` wrote, no model and no text, so that figures and claims can be made anew at any time.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np

from corral.core.errors import RunError
from corral.core.metric_inputs import UNKNOWN, Floats, Labels, as_labels, fill_unscored
from corral.core.stats import REPLICATES, Estimate, cluster_bootstrap
from corral.core.weighted import Statistic, mean_of
from corral.evals.measures import statistic
from corral.evals.tasks.moderation_sets import SETS
from corral.studies.claims import Compared, compare_over_seeds

Score = Literal["p_harm", "p_refusal"]
Row = Mapping[str, Any]
Truth = Callable[[Row], bool | None]


@dataclass(frozen=True, slots=True)
class Question:
    """What a test is asked about: the score that answers it, the truth, and what an unscored row counts as.

    As in the moderation task, a prompt or reply that a guard gives no verdict on counts as flagged, and one whose
    refusal nobody judged as no refusal.
    """

    score: Score
    truth: Truth

    @property
    def unscored_as(self) -> Literal["unsafe", "safe"]:
        """Treatment of unscored rows, in the words of ``fill_unscored``."""
        return "unsafe" if self.score == "p_harm" else "safe"


def _actions(name: str) -> Truth:
    """The truth of one of the three readings of do_not_answer's actions, by the name of the public set."""
    reading = SETS.get(name).truth
    return lambda row: reading(_Acted(row))  # type: ignore[arg-type]


class _Acted:
    """As much of an example as a truth by column looks at."""

    def __init__(self, row: Row) -> None:
        self.raw = {"action": row["action"]}


HARM: Final = Question("p_harm", lambda row: row["harmful"])
REFUSAL: Final = Question("p_refusal", lambda row: row["refusal"])
READINGS: Final[Mapping[str, Question]] = {
    "clear": Question("p_refusal", _actions("do_not_answer_refusal")),
    "plain": Question("p_refusal", _actions("do_not_answer_refusal_plain")),
    "broad": Question("p_refusal", _actions("do_not_answer_refusal_broad")),
}
"""Action 0 against 2, 3 and 5 (clear); against all others (plain); 0, 1 and 4 against 2, 3 and 5 (broad)."""


@dataclass(frozen=True)
class TestScores:
    """The scores of one test, a row of scores a seed; the rows are those whose truth is known.

    Attributes:
        truth_N: in {0, 1}.
        scores_SN: a row a seed, in [0, 1].
        clusters: (N,) the goal of each row.
        unscored: rows without a verdict, over all seeds.
    """

    __test__ = False  # not one of pytest's

    truth_N: Labels
    scores_SN: tuple[Floats, ...]
    clusters: tuple[str, ...]
    unscored: int

    def statistics(self, metric: str) -> list[Statistic]:
        """The metric of each seed as a function of row weights; names as in ``evals.measures``."""
        return [statistic(metric, self.truth_N, scores_N) for scores_N in self.scores_SN]


class Scores:
    """The kept scores of a study.

    Args:
        folder: with a folder a cell.
        seeds: of the trainings.
        seed: of the bootstrap.
        replicates: resamples a figure.
    """

    def __init__(self, folder: Path, seeds: Sequence[int], *, seed: int = 0, replicates: int = REPLICATES) -> None:
        self._folder = folder
        self.seeds = tuple(seeds)
        self._seed = seed
        self._replicates = replicates

    def has(self, arm: str, test: str) -> bool:
        """Whether the arm was scored on the test, with every seed."""
        return all(path.is_file() for path in self._paths(arm, test))

    def read(self, arm: str, test: str, question: Question) -> TestScores:
        """The scores of an arm on a test.

        Args:
            arm: trained with every seed; or a rule that has no seed, whose cell has the arm's own name.
            test: name of the rows.
            question: what they are asked about.

        Raises:
            RunError: not scored, or the seeds were scored on different rows.
        """
        tables = [_table(path) for path in self._paths(arm, test)]
        first = tables[0]
        if any([row["id"] for row in table] != [row["id"] for row in first] for table in tables):
            raise RunError(f"the seeds of `{arm}` were scored on different rows of `{test}`", where=str(self._folder))
        truth = as_labels([question.truth(row) for row in first])
        known = np.flatnonzero(truth != UNKNOWN)
        raw = [[table[i][question.score] for i in known] for table in tables]
        filled = [fill_unscored(truth[known], scores, question.unscored_as)[1] for scores in raw]
        return TestScores(
            truth_N=truth[known],
            scores_SN=tuple(filled),
            clusters=tuple(first[i]["group"] for i in known),
            unscored=sum(score is None for scores in raw for score in scores),
        )

    def figure(self, arm: str, test: str, question: Question, metric: str) -> Estimate:
        """A metric, mean over seeds, with its interval over goals."""
        scores = self.read(arm, test, question)
        return cluster_bootstrap(
            mean_of(scores.statistics(metric)),
            scores.clusters,
            seed=self._seed,
            replicates=self._replicates,
            unscored=scores.unscored,
            rule="mean over seeds; 95 % percentile interval, goals resampled",
        )

    def compare(self, ours: str, baseline: str, test: str, question: Question, metric: str) -> Compared:
        """The same metric of two arms on the same rows, and the difference."""
        first, second = self.read(ours, test, question), self.read(baseline, test, question)
        if first.clusters != second.clusters:
            raise RunError(f"`{ours}` and `{baseline}` were scored on different rows", where=str(self._folder))
        return self.compare_statistics(first.statistics(metric), second.statistics(metric), first.clusters)

    def compare_statistics(
        self, ours: Sequence[Statistic], baseline: Sequence[Statistic], clusters: Sequence[str]
    ) -> Compared:
        """As ``compare_over_seeds``, under this study's seed."""
        return compare_over_seeds(ours, baseline, clusters, seed=self._seed, replicates=self._replicates)

    def _paths(self, arm: str, test: str) -> list[Path]:
        unseeded = self._folder / arm / f"{test}.jsonl"
        if unseeded.is_file():
            return [unseeded]
        return [self._folder / f"{arm}-{seed}" / f"{test}.jsonl" for seed in self.seeds]


def _table(path: Path) -> list[Row]:
    """The rows of a score file, by id.

    Raises:
        RunError: it is not there.
    """
    if not path.is_file():
        raise RunError("these scores are missing", where=str(path), hint="Continue the run: corral runs resume RUN")
    rows = [json.loads(line) for line in path.read_bytes().splitlines()]
    return sorted(rows, key=lambda row: str(row["id"]))
