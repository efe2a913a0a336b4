"""What a guard made of guards says: its answer, and the answers that it rests on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final

from corral.core.errors import ConfigError
from corral.guards.base import Guard, Status, Verdict

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


def highest(scores: Iterable[float | None]) -> float | None:
    """The highest score that there is."""
    return max((score for score in scores if score is not None), default=None)


def highest_categories(verdicts: Sequence[Verdict]) -> dict[str, float]:
    """Each category's highest score."""
    codes = dict.fromkeys(code for verdict in verdicts for code in verdict.categories)
    return {code: max(verdict.categories.get(code, 0.0) for verdict in verdicts) for code in codes}


def common_taxonomy(guards: Iterable[Guard]) -> str:
    """The taxonomy that all guards score; "" when they differ, since rules for either would then apply now and then."""
    found = {guard.taxonomy for guard in guards}
    return found.pop() if len(found) == 1 else ""


def distinct_names(names: Sequence[str], *, where: str) -> tuple[str, ...]:
    """The names of a composition's parts.

    Raises:
        ConfigError: two are the same, so that a verdict could not say which of them decided.
    """
    for name in names:
        if names.count(name) > 1:
            hint = f"Name one of them: `{{guard: {name}, name: another, settings: {{...}}}}`."
            raise ConfigError(f"two parts are named `{name}`", where=where, hint=hint)
    return tuple(names)


def leaves(verdict: Verdict) -> Iterator[Part]:
    """The answers of guards that are not made of others, through all compositions; each knows its own forms alone."""
    if not isinstance(verdict, ComposedVerdict):
        yield Part(verdict.guard, verdict)
        return
    for part in verdict.parts:
        if isinstance(part.verdict, ComposedVerdict):
            yield from leaves(part.verdict)
        else:
            yield part
