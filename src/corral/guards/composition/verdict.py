"""What a guard made of guards says: its answer, and the answers that it rests on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final

from corral.guards.base import Status, Verdict

_FIELDS: Final = tuple(each.name for each in fields(Verdict))


@dataclass(frozen=True, slots=True)
class Part:
    """One answer within a composition.

    Attributes:
        guard: who was asked, by its name within the composition.
        verdict: what it said.
        form: what was undone of the text before it was asked, in order; empty for the text as written.
    """

    guard: str
    verdict: Verdict
    form: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {"part": self.guard, "form": list(self.form), **self.verdict.to_json()}


@dataclass(frozen=True, slots=True)
class ComposedVerdict(Verdict):
    """A verdict with the answers that it rests on; ``windows`` and ``latency_ms`` are their sums.

    Attributes:
        decided_by: the guard, rule or form of the text that the answer is from; ``None`` when there is no answer.
        parts: every answer that was asked for, in the order of asking.
    """

    decided_by: str | None = None
    parts: tuple[Part, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values, keys as in the attribute lists."""
        # Without super(): a dataclass with slots is a second class, which super() of Python 3.11 does not know.
        own = {"decided_by": self.decided_by, "parts": [part.to_json() for part in self.parts]}
        return Verdict.to_json(self) | own


def composed(base: Verdict, parts: Sequence[Part], **changes: Any) -> ComposedVerdict:
    """A verdict like ``base`` over these parts, with some fields changed; what ``base`` adds of its own stays there."""
    values = {name: getattr(base, name) for name in _FIELDS}
    spent = {
        "windows": sum(part.verdict.windows for part in parts),
        "latency_ms": sum(part.verdict.latency_ms for part in parts),
    }
    return ComposedVerdict(**{**values, **spent, "parts": tuple(parts), **changes})


def unanswered(failed: Part, parts: Sequence[Part], *, guard: str, revision: str) -> ComposedVerdict:
    """No verdict, because one part gave none: its status, and who it was."""
    reason = failed.verdict.detail or f"gave no verdict ({failed.verdict.status})"
    empty = Verdict.failed(failed.verdict.target, guard, revision, failed.verdict.status, f"{failed.guard}: {reason}")
    return composed(empty, parts)


def first_failed(parts: Iterable[Part]) -> Part | None:
    """The first part without a verdict."""
    return next((part for part in parts if part.verdict.status is not Status.OK), None)


def highest_answers(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """Fields of a verdict beside harm over several: the highest scores; a question that one left open stays open."""
    codes = dict.fromkeys(code for verdict in verdicts for code in verdict.categories)
    left_open = tuple(dict.fromkeys(question for verdict in verdicts for question in verdict.unanswered))
    return {
        "p_attack": None if "attack" in left_open else _highest(verdict.p_attack for verdict in verdicts),
        "p_refusal": None if "refusal" in left_open else _highest(verdict.p_refusal for verdict in verdicts),
        "categories": {code: max(verdict.categories.get(code, 0.0) for verdict in verdicts) for code in codes},
        "unanswered": left_open,
    }


def _highest(scores: Iterable[float | None]) -> float | None:
    return max((score for score in scores if score is not None), default=None)


def leaves(verdict: Verdict, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Verdict]]:
    """The answers of guards that are not made of others, each with its path.

    A path is the names of the parts from the outermost composition inwards, between slashes, so that two guards of one
    name at two places stay apart; of a verdict that is not composed it is the guard's name.
    """
    if not isinstance(verdict, ComposedVerdict):
        yield "/".join(path) or verdict.guard, verdict
        return
    for part in verdict.parts:
        yield from leaves(part.verdict, (*path, part.guard))
