"""What a composition spent, and what it saved against running one of its guards about everything."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from corral.core.config import Config
from corral.guards.base import Status, Verdict
from corral.guards.composition.verdict import ComposedVerdict, leaves


class Asked(NamedTuple):
    """One call behind a verdict.

    Attributes:
        path: of the guard within the composition (``verdict.leaves``).
        guard: its own name.
        revision: its revision.
        latency_ms: its time.
        answered: whether it gave a verdict.
    """

    path: str
    guard: str
    revision: str
    latency_ms: float
    answered: bool


def asked_of(verdict: Verdict) -> list[Asked]:
    """Calls behind a verdict; one for a guard that is not composed."""
    return [
        Asked(path, said.guard, said.revision, said.latency_ms, said.status is Status.OK)
        for path, said in leaves(verdict)
    ]


class PartCost(Config):
    """What a composition asked of one of its guards.

    Seconds are the guard's own (``Verdict.latency_ms``).

    Attributes:
        path: of the guard within the composition (``verdict.leaves``).
        guard: its own name.
        revision: its revision.
        rows: messages that it was asked about.
        calls: how often it was asked; more than ``rows`` where several forms of a text were judged.
        failed: calls that it did not answer.
        seconds: its time for them.
        seconds_alone: its time for every message: measured where it is in the same report, else estimated by its mean,
            which in a cascade is that of the uncertain ones, longer or shorter than the rest.
        measured: whether ``seconds_alone`` was.
    """

    path: str
    guard: str
    revision: str
    rows: int
    calls: int
    failed: int
    seconds: float
    seconds_alone: float
    measured: bool = False


@dataclass(frozen=True, slots=True)
class Saving:
    """A composition's time beside that of the part which would be run if there were no composition.

    Attributes:
        path: of that part.
        alone: seconds that it takes for every message.
        spent: seconds of the composition.
    """

    path: str
    alone: float
    spent: float

    @property
    def seconds(self) -> float:
        """What was saved; negative where the composition took longer."""
        return self.alone - self.spent


def saving(parts: Sequence[PartCost], rows: int) -> Saving | None:
    """Against a cascade's costly guard, else the dearest part; ``None`` unless two parts have a known time.

    Args:
        parts: of one composition.
        rows: messages that it judged.
    """
    known = [(part.rows < rows, part.seconds_alone, part.path) for part in parts if part.seconds_alone]
    if len(known) < 2:
        return None
    _, alone, path = max(known)
    return Saving(path, alone, sum(part.seconds for part in parts))


@dataclass(slots=True)
class _Count:
    rows: int = 0
    calls: int = 0
    failed: int = 0
    seconds: float = 0.0


@dataclass(slots=True)
class CompositionCost:
    """The cost of one composition over many messages.

    Attributes:
        rows: messages judged.
    """

    rows: int = 0
    _counts: dict[tuple[str, str, str], _Count] = field(default_factory=dict)

    def add(self, asked: Iterable[Asked]) -> None:
        """Count one message by the calls behind its verdict."""
        self.rows += 1
        seen: set[tuple[str, str, str]] = set()
        for each in asked:
            key = (each.path, each.guard, each.revision)
            count = self._counts.setdefault(key, _Count())
            count.rows += key not in seen
            count.calls += 1
            count.failed += not each.answered
            count.seconds += each.latency_ms / 1e3
            seen.add(key)

    @property
    def parts(self) -> tuple[PartCost, ...]:
        """What was asked of each guard, in the order in which they were first asked."""
        return tuple(
            PartCost(
                path=path,
                guard=guard,
                revision=revision,
                rows=count.rows,
                calls=count.calls,
                failed=count.failed,
                seconds=count.seconds,
                seconds_alone=count.seconds / count.rows * self.rows,
            )
            for (path, guard, revision), count in self._counts.items()
        )


@dataclass(slots=True)
class CostMeter:
    """Costs of every composition among some verdicts, by its name, in one line each."""

    costs: dict[str, CompositionCost] = field(default_factory=dict)

    def add(self, verdict: Verdict) -> None:
        """Count a verdict, if it is a composition's."""
        if isinstance(verdict, ComposedVerdict):
            self.costs.setdefault(verdict.guard, CompositionCost()).add(asked_of(verdict))

    def lines(self) -> Iterator[str]:
        """What each composition asked of its parts, and what was saved."""
        for name, cost in self.costs.items():
            parts, rows = cost.parts, cost.rows
            if sum(part.calls for part in parts) == rows:
                continue  # one guard asked once a message: there is nothing to tell
            asked = ", ".join(f"{part.path} about {part.rows:,} of {rows:,} ({part.rows / rows:.1%})" for part in parts)
            yield f"{name} asked {asked}; {sum(part.seconds for part in parts):.1f} s{_beside(saving(parts, rows))}"


def _beside(found: Saving | None) -> str:
    if found is None:
        return ""
    more = (
        f"{found.seconds:.1f} s saved" if found.seconds >= 0 else f"{-found.seconds:.1f} s more than without the rest"
    )
    return f" where {found.path} alone would take about {found.alone:.1f} s ({more})"
