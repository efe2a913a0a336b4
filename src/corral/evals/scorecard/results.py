"""The scorecard as data: what programs read from ``scorecard.json``, and every other format is written from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from corral.evals.results import Figure, PublishedRow
from corral.evals.tasks.task import Area, Measure

SCHEMA_VERSION: Literal[1] = 1


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TaskEntry(_Model):
    """One task that was run.

    Attributes:
        task: its name.
        version: its version.
        data_hash: of the items that were measured.
        judge_revision: of what labelled the answers; "" when nothing did.
        measures: definitions of its figures.
        figures: measure to figure.
        samples: number of its lines in ``samples.jsonl``.
        seconds: that this run took; near 0 when everything was in the cache.
        caveats: what a reader must know.
        published: figures that others printed of the same items, by the group of the samples.
    """

    task: str
    version: str
    data_hash: str
    judge_revision: str
    measures: tuple[Measure, ...]
    figures: Mapping[str, Figure]
    samples: int
    seconds: float
    caveats: tuple[str, ...] = ()
    published: Mapping[str, tuple[PublishedRow, ...]] = Field(default_factory=dict)


class SkippedTask(_Model):
    """A task without figures, and why.

    ``failed`` tells an error from a task that this machine or model lacks something for.
    """

    task: str
    reason: str
    hint: str = ""
    failed: bool = False


class GuardName(_Model):
    """A guard that was measured.

    Attributes:
        name: as figures name it.
        revision: of its weights and settings.
        spec: what ``load_guard`` makes it of; ``None`` for a guard that Python code made.
    """

    name: str
    revision: str
    spec: JsonValue = None


class MeasureRow(_Model):
    """One measure as ``scorecard.json`` lists it: the figure, and everything that says what it is.

    The fields are those of ``Measure``, ``Figure`` and ``TaskEntry``; ``name`` is unique on the scorecard.
    """

    name: str
    title: str
    area: Area
    task: str
    group: str
    guard: str
    unit: str
    higher_is_better: bool | None
    headline: bool
    value: float | None
    ci95: tuple[float, float] | None
    n: int
    clusters: int
    unscored: int
    rule: str
    note: str
    chance: float | None
    task_version: str
    data_hash: str
    judge_revision: str


class Scorecard(_Model):
    """Everything that one run measured of a model, and of guards alone and in front of it.

    Attributes:
        scorecard_version: of the set of tasks and their settings.
        subject: the model as the user named it.
        revision: hash of what its answers depend on; "" when unknown.
        guards: that were measured.
        settings: limit, seed and such.
        tasks: what was run.
        skipped: what was not.
        samples_sha256: of ``samples.jsonl``, which stands beside.
    """

    schema_version: Literal[1] = SCHEMA_VERSION
    scorecard_version: str
    corral_version: str
    created: str
    machine: str
    subject: str
    revision: str
    guards: tuple[GuardName, ...] = ()
    settings: Mapping[str, Any] = Field(default_factory=dict)
    tasks: tuple[TaskEntry, ...]
    skipped: tuple[SkippedTask, ...] = ()
    samples_sha256: str

    def entry(self, task: str) -> TaskEntry | None:
        """The task of that name, ``None`` when it was not run."""
        return next((entry for entry in self.tasks if entry.task == task), None)

    def rows(self) -> Iterator[MeasureRow]:
        """Every measure, in the order of the tasks."""
        for entry in self.tasks:
            for measure in entry.measures:
                yield _row(entry, measure)

    def row(self, name: str) -> MeasureRow | None:
        """The measure of that name, ``TASK/MEASURE``; ``None`` when it was not measured."""
        return next((row for row in self.rows() if row.name == name), None)

    @property
    def complete(self) -> bool:
        """No task failed; skipped ones do not count."""
        return not any(task.failed for task in self.skipped)


def _row(entry: TaskEntry, measure: Measure) -> MeasureRow:
    figure = entry.figures[measure.name]
    return MeasureRow(
        name=f"{entry.task}/{measure.name}",
        title=measure.title,
        area=measure.area,
        task=entry.task,
        group=measure.group,
        guard=measure.guard,
        unit=measure.unit,
        higher_is_better=measure.higher_is_better,
        headline=measure.headline,
        value=figure.value,
        ci95=figure.ci95,
        n=figure.n,
        clusters=figure.clusters,
        unscored=figure.unscored,
        rule=figure.rule,
        note=figure.note,
        chance=measure.chance,
        task_version=entry.version,
        data_hash=entry.data_hash,
        judge_revision=entry.judge_revision,
    )
