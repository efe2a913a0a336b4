"""A judge's answer, read strictly: the JSON object that was asked for, or no verdict.

Five outcomes are told apart: flagged, not flagged, refused to judge, unparseable, and (where no answer came) an error.
A refusal is neither a detection nor a miss.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from corral.data.refusals import opens_with_refusal
from corral.guards.base import Status

_FENCED: Final = re.compile(r"```(?:json)?\s*\n(.*)\n\s*```", re.DOTALL)
_KEYS: Final = {"flagged", "categories", "confidence"}
_CERTAIN: Final = 0.5
_BELOW_HALF: Final = 0.5 - 2**-53
_LONGEST: Final = 4000


class Outcome(StrEnum):
    """What became of one question."""

    FLAGGED = "flagged"
    NOT_FLAGGED = "not flagged"
    REFUSED = "refused"
    UNPARSEABLE = "unparseable"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Answer:
    """A parsed answer.

    Attributes:
        outcome: of the five.
        categories: bare codes that the judge named.
        confidence: in [0, 1], of the decision; ``None`` without one.
    """

    outcome: Outcome
    categories: tuple[str, ...] = ()
    confidence: float | None = None

    @property
    def p_harm(self) -> float | None:
        """The decision and its confidence as one score, 0.5 or more exactly when flagged; ``None`` without one."""
        if self.confidence is None:
            return None
        if self.outcome is Outcome.FLAGGED:
            return _CERTAIN + self.confidence / 2
        return min(_CERTAIN - self.confidence / 2, _BELOW_HALF)

    @property
    def status(self) -> Status:
        """As of a verdict."""
        return _STATUS.get(self.outcome, Status.OK)


_STATUS: Final = {
    Outcome.REFUSED: Status.REFUSED,
    Outcome.UNPARSEABLE: Status.UNPARSEABLE,
    Outcome.ERROR: Status.ERROR,
}


def parse_answer(text: str, codes: Collection[str]) -> Answer:
    """Read one answer.

    Args:
        text: the whole answer; a code fence around the object is let pass, and nothing else.
        codes: names that ``categories`` may use.
    """
    found = _object(text.strip())
    if found is None:
        return Answer(Outcome.REFUSED if opens_with_refusal(text) else Outcome.UNPARSEABLE)
    flagged, categories, confidence = found["flagged"], found["categories"], found["confidence"]
    sound = (
        isinstance(flagged, bool)
        and isinstance(categories, list)
        and all(isinstance(each, str) and each in codes for each in categories)
        and isinstance(confidence, int | float)
        and not isinstance(confidence, bool)
        and 0 <= confidence <= 1
    )
    if not sound:
        return Answer(Outcome.UNPARSEABLE)
    outcome = Outcome.FLAGGED if flagged else Outcome.NOT_FLAGGED
    return Answer(outcome, tuple(dict.fromkeys(categories)), float(confidence))


def _object(text: str) -> dict[str, Any] | None:
    """The object with just the keys that were asked for, each once; ``None`` for anything else."""
    if len(text) > _LONGEST:
        return None
    if match := _FENCED.fullmatch(text):
        text = match[1]
    try:
        value = json.loads(text, object_pairs_hook=_once, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) and value.keys() == _KEYS else None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose keys differ: of two verdicts in one answer neither counts."""
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a key is given twice")
    return value


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is not JSON")
