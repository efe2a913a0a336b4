"""Comparing scorecards: the first with each of the others, on the samples that both have."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from corral.core.errors import NotFoundError, UserError
from corral.core.stats import REPLICATES
from corral.evals.compare.checks import Conflict, conflicts, require_comparable, same_conditions
from corral.evals.compare.pairing import change
from corral.evals.compare.rejudge import Judges, rejudge
from corral.evals.compare.results import Change, Comparison, MeasureChanges, NotCompared, Side
from corral.evals.sample_cache import default_cache_folder
from corral.evals.scorecard.folder import read_scorecard
from corral.evals.scorecard.results import Scorecard, TaskEntry
from corral.evals.tasks.task import Measure, SampleScore


@dataclass(frozen=True)
class Loaded:
    """A scorecard that was read.

    Attributes:
        letter: ``A``, ``B``, ...
        folder: it was read from.
        card: the figures.
        samples: task to samples.
    """

    letter: str
    folder: Path
    card: Scorecard
    samples: Mapping[str, Sequence[SampleScore]]

    def rejudged(self, entry: TaskEntry, samples: Sequence[SampleScore]) -> Loaded:
        """The same with one task replaced."""
        tasks = tuple(entry if each.task == entry.task else each for each in self.card.tasks)
        card = self.card.model_copy(update={"tasks": tasks})
        return Loaded(self.letter, self.folder, card, {**self.samples, entry.task: samples})


def compare(
    folders: Sequence[Path | str],
    *,
    tasks: Sequence[str] | None = None,
    rejudged: bool = False,
    judges: Judges | None = None,
    cache: Path | None = None,
    seed: int = 0,
    replicates: int = REPLICATES,
) -> Comparison:
    """The first scorecard against each of the others.

    Args:
        folders: of two scorecards or more.
        tasks: only these; every task that two scorecards share when ``None``.
        rejudged: where judges differ, label the cached answers of all with the judge of today.
        judges: what labels them; today's judges of packaged tasks when ``None``.
        cache: folder of what was answered; the default one when ``None``.
        seed: of the bootstrap.
        replicates: resamples a figure.

    Raises:
        UserError: fewer than two scorecards, or data, task versions or judges that differ; names which.
        NotFoundError: a folder without a scorecard, or nothing in common.
        DataError: a damaged scorecard.
    """
    sides = load_sides(folders)
    caveats: list[str] = []
    if rejudged:
        sides, caveats = _rejudged(sides, tasks, cache or default_cache_folder(), judges or Judges())
    require_comparable(_conflicts(sides, tasks))
    first, others = sides[0], sides[1:]
    measures = list(_measures(first, others, tasks, seed=seed, replicates=replicates))
    if not measures:
        hint = "Run `corral eval scorecard` for both with the same --tasks and --guard."
        raise NotFoundError("the scorecards have no measure in common", hint=hint)
    return Comparison(
        corral_version=version("corral"),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        sides=tuple(_side(each) for each in sides),
        measures=tuple(measures),
        not_compared=tuple(_not_compared(first, others, tasks)),
        settings={"seed": seed, "replicates": replicates, "tasks": None if tasks is None else list(tasks)},
        caveats=(*caveats, *_caveats(first, others, len(measures))),
    )


def load_sides(folders: Sequence[Path | str]) -> list[Loaded]:
    """The scorecards of two folders or more, the first of them ``A``.

    Raises:
        UserError: fewer than two.
        NotFoundError: a folder without a scorecard.
        DataError: a damaged scorecard.
    """
    if len(folders) < 2:
        raise UserError("one scorecard has nothing to be compared with", hint="Name two folders or more.")
    return [
        Loaded(chr(ord("A") + number), Path(folder), *read_scorecard(Path(folder)))
        for number, folder in enumerate(folders)
    ]


def _conflicts(sides: Sequence[Loaded], tasks: Sequence[str] | None) -> list[Conflict]:
    first = sides[0].card
    return [conflict for each in sides[1:] for conflict in conflicts(first, each.card, each.letter, tasks)]


def _rejudged(
    sides: Sequence[Loaded], tasks: Sequence[str] | None, cache: Path, by: Judges
) -> tuple[list[Loaded], list[str]]:
    """The sides with every task that judges keep apart labelled anew, and what a reader must know."""
    apart = dict.fromkeys(conflict.task for conflict in _conflicts(sides, tasks) if conflict.aspect == "judge")
    found, judges = list(sides), {}
    first_guard = next(iter(sides[0].card.guards), None)
    for task in apart:
        for number, side in enumerate(found):
            if side.card.entry(task) is not None:
                entry, samples = rejudge(side.card, task, cache, by, judging_guard=first_guard)
                found[number] = side.rejudged(entry, samples)
                judges[task] = entry.judge_revision
    if any(by.guard_settings.values()) and not by.loaded:
        raise UserError("no guard judges again, so its settings would be ignored", where="--set")
    return found, [f"{task}: answers from the cache, labelled by {judge}." for task, judge in judges.items()]


def _measures(
    first: Loaded, others: Sequence[Loaded], tasks: Sequence[str] | None, *, seed: int, replicates: int
) -> Iterator[MeasureChanges]:
    for entry in first.card.tasks:
        if tasks is not None and entry.task not in tasks:
            continue
        for measure in entry.measures:
            changes = [
                change(
                    other.letter,
                    measure,
                    first.samples[entry.task],
                    other.samples[entry.task],
                    seed=seed,
                    replicates=replicates,
                )
                for other in others
                if _why_not(first, other, entry.task, measure) is None
            ]
            if changes:
                yield _of_measure(entry, measure, changes)


def _why_not(first: Loaded, other: Loaded, task: str, measure: Measure) -> str | None:
    """Why a measure of the first scorecard is not compared with the other; ``None`` when it is."""
    ours, theirs = first.card.entry(task), other.card.entry(task)
    if ours is None or theirs is None:
        return f"{other.letter} has no task `{task}`"
    if not same_conditions(ours, theirs):
        return f"{other.letter} was measured under other conditions"
    twin = next((each for each in theirs.measures if each.name == measure.name), None)
    if twin is None:
        return f"{other.letter} does not have it"
    if twin.formula != measure.formula or twin.group != measure.group:
        return f"{other.letter} defines it in another way"
    if not measure.reproducible and first.card.machine != other.card.machine:
        return f"{other.letter} was measured on another machine"
    return None


def _of_measure(entry: TaskEntry, measure: Measure, changes: Sequence[Change]) -> MeasureChanges:
    return MeasureChanges(
        name=f"{entry.task}/{measure.name}",
        title=measure.title,
        area=measure.area,
        task=entry.task,
        group=measure.group,
        guard=measure.guard,
        unit=measure.unit,
        higher_is_better=measure.higher_is_better,
        headline=measure.headline,
        chance=measure.chance,
        changes=tuple(changes),
    )


def _not_compared(first: Loaded, others: Sequence[Loaded], tasks: Sequence[str] | None) -> Iterator[NotCompared]:
    told = set()
    for other in others:
        for entry in first.card.tasks:
            if tasks is not None and entry.task not in tasks:
                continue
            for measure in entry.measures:
                reason = _why_not(first, other, entry.task, measure)
                name = entry.task if other.card.entry(entry.task) is None else f"{entry.task}/{measure.name}"
                if reason is not None and (name, reason) not in told:
                    told.add((name, reason))
                    yield NotCompared(name=name, reason=reason)
        for entry in other.card.tasks:
            if first.card.entry(entry.task) is None and (tasks is None or entry.task in tasks):
                yield NotCompared(name=entry.task, reason="A has no such task")


def _side(loaded: Loaded) -> Side:
    card = loaded.card
    return Side(
        letter=loaded.letter,
        folder=str(loaded.folder),
        subject=card.subject,
        revision=card.revision,
        guards={guard.name: guard.revision for guard in card.guards},
        created=card.created,
        machine=card.machine,
    )


def _caveats(first: Loaded, others: Sequence[Loaded], measures: int) -> Iterator[str]:
    ours = {guard.name: guard.revision for guard in first.card.guards}
    for other in others:
        for guard in other.card.guards:
            if ours.get(guard.name, guard.revision) != guard.revision:
                yield (
                    f"Guard {guard.name} is `{ours[guard.name]}` in A and `{guard.revision}` in {other.letter}: "
                    "figures behind it change with both."
                )
    yield (
        f"Each interval is 95 % for its own measure; among {measures} measures that did not change, about "
        f"{max(1, round(measures / 20))} would be expected to show a change."
    )
