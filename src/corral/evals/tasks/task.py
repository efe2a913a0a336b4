"""What an evaluation task is: it turns a subject into per-sample scores, and every figure is computed from those alone.

That is what lets two results be paired: a comparison takes the same formula on the same resamples of the samples that
both have. A task's ``version`` is raised whenever its items, prompts or rules change, so that figures stay apart.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, Literal, Protocol, Self, runtime_checkable

import numpy as np
from pydantic import BaseModel, ConfigDict

from corral.core.errors import MetricError
from corral.core.metric_inputs import Floats
from corral.core.stats import REPLICATES, Estimate, cluster_bootstrap, wilson
from corral.core.weighted import Statistic
from corral.evals.results import Figure, PublishedRow
from corral.evals.tasks.formulas import Formula, Peak

if TYPE_CHECKING:
    from corral.evals.sample_cache import SampleCache
    from corral.guards.base import Guard
    from corral.models.engines.base import Engine

INTERVAL_RULE: Final = "95 % percentile interval, clusters resampled"

Area = Literal["ability", "safety", "over_refusal", "guard", "cost"]


class Measure(BaseModel):
    """One figure of a task, and how it is computed from samples.

    Attributes:
        name: unique within the task.
        title: as reports print it, without the guard's name.
        unit: ``share`` for figures in [0, 1], which reports print in percent, ``points`` for differences of shares;
            else as it is printed: ``bits/byte``, ``ms``, ``MB``, ...
        higher_is_better: which way is good; ``None`` for neither.
        area: the part of the scorecard it belongs to.
        formula: see ``evals/tasks/formulas``.
        group: only samples of this group; "" for all.
        guard: name of the guard that is measured, alone or in front of the model; "" for the model alone.
        unscored_as: what a sample that could not be scored counts as; ``None`` leaves it out. It is counted either way.
        chance: the value of a subject that knows nothing, where there is one.
        reproducible: a rerun on another machine gives the same value; false for time and memory.
        headline: shown first, and the one that stands for its task in plots.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    title: str
    unit: str
    higher_is_better: bool | None
    area: Area
    formula: Formula
    group: str = ""
    guard: str = ""
    unscored_as: float | None = None
    chance: float | None = None
    reproducible: bool = True
    headline: bool = False


@dataclass(frozen=True, slots=True)
class Subject:
    """What is evaluated.

    Attributes:
        engine: the model.
        name: as the user named it.
        revision: hash of what answers depend on: weights, tokenizer, chat template, dtype. "" when unknown, and then
            answers are cached under the name alone.
        guards: measured by themselves and in front of the model, each on its own.
    """

    engine: Engine
    name: str
    revision: str
    guards: tuple[Guard, ...] = ()


@dataclass(frozen=True, slots=True)
class SampleScore:
    """What one item gave.

    Attributes:
        id: unique within the task's result and the same for every subject.
        cluster: items of one cluster stand or fall together (``data.examples.prompt_key``, a document, a question).
        values: name to number. A missing name means that the value does not apply; ``None`` that it could not be found,
            which is counted as unscored.
        group: such as ``harmful`` and ``benign``, or a language.
        texts: what the item said, such as ``prompt`` and ``reply``; reports leave it out unless asked.

    Raises:
        MetricError: a value that is not finite.
    """

    id: str
    cluster: str
    values: Mapping[str, float | None]
    group: str = ""
    texts: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, value in self.values.items():
            if value is not None and not math.isfinite(value):
                raise MetricError(f"sample `{self.id}`: `{name}` is `{value}`", hint="Use None for what has no value.")


@dataclass(frozen=True)
class TaskResult:
    """What one task found about one subject; made by ``TaskResult.of``.

    Attributes:
        task: its name.
        version: its version.
        data_hash: of the items that were measured, without the subject; two results compare only if it is equal.
        judge_revision: of what labelled the answers; "" when nothing did.
        measures: the definitions that ``figures`` follow.
        samples: in the order of the items.
        figures: measure to figure.
        caveats: what a reader must know.
        published: figures that others printed of the same items, by the group of the samples.
    """

    task: str
    version: str
    data_hash: str
    judge_revision: str
    measures: tuple[Measure, ...]
    samples: tuple[SampleScore, ...]
    figures: Mapping[str, Figure]
    caveats: tuple[str, ...] = ()
    published: Mapping[str, tuple[PublishedRow, ...]] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        task: EvalTask,
        samples: Sequence[SampleScore],
        *,
        data_hash: str,
        judge_revision: str = "",
        caveats: Sequence[str] = (),
        measures: Sequence[Measure] | None = None,
        published: Mapping[str, tuple[PublishedRow, ...]] | None = None,
    ) -> Self:
        """A result with its figures computed.

        Args:
            task: what was run.
            samples: what the items gave.
            data_hash: see the class.
            judge_revision: see the class.
            caveats: see the class.
            measures: in the place of the task's own, where they depend on the subject (one set for each guard).
            published: see the class.

        Raises:
            MetricError: two samples share an id.
        """
        chosen = tuple(task.measures if measures is None else measures)
        return cls(
            task=task.name,
            version=task.version,
            data_hash=data_hash,
            judge_revision=judge_revision,
            measures=chosen,
            samples=tuple(samples),
            figures=figures_of(chosen, samples),
            caveats=tuple(caveats),
            published=dict(published or {}),
        )


@dataclass(frozen=True, slots=True)
class TaskSkip:
    """Why a task could not be run here; every other failure is an error, not a skip."""

    task: str
    reason: str
    hint: str = ""


class Progress(Protocol):
    """How far a task has come; what a task is given to report to."""

    def start(self, total: int) -> None:
        """Say how many steps there are; called once, before the first step."""

    def advance(self, steps: int = 1) -> None:
        """Count steps as done; items found in the cache count too."""


class SilentProgress:
    """Reports to nobody."""

    def start(self, total: int) -> None:
        """See ``Progress``."""

    def advance(self, steps: int = 1) -> None:
        """See ``Progress``."""


@runtime_checkable
class EvalTask(Protocol):
    """Anything that scores a subject item by item."""

    @property
    def name(self) -> str:
        """Short and unique among the tasks of a scorecard: ``perplexity``, ``multiple_choice``."""

    @property
    def version(self) -> str:
        """Raised whenever items, prompts or rules change."""

    @property
    def measures(self) -> tuple[Measure, ...]:
        """The figures that it gives, in the order of reports."""

    def run(self, subject: Subject, cache: SampleCache, progress: Progress) -> TaskResult | TaskSkip:
        """Score every item, reading what an earlier run found from the cache.

        Raises:
            CorralError: the task is possible here, and failed.
        """


def figures_of(
    measures: Sequence[Measure], samples: Sequence[SampleScore], *, seed: int = 0, replicates: int = REPLICATES
) -> dict[str, Figure]:
    """Every measure over the samples, with intervals over resampled clusters.

    Raises:
        MetricError: two samples share an id.
    """
    ids = Counter(sample.id for sample in samples)
    twice = [id for id, count in ids.items() if count > 1]
    if twice:
        raise MetricError(f"sample `{twice[0]}` occurs twice", hint="Ids name the samples that two results share.")
    return {measure.name: figure_of(measure, samples, seed=seed, replicates=replicates) for measure in measures}


def figure_of(
    measure: Measure, samples: Sequence[SampleScore], *, seed: int = 0, replicates: int = REPLICATES
) -> Figure:
    """One measure over the samples that it applies to.

    A share of exactly 0 or 1 has no spread to resample: its interval is Wilson's over the clusters that it is a share
    of. A largest value has no interval.
    """
    applicable = [sample for sample in samples if applies(measure, sample)]
    rows = [sample for sample in applicable if is_used(measure, sample)]
    unscored = sum(not is_scored(measure, sample) for sample in applicable)
    columns, clusters = columns_of(measure, rows), [sample.cluster for sample in rows]
    statistic = measure.formula.statistic(columns)
    value = _at_once(statistic, len(rows))
    base = Estimate(value, None, None, len(rows), len(set(clusters)), unscored)
    if isinstance(measure.formula, Peak):
        return Figure.of(replace(base, rule="largest value; no interval"))
    counted_N = measure.formula.share_of(columns)
    if value in {0.0, 1.0} and counted_N is not None:
        n = len({cluster for cluster, counted in zip(clusters, counted_N.tolist(), strict=True) if counted})
        found = wilson(n if value else 0, n)
        return Figure.of(replace(base, low=found.low, high=found.high, rule=f"95 % Wilson interval over {n} clusters"))
    estimate = cluster_bootstrap(
        statistic, clusters, seed=seed, replicates=replicates, unscored=unscored, rule=INTERVAL_RULE
    )
    return Figure.of(estimate)


def applies(measure: Measure, sample: SampleScore) -> bool:
    """Whether the sample is of the measure's group and has all the values that it reads, found or not."""
    named = all(name in sample.values for name in measure.formula.reads)
    return named and measure.group in {"", sample.group}


def is_scored(measure: Measure, sample: SampleScore) -> bool:
    """Whether all the values that the measure reads were found."""
    return all(sample.values[name] is not None for name in measure.formula.reads)


def is_used(measure: Measure, sample: SampleScore) -> bool:
    """Whether the sample enters the figure."""
    return is_scored(measure, sample) or measure.unscored_as is not None


def columns_of(measure: Measure, rows: Sequence[SampleScore]) -> list[Floats]:
    """(N,) columns of the values that the formula reads, unscored ones filled in."""
    return [np.array([_filled(measure, row.values[name]) for row in rows]) for name in measure.formula.reads]


def _filled(measure: Measure, value: float | None) -> float:
    found = measure.unscored_as if value is None else value
    return math.nan if found is None else found


def _at_once(statistic: Statistic, n: int) -> float | None:
    """The statistic at weights 1; ``None`` where it is undefined."""
    value = float(statistic(np.ones((n, 1)))[0]) if n else math.nan
    return None if math.isnan(value) else value
