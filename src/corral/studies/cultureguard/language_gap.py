"""Claim ``language_gap``: what a guard loses outside English, on the same rows in every language."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from corral.core import weighted
from corral.core.evidence import Claim
from corral.core.metric_inputs import as_binary
from corral.core.weighted import Statistic
from corral.data.examples import ModerationExample
from corral.evals.languages import language_tables
from corral.evals.results import Figure, LanguageTable
from corral.evals.scored import ScoredSet
from corral.studies.claims import Compared, claim_of, compare_over_seeds
from corral.studies.cultureguard.json_guard import guard_of
from corral.studies.cultureguard.rows import LanguageSet, StudyRows
from corral.studies.cultureguard.settings import ENGLISH, CultureGuardConfig
from corral.studies.cultureguard.trainings import Guards
from corral.studies.verdict_store import Judged

CLAIM: Final = "language_gap"
DEFAULT: Final = "default"

Judge = Callable[[Sequence[ModerationExample]], Judged]


@dataclass(frozen=True)
class MeasuredGuard:
    """A guard and how it is asked; a trained one once a seed.

    Attributes:
        name: in tables.
        judges: one a seed.
        knows_xsafety: it was trained on XSafety rows, and so is not measured on them.
    """

    name: str
    judges: tuple[Judge, ...]
    knows_xsafety: bool


def language_gap(guards: Guards, rows: StudyRows, config: CultureGuardConfig) -> Claim:
    """The gap of the first guard on the first family; all others beside it."""
    measured = list(_guards(guards, rows, config))
    main_guard, main_family = measured[0], next(iter(rows.families))
    gaps = {
        f"{guard.name} / {family}": _gap(guard, members, config)
        for guard in measured
        for family, members in rows.families.items()
    }
    main = gaps[f"{main_guard.name} / {main_family}"]
    others = [each.rows[0].language for each in rows.families[main_family][1:]]
    return claim_of(
        CLAIM,
        main,
        metric=f"average precision of the guard `{main_guard.name}` on `{main_family}`: English minus the mean of "
        f"{', '.join(others)}, the same rows in every language",
        expected="a guard on an English-centric base finds less in other languages: the whole interval of the gap, "
        "rows resampled with all their translations, lies above 0; other guards and sets stand beside it",
        seeds=config.seeds[: config.languages.seeds],
        toy=config.toy,
        tried=config.tried.get(CLAIM, ()),
        beside={
            **{f"gap: {name}": found.to_json() for name, found in gaps.items()},
            "by language": [row for guard in measured for row in _language_rows(guard, rows, config)],
            "over languages": [row for guard in measured for row in _mean_rows(guard, rows, config)],
            "attack-like categories of XSafety, all unsafe": [
                row for guard in measured for row in _attack_rows(guard, rows, config)
            ],
        },
    )


def _guards(guards: Guards, rows: StudyRows, config: CultureGuardConfig) -> Iterator[MeasuredGuard]:
    if config.languages.default_guard:
        yield MeasuredGuard(DEFAULT, (_default_judge(guards),), knows_xsafety=True)
    seeds = config.seeds[: config.languages.seeds]
    judges = tuple(_trained_judge(guards, rows, config, seed) for seed in seeds)
    yield MeasuredGuard("cultureguard", judges, knows_xsafety=False)


def _default_judge(guards: Guards) -> Judge:
    from corral.guards.loading import load_guard

    guard = load_guard(DEFAULT)
    key = {"guard": DEFAULT, "revision": guard.revision}
    return lambda some: guards.store.judge_by(DEFAULT, key, some, lambda: guard)


def _trained_judge(guards: Guards, rows: StudyRows, config: CultureGuardConfig, seed: int) -> Judge:
    return lambda some: guards.judge(guard_of(config, rows, seed), some, decode="score")


def _gap(guard: MeasuredGuard, members: Sequence[LanguageSet], config: CultureGuardConfig) -> Compared:
    """English minus the mean of the other languages, on the rows that all have."""
    english, *others = (_by_pair(each) for each in members)
    pairs = [pair for pair in english if all(pair in other for other in others)]
    truth = as_binary([english[pair].harmful for pair in pairs])

    def statistic(judge: Judge, of_language: Mapping[str, ModerationExample]) -> Statistic:
        return weighted.average_precision(truth, judge([of_language[pair] for pair in pairs]).scores)

    return compare_over_seeds(
        [statistic(judge, english) for judge in guard.judges],
        [weighted.mean_of([statistic(judge, other) for other in others]) for judge in guard.judges],
        [english[pair].group for pair in pairs],
        seed=config.seed,
        replicates=config.replicates,
    )


def _by_pair(each: LanguageSet) -> dict[str, ModerationExample]:
    return {str(row.raw[each.eval_set.pair]): row for row in each.rows}


def _tables(
    guard: MeasuredGuard, members: Sequence[LanguageSet], config: CultureGuardConfig
) -> list[tuple[int, LanguageTable]]:
    """Tables of every seed's guard, with the seed's number."""
    return [
        (number, table)
        for number, judge in enumerate(guard.judges)
        for table in language_tables(
            [_scored(guard.name, each, judge) for each in members], seed=config.seed, replicates=config.replicates
        )
    ]


def _scored(name: str, each: LanguageSet, judge: Judge) -> ScoredSet:
    judged = judge(each.rows)
    return ScoredSet(
        eval_set=each.eval_set,
        guard=name,
        revision="",
        examples=each.rows,
        truth_N=as_binary([each.eval_set.truth(row) for row in each.rows]),
        scores_N=np.where(judged.answered, judged.scores, np.nan),
        latency_ms_N=np.zeros(len(each.rows)),
        score_rule="p_harm",
        rows_in_set=len(each.rows),
    )


def _language_rows(guard: MeasuredGuard, rows: StudyRows, config: CultureGuardConfig) -> Iterator[dict[str, Any]]:
    """A row a family and language: every measure, and the gap to English in average precision and F1."""
    for members in rows.families.values():
        tables = _tables(guard, members, config)
        for number in range(len(guard.judges)):
            by_metric = {table.metric: table for owner, table in tables if owner == number}
            first = by_metric["ap"]
            for language, figure in first.by_language.items():
                shown: dict[str, Any] = {"guard": guard.name, "seed": config.seeds[number], "set": first.family}
                shown |= {"language": language, "n": figure.n}
                for metric in ("ap", "f1", "precision", "recall", "fpr"):
                    shown |= _cell(metric, by_metric[metric].by_language[language])
                for metric in ("ap", "f1"):
                    shown |= _cell(f"{metric} gap", by_metric[metric].gap.get(language))
                yield shown


def _mean_rows(guard: MeasuredGuard, rows: StudyRows, config: CultureGuardConfig) -> Iterator[dict[str, Any]]:
    """A row a family and measure: the unweighted mean over languages, and the worst one."""
    for members in rows.families.values():
        for number, table in _tables(guard, members, config):
            yield {
                "guard": guard.name,
                "seed": config.seeds[number],
                "set": table.family,
                "metric": table.metric,
                **_cell("mean", table.mean),
                "worst language": table.worst_language,
            }


def _attack_rows(guard: MeasuredGuard, rows: StudyRows, config: CultureGuardConfig) -> Iterator[dict[str, Any]]:
    """A row a language: recall, as every row is unsafe, and the gap to English; none for guards trained on the set."""
    if rows.attack_like is None or guard.knows_xsafety:
        return
    for number, table in _tables(guard, [rows.attack_like], config):
        for language, figure in table.by_language.items():
            yield {
                "guard": guard.name,
                "seed": config.seeds[number],
                "language": language,
                "n": figure.n,
                **_cell("recall", figure),
                **_cell("gap", None if language == ENGLISH else table.gap.get(language)),
            }


def _cell(name: str, figure: Figure | None) -> dict[str, Any]:
    interval = None if figure is None or figure.ci95 is None else list(figure.ci95)
    return {name: None if figure is None else figure.value, f"{name}_ci95": interval}
