"""A comparison of scorecards as data: what programs read from ``compare.json``, and every report is written from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from corral.evals.results import Figure
from corral.evals.scorecard.results import TaskEntry
from corral.evals.tasks.task import Area

SCHEMA_VERSION: Literal[1] = 1

Tone = Literal["better", "worse", "open"]
"""What the interval says: it lies on the good or the bad side of no difference, or holds it. Where there is an exact
test, it has to agree."""


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Side(_Model):
    """One of the scorecards that are compared.

    Attributes:
        letter: ``A`` for the one that the others are compared with, then ``B``, ``C``, ...
        folder: of the scorecard.
        subject: the model as the user named it.
        revision: of the model.
        guards: name to revision.
        created: when it was measured.
        machine: where.
    """

    letter: str
    folder: str
    subject: str
    revision: str
    guards: Mapping[str, str]
    created: str
    machine: str


class Change(_Model):
    """One measure of another scorecard minus that of ``A``, on the samples that both could score.

    Attributes:
        letter: of the other scorecard.
        baseline: the figure of ``A`` on these samples.
        other: the figure of the other.
        difference: other minus baseline, paired.
        relative: other / baseline - 1, paired; not for shares, nor for measures whose values fall below 0.
        mcnemar_p: exact test that as many samples went one way as the other; for shares of single samples.
        tone: what the interval of the difference says.
    """

    letter: str
    baseline: Figure
    other: Figure
    difference: Figure
    relative: Figure | None = None
    mcnemar_p: float | None = None
    tone: Tone


class MeasureChanges(_Model):
    """One measure in all scorecards that have it. The fields are those of ``MeasureRow``."""

    name: str
    title: str
    area: Area
    task: str
    group: str
    guard: str
    unit: str
    higher_is_better: bool | None
    headline: bool
    chance: float | None
    changes: tuple[Change, ...]


class Preference(_Model):
    """How often a judge prefers the answers of another scorecard's model to those of ``A``'s.

    Attributes:
        letter: of the other scorecard.
        judge: the model that compared.
        requests: that both answered.
        entry: win rate, win rate at equal length, ties, and how far the judge agrees with itself; see
            ``tasks/win_rate``. Its data hash holds the requests and the answers of ``A``.
        caveats: what a reader must know.
    """

    letter: str
    judge: str
    requests: int
    entry: TaskEntry
    caveats: tuple[str, ...] = ()


class NotCompared(_Model):
    """A task or measure that is not compared, and why."""

    name: str
    reason: str


class Comparison(_Model):
    """Scorecards against the first of them.

    Attributes:
        sides: the scorecards.
        measures: what was compared.
        not_compared: what was not.
        preferences: what a judge prefers, where one was asked.
        settings: seed and replicates of the intervals.
        caveats: what a reader must know.
    """

    schema_version: Literal[1] = SCHEMA_VERSION
    corral_version: str
    created: str
    sides: tuple[Side, ...]
    measures: tuple[MeasureChanges, ...]
    not_compared: tuple[NotCompared, ...] = ()
    preferences: tuple[Preference, ...] = ()
    settings: Mapping[str, Any] = Field(default_factory=dict)
    caveats: tuple[str, ...] = ()
