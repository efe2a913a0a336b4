"""Adapting a promptable guard to a target data set, one rung after the other: what helps how much.

- ``none``: the guard's own policy;
- ``zero-shot``: the names of the target's categories in the prompt;
- ``few-shot``: their descriptions and two to four examples of each, from the training half of the target;
- ``fine-tune``: trained on a share of that half, under the target's category names; a smaller share is part of every
  larger one.

All are measured on the other half. This module says which policy and rows each rung has and what the scores mean;
whoever calls it holds the models (Llama Guard, arXiv 2312.06674, section 4.3).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from pydantic import JsonValue

from corral.core import weighted
from corral.core.errors import DataError
from corral.core.metric_inputs import Floats, as_binary
from corral.core.metrics import lift, positive_rate
from corral.core.stats import REPLICATES, Estimate, cluster_bootstrap, paired_cluster_bootstrap
from corral.core.weighted import Statistic
from corral.data.examples import ModerationExample
from corral.data.mixture import sample_groups
from corral.data.splits import group_fraction
from corral.data.taxonomy import parse_code
from corral.guards.llama_guard.prompts import PolicyPrompt

Protocol = Literal["none", "zero-shot", "few-shot", "fine-tune"]
SHARES: Final = (0.1, 0.2, 0.5, 1.0)
"""Of the training half, as in the paper's figure on adaptation."""


@dataclass(frozen=True, slots=True)
class Rung:
    """One protocol; ``share`` of the training rows for ``fine-tune``, else 0."""

    protocol: Protocol
    share: float = 0.0

    def __post_init__(self) -> None:
        if (self.protocol == "fine-tune") != (0 < self.share <= 1):
            raise ValueError(f"`{self.protocol}` with a share of {self.share}")

    @property
    def name(self) -> str:
        """For reports: ``fine-tune 10 %``."""
        return f"{self.protocol} {self.share:.0%}".replace("%", " %") if self.share else self.protocol


@dataclass(frozen=True)
class AdaptationTarget:
    """A data set that a guard is adapted to.

    Attributes:
        policy: its categories by name.
        train: half of its rows; everything that a guard may learn from.
        test: rows of the other half, none in a group with a training row.
        examples: bare code of the policy to texts of the training half, for the few-shot prompt.
    """

    policy: PolicyPrompt
    train: tuple[ModerationExample, ...]
    test: tuple[ModerationExample, ...]
    examples: Mapping[str, tuple[str, ...]]

    def __post_init__(self) -> None:
        if shared := {row.group for row in self.train} & {row.group for row in self.test}:
            raise DataError(f"{len(shared)} groups are in the training half and in the test half of the target")


Judge = Callable[[Rung, PolicyPrompt, Sequence[ModerationExample]], Sequence[Floats]]
"""Scores (N,) of the target's test rows, one array a seed: by the guard under the policy, fine-tuned on the rows when
there are some."""


@dataclass(frozen=True, slots=True)
class RungFigures:
    """What one rung reaches on the test half, mean over seeds.

    Attributes:
        rung: which.
        training_rows: how many of the target it was fine-tuned on.
        ap: average precision with its interval.
        above_none: the same less that of ``none``, on the same resamples; ``None`` for ``none`` itself.
        by_seed: average precision of each seed.
        floor: share of positives.
        lift: how much of the way from the floor to 1 the average precision is.
    """

    rung: Rung
    training_rows: int
    ap: Estimate
    above_none: Estimate | None
    by_seed: tuple[float, ...]
    floor: float | None
    lift: float | None

    def to_json(self) -> dict[str, JsonValue]:
        """As plain JSON values."""
        above = self.above_none
        return {
            "rung": self.rung.name,
            "training_rows": self.training_rows,
            "ap": self.ap.value,
            "ci95": None if self.ap.ci95 is None else list(self.ap.ci95),
            "by_seed": list(self.by_seed),
            "floor": self.floor,
            "lift": self.lift,
            "above_none": None if above is None else above.value,
            "above_none_ci95": None if above is None or above.ci95 is None else list(above.ci95),
        }


def rungs(shares: Sequence[float] = SHARES) -> tuple[Rung, ...]:
    """The whole ladder, in order."""
    return (Rung("none"), Rung("zero-shot"), Rung("few-shot"), *(Rung("fine-tune", share) for share in shares))


def share_of(rows: Sequence[ModerationExample], share: float, *, seed: int) -> list[ModerationExample]:
    """A share of rows in their order, at least one; the rows of a smaller share are among those of a larger one."""
    ranked = sorted(range(len(rows)), key=lambda i: (group_fraction(rows[i].group, seed=seed), i))
    return [rows[i] for i in sorted(ranked[: max(1, round(share * len(rows)))])]


def choose_examples(
    rows: Sequence[ModerationExample], policy: PolicyPrompt, *, each: int = 2, max_chars: int = 200, seed: int = 0
) -> dict[str, tuple[str, ...]]:
    """Texts of each category of a policy, drawn from training rows: of that category and no other, and short.

    Args:
        rows: of the training half.
        policy: whose categories need examples.
        each: how many a category, two to four.
        max_chars: longer texts are passed over; a prompt has many examples.
        seed: of the draw.

    Raises:
        DataError: too few rows of a category.
    """
    chosen: dict[str, tuple[str, ...]] = {}
    for position, category in enumerate(policy.categories):
        code = policy.qualified(policy.codes[position])
        fitting = [row for row in rows if _only(row, code) and len(row.text) <= max_chars]
        drawn = sample_groups(fitting, each, rng=np.random.default_rng([seed, position]))
        if len(drawn) < each:
            raise DataError(
                f"{len(drawn)} training rows of `{code}` alone with at most {max_chars} characters, {each} are wanted",
                hint="Allow longer examples, or fewer.",
            )
        chosen[category.code] = tuple(row.text for row in drawn)
    return chosen


def climb(
    target: AdaptationTarget, own: PolicyPrompt, judge: Judge, *, shares: Sequence[float] = SHARES, seed: int = 0
) -> dict[Rung, list[Floats]]:
    """Scores of every rung on the test half, one array a seed.

    Args:
        target: what is adapted to.
        own: the policy of the guard that is not adapted.
        judge: trains where a rung asks for it, and scores.
        shares: of the training half that it is fine-tuned on.
        seed: of the draw of shares.
    """
    few_shot = PolicyPrompt(
        target.policy.generation, target.policy.taxonomy, target.policy.categories, "examples", target.examples
    )
    policies = {"none": own, "zero-shot": target.policy, "few-shot": few_shot, "fine-tune": target.policy}
    scores = {}
    for rung in rungs(shares):
        rows = share_of(target.train, rung.share, seed=seed) if rung.share else []
        scores[rung] = list(judge(rung, policies[rung.protocol], rows))
    return scores


def measure_ladder(
    target: AdaptationTarget, scores: Mapping[Rung, Sequence[Floats]], *, seed: int = 0, replicates: int = REPLICATES
) -> list[RungFigures]:
    """Average precision of every rung, and its distance from ``none`` on the same resamples."""
    truth = as_binary([row.harmful for row in target.test])
    clusters = [row.group for row in target.test]
    floor = positive_rate(truth)
    none = ladder_statistic(target, scores[Rung("none")])
    figures = []
    for rung, by_seed in scores.items():
        statistic = ladder_statistic(target, by_seed)
        estimate = cluster_bootstrap(statistic, clusters, seed=seed, replicates=replicates)
        above = paired_cluster_bootstrap(statistic, none, clusters, seed=seed, replicates=replicates)
        figures.append(
            RungFigures(
                rung,
                max(1, round(rung.share * len(target.train))) if rung.share else 0,
                estimate,
                None if rung.protocol == "none" else above,
                tuple(float(ladder_statistic(target, [each])(np.ones((len(truth), 1)))[0]) for each in by_seed),
                floor,
                None if estimate.value is None or floor is None else lift(estimate.value, floor),
            )
        )
    return figures


def ladder_statistic(target: AdaptationTarget, scores: Sequence[Floats]) -> Statistic:
    """Average precision on the test half, mean over seeds."""
    truth = as_binary([row.harmful for row in target.test])
    return weighted.mean_of([weighted.average_precision(truth, each) for each in scores])


def _only(row: ModerationExample, code: str) -> bool:
    """Whether a row is known to be of this category, and of no other of its taxonomy."""
    taxonomy = f"{parse_code(code)[0]}/"
    return [name for name, present in row.categories.items() if present and name.startswith(taxonomy)] == [code]
