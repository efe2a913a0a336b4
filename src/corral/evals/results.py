"""The moderation report as data: what programs read from ``report.json``, and every other format is written from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from corral.core.stats import Estimate
from corral.evals.published.tables import Mark
from corral.evals.tasks.eval_set import Head, Kind, Relation
from corral.guards.composition.costs import PartCost

SCHEMA_VERSION: Literal[1] = 1


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Figure(_Model):
    """A figure, its 95 % interval and what it rests on; the fields of ``core.stats.Estimate`` and a note."""

    value: float | None
    ci95: tuple[float, float] | None
    n: int
    clusters: int
    unscored: int
    rule: str
    note: str = ""

    @classmethod
    def of(cls, estimate: Estimate, note: str = "") -> Figure:
        """An estimate as plain values."""
        return cls(
            value=estimate.value,
            ci95=estimate.ci95,
            n=estimate.n,
            clusters=estimate.clusters,
            unscored=estimate.unscored,
            rule=estimate.rule,
            note=note,
        )


class Confusion(_Model):
    """Counts at the threshold."""

    tp: int
    fp: int
    fn: int
    tn: int


class Slice(_Model):
    """Rates of the rows that share a value of an upstream column; intervals are Wilson's."""

    by: str
    value: str
    n: int
    positives: int
    recall: Figure | None
    fpr: Figure | None


class PublishedRow(_Model):
    """A published figure of the same measure, as a fraction.

    ``relation`` is ``subset`` when our copy lacks rows; ``caveat`` then says which, or repeats the table's own note.
    """

    table: str
    column: str
    system: str
    metric: str
    value: float
    mark: Mark
    relation: Literal["same", "subset"]
    caveat: str = ""


class NotComparable(_Model):
    """A published column that stands beside no figure of ours, and why.

    ``set`` names the set of ours that it could be taken for, "" when there is none; ``cells`` maps ``system, metric``
    to the figure as printed and is empty then.
    """

    table: str
    column: str
    title: str
    set: str = ""
    reason: str
    cells: Mapping[str, float] = Field(default_factory=dict)


class SetResult(_Model):
    """One guard on one set.

    Attributes:
        name: of the set.
        head: the question.
        kind: which truths the set has.
        source: of the rows.
        files: path from the data folder to sha256 of the source's files.
        rows_sha256: hash of ids, truths and texts that were measured; two results compare only if it is equal.
        positive_rule: what is positive, in words.
        score_rule: which field of the verdict is the score.
        threshold_rule: where the decisions come from.
        n: rows measured.
        rows_in_set: rows that the set has; larger than ``n`` when a limit was given.
        positives: positive rows.
        clusters: distinct prompts.
        unscored: rows for which the guard gave no score.
        unscored_counted_as: what they count as in ``figures``.
        floor: positive rate, the average precision of a constant score.
        expected_random_ap: average precision that a random order has in expectation.
        lift: (average precision - floor) / (1 - floor).
        confusion: counts at the threshold.
        figures: metric to figure.
        unscored_ways: for sets with unscored rows, metric to figure under each of the three ways of counting them.
        slices: rates by upstream columns.
        latency_ms_p50: median of the guard's own time a row, on this machine and at this batch size.
        latency_ms_p95: 95th percentile of the same.
        seconds: the guard's own time for all rows.
        parts: of a guard made of guards, what it asked of each.
        published: comparable published figures.
        caveats: what a reader must know.
    """

    name: str
    head: Head
    kind: Kind
    source: str
    files: Mapping[str, str]
    rows_sha256: str
    positive_rule: str
    score_rule: str
    threshold_rule: str
    n: int
    rows_in_set: int
    positives: int
    clusters: int
    unscored: int
    unscored_counted_as: str
    floor: float | None
    expected_random_ap: float | None
    lift: float | None
    confusion: Confusion
    figures: Mapping[str, Figure]
    unscored_ways: Mapping[str, Mapping[str, float | None]] = Field(default_factory=dict)
    slices: tuple[Slice, ...] = ()
    latency_ms_p50: float | None = None
    latency_ms_p95: float | None = None
    seconds: float | None = None
    parts: tuple[PartCost, ...] = ()
    published: tuple[PublishedRow, ...] = ()
    caveats: tuple[str, ...] = ()


class Skipped(_Model):
    """A set that was asked for and not measured.

    Attributes:
        set: name of the set.
        reason: why.
        hint: what to do about it, "" when there is nothing.
    """

    set: str
    reason: str
    hint: str = ""


class LanguageTable(_Model):
    """One measure of one family of sets across languages.

    Attributes:
        family: the sets that translate each other.
        metric: the measure.
        by_language: ISO 639-1 code to figure.
        mean: unweighted mean over languages; with an interval when the languages are aligned row by row.
        worst_language: the language with the worst figure.
        gap: English minus the language on the rows that both have, paired; empty when rows are not aligned.
    """

    family: str
    metric: str
    by_language: Mapping[str, Figure]
    mean: Figure
    worst_language: str
    gap: Mapping[str, Figure] = Field(default_factory=dict)


class StyleRow(_Model):
    """One attack style on the rows that it could ask.

    ``plain`` is the figure of these rows as they are, ``figure`` that in the style, ``lost`` the one minus the
    other.
    """

    style: str
    n: int
    plain: float | None
    figure: Figure
    lost: Figure


class StyleTable(_Model):
    """One set in several attack styles: each style, and the unweighted mean of what they cost."""

    set: str
    metric: str
    rows: tuple[StyleRow, ...]
    mean_lost: Figure


class GuardResult(_Model):
    """One guard on all sets that were asked for."""

    name: str
    revision: str
    taxonomy: str
    sets: tuple[SetResult, ...]
    skipped: tuple[Skipped, ...] = ()
    languages: tuple[LanguageTable, ...] = ()
    styles: tuple[StyleTable, ...] = ()


class GateRow(_Model):
    """Guard against baseline on one set and metric, on the same rows and resamples.

    ``holds`` when the whole interval of the difference lies above 0. ``mcnemar_p`` is of the decisions at 0.5, given
    once a set, in the row of F1.
    """

    set: str
    metric: Literal["ap", "auroc", "f1"]
    guard: float | None
    baseline: float | None
    difference: Figure
    holds: bool
    mcnemar_p: float | None = None


class GateTable(_Model):
    """All comparisons of one guard with a baseline."""

    guard: str
    guard_revision: str
    baseline: str
    baseline_revision: str
    rows: tuple[GateRow, ...]

    def holds(self, name: str, metric: str = "ap") -> bool:
        """Whether the guard beats the baseline by the interval on a set; false when the set was not measured."""
        return any(row.holds for row in self.rows if (row.set, row.metric) == (name, metric))


class ModerationReport(_Model):
    """Everything that one run of the moderation task found.

    ``settings`` holds seed, replicates, limit and batch size; ``samples`` the limit of single sets; ``baseline_rows``
    how many rows the baseline was fitted
    to, by source.
    """

    schema_version: Literal[1] = SCHEMA_VERSION
    task: Literal["moderation"] = "moderation"
    task_version: str
    corral_version: str
    created: str
    machine: str
    settings: Mapping[str, int | None]
    samples: Mapping[str, int] = Field(default_factory=dict)
    guards: tuple[GuardResult, ...]
    gates: tuple[GateTable, ...] = ()
    baseline_rows: Mapping[str, int] = Field(default_factory=dict)
    not_comparable: tuple[NotComparable, ...] = ()


__all__ = [
    "SCHEMA_VERSION",
    "Confusion",
    "Figure",
    "GateRow",
    "GateTable",
    "GuardResult",
    "LanguageTable",
    "ModerationReport",
    "NotComparable",
    "PublishedRow",
    "Relation",
    "SetResult",
    "Skipped",
    "Slice",
    "StyleRow",
    "StyleTable",
]
