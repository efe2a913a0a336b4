"""Guard quality as a scorecard task: the moderation task's headline sets, item by item.

Guards are measured by themselves; the model is not asked. Every F1 stands beside that of flagging everything and the
false-positive rate at the same threshold, every average precision beside the positive rate. Rows that a guard gives no
score for count as flagged, as under the default policy.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from corral.core.files import sha256_json
from corral.evals.beside_published import published_rows
from corral.evals.results import PublishedRow
from corral.evals.sample_cache import SampleCache
from corral.evals.scored import THRESHOLD, ScoredSet
from corral.evals.tasks.formulas import AveragePrecision, F1OverFlagAll, Formula, Quantile, RateAt
from corral.evals.tasks.moderation import choose_sets
from corral.evals.tasks.scoring import TASK_VERSION as MODERATION_VERSION
from corral.evals.tasks.scoring import RowLoader, ScoredGuard, score_guard
from corral.evals.tasks.task import Measure, Progress, SampleScore, Subject, TaskResult, TaskSkip

_AS_FLAGGED: Final = 1.0
_METRICS: Final = frozenset({"ap", "f1", "recall", "fpr"})


@dataclass(frozen=True)
class GuardQuality:
    """Average precision, F1, recall and false-positive rate of each guard on public sets, and its speed.

    Attributes:
        sets: names as ``choose_sets`` takes them; sets that ask about harm.
        limit: at most so many rows a set, whole prompts drawn at random; all when ``None``.
        seed: of the draw.
        root: the data folder; ``data_root()`` when ``None``.
    """

    sets: tuple[str, ...] = ("headline",)
    limit: int | None = None
    seed: int = 0
    root: Path | None = None

    @property
    def name(self) -> str:
        """``guard_quality``."""
        return "guard_quality"

    @property
    def version(self) -> str:
        """Raised with the moderation task's and with our own rules."""
        return f"1.{MODERATION_VERSION}"

    @property
    def measures(self) -> tuple[Measure, ...]:
        """None before there are guards; ``run`` makes those of each guard and set."""
        return ()

    def run(self, subject: Subject, cache: SampleCache, progress: Progress) -> TaskResult | TaskSkip:
        """Score every guard on every set that is there. Bars are those of the moderation task."""
        del progress
        if not subject.guards:
            return TaskSkip(self.name, "no guard was named", "Name one, for example `--guard default`.")
        loader = RowLoader(root=self.root, limit=self.limit, seed=self.seed)
        chosen = choose_sets(self.sets)
        scored = [
            score_guard(guard, chosen, loader, cache.folder / self.name, resume=cache.reuse) for guard in subject.guards
        ]
        if not any(each.sets for each in scored):
            first = scored[0].skipped[0]
            return TaskSkip(self.name, f"`{first.set}`: {first.reason}", first.hint)
        by_set = {name: [each for each in scored if name in each.sets] for name in _names(scored)}
        samples = [sample for name, guards in by_set.items() for sample in _samples(name, guards)]
        return TaskResult.of(
            self,
            samples,
            data_hash=sha256_json({name: guards[0].sets[name].rows_sha256 for name, guards in by_set.items()}),
            measures=[measure for each in scored for measure in _measures(each)],
            caveats=list(_caveats(scored)),
            published={name: rows for name, guards in by_set.items() if (rows := _published(guards[0].sets[name]))},
        )


def _names(scored: Sequence[ScoredGuard]) -> list[str]:
    return list(dict.fromkeys(name for each in scored for name in each.sets))


def _samples(name: str, guards: Sequence[ScoredGuard]) -> Iterator[SampleScore]:
    sets = {each.name: each.sets[name] for each in guards}
    first = next(iter(sets.values()))
    for i, (example, truth) in enumerate(zip(first.examples, first.truth_N.tolist(), strict=True)):
        values: dict[str, float | None] = {"truth": float(truth)}
        for guard, of_guard in sets.items():
            values |= _values(guard, of_guard, i)
        yield SampleScore(
            id=f"{name}/{example.id}",
            cluster=example.group,
            values=values,
            group=name,
            texts={"judged": example.text},
        )


def _values(guard: str, scored: ScoredSet, i: int) -> Mapping[str, float | None]:
    score = float(scored.scores_N[i])
    known = not math.isnan(score)
    return {
        f"score@{guard}": score if known else None,
        f"flagged@{guard}": float(score >= THRESHOLD) if known else None,
        f"ms@{guard}": float(scored.latency_ms_N[i]),
    }


def _measures(scored: ScoredGuard) -> Iterator[Measure]:
    guard = scored.name
    for name, of_set in scored.sets.items():
        positives = float(np.mean(of_set.truth_N))
        flag_all = 2 * positives / (1 + positives) if positives else None
        flagged = {"truth": "truth", "flagged": f"flagged@{guard}"}
        ranked = AveragePrecision(truth="truth", score=f"score@{guard}")
        yield _measure("ap", "average precision", guard, name, ranked, chance=positives, headline=True)
        yield _measure("f1", "F1 at 0.5", guard, name, RateAt(**flagged, rate="f1"), chance=flag_all)
        over = F1OverFlagAll(**flagged)
        yield _measure("f1_over_flag_all", "F1 over flagging everything", guard, name, over, unit="points", chance=0.0)
        yield _measure("recall", "recall at 0.5", guard, name, RateAt(**flagged, rate="recall"))
        yield _measure("fpr", "FPR at 0.5", guard, name, RateAt(**flagged, rate="fpr"), higher_is_better=False)
    for q in (0.5, 0.95):
        yield Measure(
            name=f"latency_p{q * 100:.0f}@{guard}",
            title=f"guard's time a row, p{q * 100:.0f}",
            unit="ms",
            higher_is_better=False,
            area="cost",
            formula=Quantile(value=f"ms@{guard}", q=q),
            guard=guard,
            reproducible=False,
        )


def _published(scored: ScoredSet) -> tuple[PublishedRow, ...]:
    """What others printed of the set; nothing beside a sample of it."""
    if len(scored.examples) < scored.rows_in_set:
        return ()
    return tuple(published_rows(scored.eval_set, _METRICS))


def _measure(
    metric: str,
    title: str,
    guard: str,
    set_name: str,
    formula: Formula,
    *,
    unit: str = "share",
    higher_is_better: bool = True,
    chance: float | None = None,
    headline: bool = False,
) -> Measure:
    return Measure(
        name=f"{set_name}/{metric}@{guard}",
        title=title,
        unit=unit,
        higher_is_better=higher_is_better,
        area="guard",
        formula=formula,
        group=set_name,
        guard=guard,
        unscored_as=_AS_FLAGGED,
        chance=chance,
        headline=headline,
    )


def _caveats(scored: Sequence[ScoredGuard]) -> Iterator[str]:
    told = set()
    for each in scored:
        for name, of_set in each.sets.items():
            lines = [f"{name}: {of_set.eval_set.rule}."]
            if len(of_set.examples) < of_set.rows_in_set:
                lines.append(
                    f"A sample of {len(of_set.examples)} of {of_set.rows_in_set} rows, so no published figure stands "
                    "beside it; `corral eval moderation` measures the whole set."
                )
            if of_set.eval_set.caveat:
                lines.append(of_set.eval_set.caveat)
            if of_set.score_rule != "p_harm":
                lines.append(f"{each.name} is read by: {of_set.score_rule}.")
            told.add(" ".join(lines))
        told |= {f"{each.name} on {skipped.set} was skipped: {skipped.reason}" for skipped in each.skipped}
    yield from sorted(told)
