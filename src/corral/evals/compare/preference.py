"""Which answers a judge prefers: those of another scorecard's model, or those of A's.

Both answer a set of harmless everyday requests, and the judge reads each pair in both orders (``tasks/win_rate``).
Answers and judgements are kept with everything else that was answered; a model that has not answered yet is loaded for
it, which must be the one that its scorecard was made of.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Final

from corral.core.errors import UserError
from corral.evals.compare.rejudge import CachedEngine
from corral.evals.compare.results import Preference
from corral.evals.compare.run import Loaded, load_sides
from corral.evals.sample_cache import SampleCache, default_cache_folder
from corral.evals.scorecard.results import Scorecard
from corral.evals.scorecard.run import TaskBar, entry_of
from corral.evals.scorecard.subject import open_subject, server_of
from corral.evals.tasks.task import Subject
from corral.evals.tasks.win_rate.prompts import ComparisonPrompt, packaged_prompts
from corral.evals.tasks.win_rate.task import JudgedBy, WinRate, answers
from corral.models.engines.base import Engine, Generation, GenerationSettings, Prompt

_COIN: Final = 0.5
"""How often a coin names one winner in both orders."""


def preferences(
    folders: Sequence[Path | str],
    judge: AbstractContextManager[Subject],
    *,
    prompts: Sequence[ComparisonPrompt] | None = None,
    by: JudgedBy = "words",
    cache: Path | None = None,
) -> tuple[Preference, ...]:
    """How often the judge prefers each other scorecard's model to that of the first.

    Args:
        folders: of two scorecards or more; the first is the rival.
        judge: compares the answers; entered when all are there, so that one model at a time is in memory. Its
            ``revision`` must name its weights.
        prompts: what is asked; the packaged requests when ``None``.
        by: the judge writes its verdict in words, or says how likely each is, for models too small to write one.
        cache: folder of what was answered; the default one when ``None``.

    Raises:
        UserError: fewer than two scorecards, or a model that is not the one that was measured.
        NotFoundError: a folder without a scorecard, or a model that is gone and has not answered everything.
        EngineError: a model could not answer, or the judge failed on every pair.
    """
    first, *others = load_sides(folders)
    kept = SampleCache(cache or default_cache_folder())
    asked = tuple(prompts or packaged_prompts())
    for side in (first, *others):
        _answer(side, asked, kept)
    with judge as opened:
        task = WinRate(opened, rival=_cached(first.card), prompts=asked, by=by)
        return tuple(_preference(first, other, task, kept) for other in others)


class _ReopenedEngine(CachedEngine):
    """The model of a scorecard, loaded when the cache lacks an answer, and until the end of ``opened``."""

    def __init__(self, card: Scorecard, opened: ExitStack) -> None:
        super().__init__(card.subject)
        self._card = card
        self._opened = opened
        self._engine: Engine | None = None

    def generate(self, prompts: Sequence[Prompt], settings: GenerationSettings) -> list[Generation]:
        """See ``Engine.generate``."""
        if self._engine is None:
            self._engine = self._open()
        return self._engine.generate(prompts, settings)

    def _open(self) -> Engine:
        card = self._card
        server = server_of(card.subject, card.revision)
        subject = self._opened.enter_context(open_subject(card.subject, server=server))
        if subject.revision != card.revision:
            raise UserError(
                f"`{card.subject}` is not the model that was measured: its revision is `{subject.revision}`, then it "
                f"was `{card.revision}`",
                hint="Make its scorecard again.",
            )
        return subject.engine


def _cached(card: Scorecard) -> Subject:
    return Subject(CachedEngine(card.subject), card.subject, card.revision)


def _answer(side: Loaded, prompts: Sequence[ComparisonPrompt], cache: SampleCache) -> None:
    """Put a model's answers into the cache; one model at a time is in memory."""
    card = side.card
    if not card.revision:
        raise UserError(
            f"the answers of `{card.subject}` were not kept, and it cannot be asked again: its revision is not known",
            hint="Give `revision` to `corral.scorecard`.",
        )
    with ExitStack() as opened, TaskBar(f"{side.letter} answers") as bar:
        bar.start(len(prompts))
        answers(Subject(_ReopenedEngine(card, opened), card.subject, card.revision), prompts, cache, bar)


def _preference(first: Loaded, other: Loaded, task: WinRate, cache: SampleCache) -> Preference:
    with TaskBar(f"{task.judge.name} compares {other.letter} with A") as bar:
        entry = entry_of(task.run(_cached(other.card), cache, bar), 0.0)
    found = Preference(letter=other.letter, judge=task.judge.name, requests=len(task.prompts), entry=entry)
    return found.model_copy(update={"caveats": tuple(_caveats(found, task.judge, first, other))})


def _caveats(found: Preference, judge: Subject, first: Loaded, other: Loaded) -> Iterator[str]:
    for side in (first, other):
        if side.card.revision == judge.revision:
            yield f"The judge is the model of {side.letter}: models prefer their own words."
    agrees = found.entry.figures["order_agreement"]
    asked = agrees.n + agrees.unscored
    if asked < found.requests:
        yield (
            f"{found.letter}: {found.requests - asked} of {found.requests} answers are those of A, word for word: "
            "ties that no judge was asked about."
        )
    if asked and agrees.value is None:
        yield f"{found.letter}: the judge decided none of {asked} pairs of different answers, so it prefers neither."
    elif asked and (agrees.ci95 is None or agrees.ci95[0] <= _COIN):
        yield (
            f"{found.letter}: the judge names the same winner in both orders on {agrees.value:.0%} of the pairs that "
            f"it decided ({agrees.n} of {asked}), which is not shown to be more than a coin's half: its win "
            "rate says nothing."
        )
    yield from found.entry.caveats
