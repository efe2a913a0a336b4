"""What the WildGuard guard says beyond what every guard says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from corral.guards.base import Status, Verdict
from corral.guards.prompted.batches import Failure
from corral.guards.prompted.parts import AnswerPart, in_window
from corral.guards.wildguard.answers import YES, FieldName
from corral.guards.wildguard.scoring import LineAnswer, status_of


@dataclass(frozen=True, slots=True)
class LinePart(AnswerPart):
    """The answer to one of the three questions.

    Attributes:
        p_na: probability of n/a, the largest over windows; ``None`` when not scored, or not an answer to the question.
    """

    p_na: float | None = None


def part_of(answers: Sequence[LineAnswer | Failure], *, threshold: float, min_mass: float) -> LinePart:
    """One question's answer from those of all windows (at least one); the first that cannot be used speaks for all."""
    read = [answer for answer in answers if isinstance(answer, LineAnswer)]
    p_na = max((a.p_na for a in read if a.p_na is not None), default=None)
    mass = min((a.mass for a in read if a.mass is not None), default=None)
    for number, answer in enumerate(answers, start=1):
        if isinstance(answer, Failure):
            return LinePart(answer.status, None, None, mass, threshold, answer.detail, p_na)
        status, detail = status_of(answer, min_mass=min_mass)
        if status is not Status.OK:
            detail = f"{detail}{in_window(number, len(answers))}"
            return LinePart(status, None, None, mass, threshold, detail, p_na)
    scores = [a.p for a in read if a.p is not None]
    p = max(scores) if scores else None
    flagged = any(a.label == YES for a in read) if p is None else p >= threshold
    return LinePart(Status.OK, flagged, p, mass, threshold, p_na=p_na)


@dataclass(frozen=True, slots=True)
class WildGuardVerdict(Verdict):
    """A verdict with the answers that it rests on.

    ``p_harm`` and ``p_refusal`` are the parts' ``score``. A response verdict follows its harm; a refusal that could not
    be read leaves ``p_refusal`` out and is named in ``unanswered``.

    Attributes:
        prompt: harm of the request; in a response verdict ``None`` when the two did not fit one prompt.
        refusal: whether the response refuses; response verdicts only.
        response: harm of the response; response verdicts only.
        warnings: lines that answered yes or no about a response that is not there, and were ignored.
    """

    prompt: LinePart | None = None
    refusal: LinePart | None = None
    response: LinePart | None = None
    warnings: int = 0

    def part(self, field: FieldName) -> LinePart | None:
        """The answer to one question by its name."""
        parts: dict[FieldName, LinePart | None] = {
            "prompt": self.prompt,
            "refusal": self.refusal,
            "response": self.response,
        }
        return parts[field]

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values, keys as in the attribute lists."""
        # Without super(): a dataclass with slots is a second class, which super() of Python 3.11 does not know.
        parts = {"prompt": self.prompt, "refusal": self.refusal, "response": self.response}
        return (
            Verdict.to_json(self)
            | {name: part and part.to_json() for name, part in parts.items()}
            | {"warnings": self.warnings}
        )
