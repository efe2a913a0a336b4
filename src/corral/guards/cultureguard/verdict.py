"""What the CultureGuard guard says beyond what every guard says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from corral.guards.base import Status, Verdict
from corral.guards.cultureguard.scoring import Answer
from corral.guards.prompted.batches import Failure
from corral.guards.prompted.probabilities import at_half


@dataclass(frozen=True, slots=True)
class SafetyPart:
    """The answer about one message; over several windows the most unsafe one.

    Attributes:
        status: how it came about.
        flagged: the message is unsafe; ``None`` unless ``status`` is ok.
        p: share of ``unsafe`` in the two labels, as the model gives it; ``None`` when it was not scored, or is not ok.
        mass: probability of both labels together, the smallest over windows; ``None`` when not scored.
        threshold: ``flagged`` is ``p >= threshold``; without scores the model's own word counts.
        detail: why the status is not ok.
    """

    status: Status
    flagged: bool | None = None
    p: float | None = None
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


def part_of(answers: Sequence[Answer | Failure], *, threshold: float, min_mass: float) -> SafetyPart:
    """The answer from those of all windows (at least one); the first that cannot be used speaks for all."""
    read = [answer for answer in answers if isinstance(answer, Answer)]
    mass = min((a.mass for a in read if a.mass is not None), default=None)
    for number, answer in enumerate(answers, start=1):
        at = f" (window {number} of {len(answers)})" if len(answers) > 1 else ""
        status, detail = _unusable(answer, min_mass)
        if status is not Status.OK:
            return SafetyPart(status, None, None, mass, threshold, f"{detail}{at}")
    scores = [a.p for a in read if a.p is not None]
    p = max(scores) if scores else None
    flagged = any(a.unsafe for a in read) if p is None else p >= threshold
    return SafetyPart(Status.OK, flagged, p, mass, threshold)


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

    prompt: SafetyPart | None = None
    response: SafetyPart | None = None
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
