"""What the CultureGuard guard says beyond what every guard says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from corral.guards.base import Status, Verdict
from corral.guards.cultureguard.scoring import Answer
from corral.guards.prompted.batches import Failure
from corral.guards.prompted.parts import AnswerPart, in_window


def part_of(answers: Sequence[Answer | Failure], *, threshold: float, min_mass: float) -> AnswerPart:
    """The answer from those of all windows (at least one); the first that cannot be used speaks for all."""
    read = [answer for answer in answers if isinstance(answer, Answer)]
    mass = min((a.mass for a in read if a.mass is not None), default=None)
    for number, answer in enumerate(answers, start=1):
        status, detail = _unusable(answer, min_mass)
        if status is not Status.OK:
            return AnswerPart(status, None, None, mass, threshold, f"{detail}{in_window(number, len(answers))}")
    scores = [a.p for a in read if a.p is not None]
    p = max(scores) if scores else None
    flagged = any(a.unsafe for a in read) if p is None else p >= threshold
    return AnswerPart(Status.OK, flagged, p, mass, threshold)


def _unusable(answer: Answer | Failure, min_mass: float) -> tuple[Status, str | None]:
    """Why an answer cannot be used; ok when it can."""
    if isinstance(answer, Failure) or answer.unsafe is None:
        return answer.status, answer.detail
    if answer.mass is not None and (answer.mass < min_mass or answer.p is None):
        return (
            Status.UNPARSEABLE,
            f"the answer is no verdict: the labels hold {answer.mass:.2g} of the probability, under {min_mass:g}",
        )
    return Status.OK, None


@dataclass(frozen=True, slots=True)
class CultureGuardVerdict(Verdict):
    """A verdict with the answers that it rests on.

    ``categories`` are those that the answer names, scored as the verdict; the format has one list for request and
    reply, so either verdict that is unsafe carries it.

    Attributes:
        prompt: safety of the request; in a response verdict ``None`` when the two did not fit one prompt.
        response: safety of the response; response verdicts only.
        unknown_categories: categories that the answer names and the prompt does not list.
        ignored: verdicts on a response that is not there.
        categories_failure: why the categories of an unsafe message are not known.
        taxonomy_version: version of the taxonomy in the prompt.
    """

    prompt: AnswerPart | None = None
    response: AnswerPart | None = None
    unknown_categories: int = 0
    ignored: int = 0
    categories_failure: str | None = None
    taxonomy_version: str = ""

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values, keys as in the attribute lists."""
        # Without super(): a dataclass with slots is a second class, which super() of Python 3.11 does not know.
        return Verdict.to_json(self) | {
            "prompt": self.prompt and self.prompt.to_json(),
            "response": self.response and self.response.to_json(),
            "unknown_categories": self.unknown_categories,
            "ignored": self.ignored,
            "categories_failure": self.categories_failure,
            "taxonomy_version": self.taxonomy_version,
        }
