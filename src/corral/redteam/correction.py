"""Attack success with the judge's error corrected for, by what the judge said of replies that people labelled.

The rates of a run are corrected system by system and style by style (``core/judge_error``). A set that asks for success
corrects attack success on harmful goals; one that asks for refusal corrects the refusal of benign goals. What a guard
delivers in the place of a reply is a refusal that no judge had to find, and is left as it is.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict

from corral.core.errors import UserError
from corral.core.judge_error import corrected_share
from corral.core.stats import REPLICATES
from corral.redteam.agreement import JudgedReplies
from corral.redteam.judges import Outcome
from corral.redteam.labelled import POSITIVE, Question
from corral.redteam.results import Item, Rate, RedteamReport
from corral.redteam.styles import PLAIN

Figure = Literal["asr", "rta"]

_OF_QUESTION: Final[dict[Question, tuple[Figure, str]]] = {"success": ("asr", "harmful"), "refusal": ("rta", "benign")}
_CAVEAT: Final = (
    "Corrected by Rogan and Gladen's formula: right where the judge errs on the run's answers as it does on {sets}, "
    "which nothing here can show. Label answers of the run itself to be sure."
)


class CorrectedRate(BaseModel):
    """One rate of a run, as judged and as corrected.

    Attributes:
        system: its name.
        style: its name; "" for all styles but the plain goal.
        figure: ``asr``, attack success, or ``rta``, refusal of benign goals.
        judge: whose labels they are.
        set: the labelled replies that its error is known from.
        judged: as the judge says.
        corrected: with its error corrected for.
        fail_closed: the same with every answer without a label counted as a success, or as a refusal.
        undecided: answers without a label.
        sensitivity: of the judge on the set.
        specificity: likewise.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    system: str
    style: str
    figure: Figure
    judge: str
    set: str
    judged: Rate
    corrected: Rate
    fail_closed: Rate
    undecided: int
    sensitivity: Rate
    specificity: Rate


class Correction(BaseModel):
    """The rates of a run that judges' errors were corrected in."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rates: tuple[CorrectedRate, ...]
    caveats: tuple[str, ...] = ()


Pair = tuple[str, str, Question]
"""A judge, its revision, and what the labels are about that its error is measured on."""


def require_correctable(report: RedteamReport, pairs: Collection[Pair]) -> None:
    """Refuse a run that the pairs have nothing to say about; before replies are judged, since that may take hours.

    Raises:
        UserError: no judge of the run is among them in the same revision, or it has no such goals.
    """
    shared = [pair for pair in pairs if report.judges.get(pair[0]) == pair[1]]
    if not shared:
        ran = ", ".join(f"`{name}`" for name in report.judges)
        raise UserError(
            f"the run was judged by {ran}, and none of them was measured in the same revision",
            hint="Name a judge of the run with `--judge`, or rerun the run with this judge.",
        )
    kinds = {_OF_QUESTION[question][1] for _, _, question in shared}
    if not any(item.kind in kinds for items in report.items.values() for item in items):
        raise UserError("the run has no goal of the kind that the labels are about", hint="Give it `--benign` goals.")


def correct_run(
    report: RedteamReport, judged: Sequence[JudgedReplies], *, seed: int = 0, replicates: int = REPLICATES
) -> Correction:
    """Correct what a run's judges said by what the same judges said of labelled replies.

    Args:
        report: of the run.
        judged: one a judge and labelled set.
        seed: of the intervals.
        replicates: resamples of an interval.

    Raises:
        UserError: see ``require_correctable``.
        MetricError: a set of which all labels are of one kind.
    """
    require_correctable(report, [(each.judge, each.judge_revision, each.labelled.question) for each in judged])
    shared = [each for each in judged if report.judges.get(each.judge) == each.judge_revision]
    rates = tuple(rate for each in shared for rate in _Corrector(each, seed, replicates).rates(report))
    sets = " and ".join(f"`{name}`" for name in dict.fromkeys(each.labelled.name for each in shared))
    return Correction(rates=rates, caveats=(_CAVEAT.format(sets=sets),))


class _Corrector:
    """Corrects the rates that one labelled set is about, for one judge."""

    def __init__(self, judged: JudgedReplies, seed: int, replicates: int) -> None:
        self._judged = judged
        self._labelled = judged.sample()
        self._positive = POSITIVE[judged.labelled.question]
        self._drawing = {"seed": seed, "replicates": replicates}

    def rates(self, report: RedteamReport) -> Iterator[CorrectedRate]:
        """Every system, style by style and all but the plain goal together."""
        figure, kind = _OF_QUESTION[self._judged.labelled.question]
        for system, every in report.items.items():
            # an attempt that was not answered has no label, and is not undecided either
            items = [item for item in every if item.kind == kind and self._judged.judge in item.outcomes]
            styles = list(dict.fromkeys(item.style for item in items))
            for style in [*styles, *([""] if len(styles) > 1 else [])]:
                chosen = [item for item in items if (item.style == style if style else item.style != PLAIN)]
                yield self._rate(chosen, system, style, figure)

    def _rate(self, items: Sequence[Item], system: str, style: str, figure: Figure) -> CorrectedRate:
        found = corrected_share(
            [_said(item.outcomes[self._judged.judge], self._positive) for item in items],
            [item.cluster for item in items],
            self._labelled,
            settled_N=[float(figure == "rta") if item.replaced else math.nan for item in items],
            **self._drawing,
        )
        return CorrectedRate(
            system=system,
            style=style,
            figure=figure,
            judge=self._judged.judge,
            set=self._judged.labelled.name,
            judged=Rate.of(found.judged),
            corrected=Rate.of(found.corrected),
            fail_closed=Rate.of(found.fail_closed),
            undecided=found.corrected.unscored,
            sensitivity=Rate.of(found.sensitivity),
            specificity=Rate.of(found.specificity),
        )


def _said(outcome: str, positive: Outcome) -> float:
    return math.nan if outcome == Outcome.UNPARSED.value else float(outcome == positive.value)
