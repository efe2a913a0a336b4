"""Where a guard goes wrong: its worst mistakes on each set, and mistakes by category, length and language.

Reads the journals that the moderation task left, so no guard is loaded and nothing is judged again. Texts are left out
unless they are asked for: rows are named by id.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Final, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from corral.core.errors import DataError, NotFoundError, UserError, suggest
from corral.core.metric_inputs import Flags
from corral.data.examples import ModerationExample
from corral.evals.measures import slice_values
from corral.evals.report import read_report
from corral.evals.results import GuardResult, ModerationReport, SetResult
from corral.evals.scored import THRESHOLD, ScoredSet
from corral.evals.tasks.column_files import SUFFIX
from corral.evals.tasks.moderation_sets import HELD_OUT, find_set
from corral.evals.tasks.scoring import RowLoader, read_scored_set

LENGTHS: Final[tuple[tuple[int, str], ...]] = (
    (50, "1-50"),
    (200, "51-200"),
    (1000, "201-1,000"),
    (4000, "1,001-4,000"),
)
"""Upper ends of the length buckets in characters, and their names; longer texts are ``LONGEST``."""
LONGEST: Final = "over 4,000"


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Mistake(_Model):
    """One row on the wrong side of the threshold; ``text`` is ``None`` unless content was asked for."""

    id: str
    score: float
    language: str
    characters: int
    categories: tuple[str, ...]
    text: str | None = None


class Breakdown(_Model):
    """Mistakes among the rows that share a value: a category, a length bucket, a language, or an upstream column."""

    by: str
    value: str
    positives: int
    false_negatives: int
    negatives: int
    false_positives: int


class SetMistakes(_Model):
    """Mistakes of one guard on one set; the lists hold the worst first."""

    name: str
    positives: int
    negatives: int
    false_negatives: int
    false_positives: int
    unscored: int
    worst_false_negatives: tuple[Mistake, ...]
    worst_false_positives: tuple[Mistake, ...]
    breakdowns: tuple[Breakdown, ...]


class ErrorReport(_Model):
    """Mistakes of one guard."""

    schema_version: Literal[1] = 1
    guard: str
    revision: str
    threshold: float = THRESHOLD
    content_shown: bool
    sets: tuple[SetMistakes, ...]


def analyse(
    out: Path,
    *,
    guard: str | None = None,
    sets: Collection[str] | None = None,
    top: int = 20,
    show_content: bool = False,
    root: Path | None = None,
) -> ErrorReport:
    """Mistakes of one guard in an earlier run of the moderation task.

    Args:
        out: output folder of that run.
        guard: name of the guard; may be left out when the run had one.
        sets: which sets; all that were measured by default.
        top: how many of the worst mistakes of each kind to list.
        show_content: put the texts in.
        root: the data folder; ``data_root()`` when ``None``.

    Raises:
        NotFoundError: no report in the folder, no such guard or set in it, or the data is gone.
        UserError: a set whose rows are not those of a public set.
        DataError: the data is not what the run measured.
    """
    report = read_report(out)
    result = _guard(report, guard)
    loader = RowLoader(root, report.settings["limit"], report.samples, report.settings["seed"] or 0)
    return ErrorReport(
        guard=result.name,
        revision=result.revision,
        content_shown=show_content,
        sets=tuple(
            mistakes(_scored(out, result, each, loader), top=top, show_content=show_content)
            for each in _chosen(result, sets)
        ),
    )


def mistakes(scored: ScoredSet, *, top: int = 20, show_content: bool = False) -> SetMistakes:
    """Mistakes at the fixed threshold; unscored rows count as in the headline figures and are never listed."""
    flagged_N, positive_N = scored.filled() >= THRESHOLD, scored.truth_N == 1
    missed_N, alarmed_N = positive_N & ~flagged_N, ~positive_N & flagged_N
    listed = ~np.isnan(scored.scores_N)
    lowest_first = np.argsort(scored.scores_N, kind="stable")
    missed = [int(i) for i in lowest_first if missed_N[i] and listed[i]]
    alarmed = [int(i) for i in lowest_first[::-1] if alarmed_N[i] and listed[i]]
    return SetMistakes(
        name=scored.eval_set.name,
        positives=int(positive_N.sum()),
        negatives=int((~positive_N).sum()),
        false_negatives=int(missed_N.sum()),
        false_positives=int(alarmed_N.sum()),
        unscored=scored.unscored,
        worst_false_negatives=tuple(_mistake(scored, i, show_content) for i in missed[:top]),
        worst_false_positives=tuple(_mistake(scored, i, show_content) for i in alarmed[:top]),
        breakdowns=tuple(_breakdowns(scored, missed_N, alarmed_N)),
    )


def length_bucket(characters: int) -> str:
    """Name of the bucket that a text of this length falls in."""
    return next((name for limit, name in LENGTHS if characters <= limit), LONGEST)


def _breakdowns(scored: ScoredSet, missed_N: Flags, alarmed_N: Flags) -> Iterator[Breakdown]:
    members: dict[tuple[str, str], list[int]] = defaultdict(list)
    for index, example in enumerate(scored.examples):
        for by, value in _values(example, scored.eval_set.slices):
            members[by, value].append(index)
    order = {name: position for position, name in enumerate([*(name for _, name in LENGTHS), LONGEST])}
    for by, value in sorted(members, key=lambda key: (key[0], order.get(key[1], 0), key[1])):
        rows = members[by, value]
        positives = int((scored.truth_N[rows] == 1).sum())
        yield Breakdown(
            by=by,
            value=value,
            positives=positives,
            false_negatives=int(missed_N[rows].sum()),
            negatives=len(rows) - positives,
            false_positives=int(alarmed_N[rows].sum()),
        )


def _values(example: ModerationExample, columns: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    yield "length", length_bucket(len(example.text))
    yield "language", example.language or "unknown"
    for column in dict.fromkeys((*columns, "category")):
        if column != "language":
            for value in slice_values(example, column):
                yield column, value


def _mistake(scored: ScoredSet, index: int, show_content: bool) -> Mistake:
    example = scored.examples[index]
    return Mistake(
        id=example.id,
        score=float(scored.scores_N[index]),
        language=example.language,
        characters=len(example.text),
        categories=tuple(slice_values(example, "category")),
        text=example.text if show_content else None,
    )


def _guard(report: ModerationReport, name: str | None) -> GuardResult:
    named: Mapping[str, GuardResult] = {guard.name: guard for guard in report.guards}
    if name is None:
        if len(report.guards) > 1:
            raise NotFoundError("the run measured several guards", hint=f"Name one of {', '.join(named)}.")
        return report.guards[0]
    if name not in named:
        raise NotFoundError(f"the run measured no guard `{name}`", hint=suggest(name, named))
    return named[name]


def _chosen(result: GuardResult, names: Collection[str] | None) -> list[SetResult]:
    measured = {each.name: each for each in result.sets}
    for name in names or ():
        if name not in measured:
            raise NotFoundError(f"set `{name}` was not measured", hint=suggest(name, measured))
    if names is not None:
        return [each for name, each in measured.items() if name in names]
    return [each for name, each in measured.items() if _can_be_read(name)] or list(measured.values())


def _can_be_read(name: str) -> bool:
    """Whether a set's rows are those of a public set; not so of a file of the user's and of what training held out."""
    return name != HELD_OUT and not name.endswith(SUFFIX)


def _scored(out: Path, guard: GuardResult, result: SetResult, loader: RowLoader) -> ScoredSet:
    if not _can_be_read(result.name):
        raise UserError(
            f"`{result.name}` is from a file of yours, or what a training held out, which is not known here",
            hint="Choose other sets with --sets.",
        )
    eval_set = find_set(result.name)
    scored = read_scored_set(out, guard.name, guard.revision, loader.load(eval_set))
    if scored is None or (scored.rows_sha256, scored.unscored) != (result.rows_sha256, result.unscored):
        raise DataError(
            f"the rows of `{result.name}`, or their scores, are not those that were measured",
            hint="Run `corral eval moderation` again with the data of today.",
        )
    return scored
