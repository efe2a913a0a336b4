"""What the WildGuard guard says beyond what every guard says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from corral.guards.base import Status, Verdict
from corral.guards.prompted.batches import Failure
from corral.guards.prompted.probabilities import at_half
from corral.guards.wildguard.answers import YES, FieldName
from corral.guards.wildguard.scoring import LineAnswer, status_of


@dataclass(frozen=True, slots=True)
class AnswerPart:
    """The answer to one of the three questions; over several windows the most positive one.

    Attributes:
        status: how it came about.
        flagged: the answer is yes; ``None`` unless ``status`` is ok.
        p: share of yes in yes and no, as the model gives it; ``None`` when it was not scored, or is not ok.
        p_na: probability of n/a, the largest over windows; ``None`` when not scored, or not an answer to the question.
        mass: probability of all labels together, the smallest over windows; ``None`` when not scored.
        threshold: ``flagged`` is ``p >= threshold``; without scores the model's own word counts.
        detail: why the status is not ok.
    """

    status: Status
    flagged: bool | None = None
    p: float | None = None
    p_na: float | None = None
    mass: float | None = None
    threshold: float = 0.5
    detail: str | None = None

    @property
    def score(self) -> float | None:
        """The answer as a probability whose operating point is 0.5; 1 or 0 when only the model's word is known."""
        if self.flagged is None or self.p is None:
            return None if self.flagged is None else float(self.flagged)
        return at_half(self.p, self.threshold)

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values, keys as in the attribute list."""
        return asdict(self) | {"status": self.status.value}


def part_of(answers: Sequence[LineAnswer | Failure], *, threshold: float, min_mass: float) -> AnswerPart:
    """One question's answer from those of all windows (at least one); the first that cannot be used speaks for all."""
    read = [answer for answer in answers if isinstance(answer, LineAnswer)]
    p_na = max((a.p_na for a in read if a.p_na is not None), default=None)
    mass = min((a.mass for a in read if a.mass is not None), default=None)
    for number, answer in enumerate(answers, start=1):
        if isinstance(answer, Failure):
            return AnswerPart(answer.status, None, None, p_na, mass, threshold, answer.detail)
        status, detail = status_of(answer, min_mass=min_mass)
        if status is not Status.OK:
            at = f" (window {number} of {len(answers)})" if len(answers) > 1 else ""
            return AnswerPart(status, None, None, p_na, mass, threshold, f"{detail}{at}")
    scores = [a.p for a in read if a.p is not None]
    p = max(scores) if scores else None
    flagged = any(a.label == YES for a in read) if p is None else p >= threshold
    return AnswerPart(Status.OK, flagged, p, p_na, mass, threshold)


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

    prompt: AnswerPart | None = None
    refusal: AnswerPart | None = None
    response: AnswerPart | None = None
    warnings: int = 0

    def part(self, field: FieldName) -> AnswerPart | None:
        """The answer to one question by its name."""
        parts: dict[FieldName, AnswerPart | None] = {
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
