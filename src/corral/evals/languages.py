"""One set in several languages: per-language figures, their unweighted mean, the worst, and the gap to English.

Where the languages are aligned row by row, gap and mean are taken on the rows that all languages concerned have, and
resampled by the English prompt, so that a prompt and its translations stand or fall together.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from corral.core.metric_inputs import Floats, Labels
from corral.core.stats import REPLICATES, Estimate, cluster_bootstrap, paired_cluster_bootstrap
from corral.data.examples import ModerationExample
from corral.evals.measures import interval_of, statistic
from corral.evals.results import Figure, LanguageTable
from corral.evals.scored import ScoredSet
from corral.evals.tasks.eval_set import Kind

METRICS: Final[Mapping[Kind, tuple[str, ...]]] = {
    "mixed": ("ap", "f1", "precision", "recall", "fpr"),
    "positives": ("recall",),
    "negatives": ("fpr",),
}
_LOWER_IS_BETTER: Final = frozenset({"fpr"})
_PIVOT: Final = "en"


@dataclass(frozen=True)
class _Rows:
    """The rows of one language; ``pairs`` are "" where the languages are not aligned."""

    truth_N: Labels
    scores_N: Floats
    groups: list[str]
    pairs: list[str]
    unscored: int

    def at(self, pairs: list[str]) -> _Rows:
        """The rows of these pairs, in this order."""
        where = {pair: index for index, pair in enumerate(self.pairs)}
        kept = [where[pair] for pair in pairs]
        groups = [self.groups[i] for i in kept]
        return _Rows(self.truth_N[kept], self.scores_N[kept], groups, pairs, self.unscored)


def language_tables(
    scored: Iterable[ScoredSet], *, seed: int = 0, replicates: int = REPLICATES
) -> Iterator[LanguageTable]:
    """One table for each family and measure, for families scored in at least two languages.

    Args:
        scored: sets of one guard.
        seed: of the bootstrap.
        replicates: resamples a figure.
    """
    families: dict[str, list[ScoredSet]] = defaultdict(list)
    for each in scored:
        if each.eval_set.family:
            families[each.eval_set.family].append(each)
    for family, members in families.items():
        rows = _by_language(members)
        if len(rows) < 2:
            continue
        for metric in METRICS[members[0].eval_set.kind]:
            yield _table(family, metric, rows, seed, replicates)


def _by_language(members: list[ScoredSet]) -> dict[str, _Rows]:
    """Rows of each language, English first and the others in alphabetical order."""
    positions: dict[str, list[tuple[ScoredSet, int]]] = defaultdict(list)
    for member in members:
        for index, example in enumerate(member.examples):
            positions[example.language].append((member, index))
    ordered = sorted(positions, key=lambda language: (language != _PIVOT, language))
    filled = {id(member): member.filled() for member in members}
    return {language: _rows(positions[language], filled) for language in ordered}


def _rows(positions: list[tuple[ScoredSet, int]], filled: Mapping[int, Floats]) -> _Rows:
    examples = [member.examples[i] for member, i in positions]
    column = positions[0][0].eval_set.pair
    return _Rows(
        truth_N=np.array([member.truth_N[i] for member, i in positions], dtype=np.int8),
        scores_N=np.array([filled[id(member)][i] for member, i in positions]),
        groups=[example.group for example in examples],
        pairs=[_pair(example, column) for example in examples],
        unscored=sum(bool(np.isnan(member.scores_N[i])) for member, i in positions),
    )


def _pair(example: ModerationExample, column: str) -> str:
    """What joins a row to its translations: an upstream column, or ``group``."""
    if column == "group":
        return example.group
    return str(example.raw.get(column, "")) if column else ""


def _table(family: str, metric: str, rows: Mapping[str, _Rows], seed: int, replicates: int) -> LanguageTable:
    figures = {
        language: Figure.of(
            interval_of(
                metric,
                each.truth_N,
                each.scores_N,
                each.groups,
                seed=seed,
                replicates=replicates,
                unscored=each.unscored,
            )
        )
        for language, each in rows.items()
    }
    known = {language: figure.value for language, figure in figures.items() if figure.value is not None}
    worst = max if metric in _LOWER_IS_BETTER else min
    return LanguageTable(
        family=family,
        metric=metric,
        by_language=figures,
        mean=_mean(metric, rows, list(known.values()), seed, replicates),
        worst_language=worst(known, key=lambda language: known[language]) if known else "",
        gap=_gaps(metric, rows, seed, replicates),
    )


def _mean(metric: str, rows: Mapping[str, _Rows], values: list[float], seed: int, replicates: int) -> Figure:
    total = sum(len(each.pairs) for each in rows.values())
    common = _common(list(rows.values()))
    if not common:
        value = sum(values) / len(values) if values else None
        return Figure.of(Estimate(value, None, None, total, 0, rule="unweighted mean"), "rows are not aligned")
    aligned = [each.at(common) for each in rows.values()]
    statistics = [statistic(metric, each.truth_N, each.scores_N) for each in aligned]
    estimate = cluster_bootstrap(
        lambda weights_NR: np.mean([each(weights_NR) for each in statistics], axis=0),
        aligned[0].groups,
        seed=seed,
        replicates=replicates,
        unscored=sum(each.unscored for each in rows.values()),
        rule=f"unweighted mean over {len(rows)} languages, rows that all have; pairs resampled together",
    )
    return Figure.of(estimate)


def _gaps(metric: str, rows: Mapping[str, _Rows], seed: int, replicates: int) -> dict[str, Figure]:
    if _PIVOT not in rows:
        return {}
    gaps = {}
    for language, each in rows.items():
        common = _common([rows[_PIVOT], each])
        if language == _PIVOT or not common:
            continue
        pivot, other = rows[_PIVOT].at(common), each.at(common)
        estimate = paired_cluster_bootstrap(
            statistic(metric, pivot.truth_N, pivot.scores_N),
            statistic(metric, other.truth_N, other.scores_N),
            pivot.groups,
            seed=seed,
            replicates=replicates,
            unscored=pivot.unscored + each.unscored,
            rule="English minus the language, paired by source row",
        )
        gaps[language] = Figure.of(estimate)
    return gaps


def _common(rows: list[_Rows]) -> list[str]:
    """Pairs that all languages have, in the order of the first."""
    shared = set.intersection(*(set(each.pairs) for each in rows)) - {""}
    return [pair for pair in rows[0].pairs if pair in shared]
