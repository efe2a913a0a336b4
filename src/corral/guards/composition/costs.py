"""What a composition spent, and what a cascade saved against asking its costly guard about everything."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from corral.guards.base import Status, Verdict
from corral.guards.composition.verdict import ComposedVerdict, leaves


@dataclass(slots=True)
class PartCost:
    """How often one guard was asked, and how long it took; ``calls`` count every form of a text that was judged."""

    calls: int = 0
    rows: int = 0
    seconds: float = 0.0
    failed: int = 0


@dataclass(slots=True)
class CompositionCost:
    """The cost of one composition over many messages.

    Seconds are the guards' own (``Verdict.latency_ms``). What a guard would have taken for every row is estimated by
    its mean over the rows that it was asked about; in a cascade these are the uncertain ones, which may be longer or
    shorter than the rest.

    Attributes:
        rows: messages judged.
        parts: by name, in the order in which they were first asked.
    """

    rows: int = 0
    parts: dict[str, PartCost] = field(default_factory=dict)

    def add(self, asked: Iterable[tuple[str, float, bool]]) -> None:
        """Count one message: for each call the guard, its milliseconds, and whether it answered."""
        self.rows += 1
        seen: set[str] = set()
        for name, latency_ms, answered in asked:
            part = self.parts.setdefault(name, PartCost())
            part.calls += 1
            part.rows += name not in seen
            part.seconds += latency_ms / 1e3
            part.failed += not answered
            seen.add(name)

    @property
    def seconds(self) -> float:
        """All parts together."""
        return sum(part.seconds for part in self.parts.values())

    @property
    def partly_asked(self) -> list[str]:
        """Parts that were not asked about every message: what a cascade saves on."""
        return [name for name, part in self.parts.items() if part.rows < self.rows]

    def alone(self, name: str) -> float | None:
        """Seconds that one part would have taken for every message, by its mean; ``None`` if it was never asked."""
        part = self.parts[name]
        return None if not part.rows else part.seconds / part.rows * self.rows

    def share(self, name: str) -> float:
        """Share of messages that a part was asked about."""
        return self.parts[name].rows / self.rows if self.rows else 0.0


def asked_of(verdict: Verdict) -> list[tuple[str, float, bool]]:
    """Calls behind a verdict: guard, milliseconds, whether it answered; one call for a guard that is not composed."""
    return [(part.guard, part.verdict.latency_ms, part.verdict.status is Status.OK) for part in leaves(verdict)]


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
            if sum(part.calls for part in cost.parts.values()) == cost.rows:
                continue  # one guard asked once a message: there is nothing to tell
            asked = ", ".join(
                f"{part} about {count.rows:,} of {cost.rows:,} ({cost.share(part):.1%})"
                for part, count in cost.parts.items()
            )
            yield f"{name} asked {asked}; {cost.seconds:.1f} s{_saving(cost)}"


def _saving(cost: CompositionCost) -> str:
    savings = []
    for name in cost.partly_asked:
        alone = cost.alone(name)
        if alone is not None:
            savings.append(f" where {name} alone would take about {alone:.1f} s ({_saved(alone - cost.seconds)})")
    return "".join(savings)


def _saved(seconds: float) -> str:
    return f"{seconds:.1f} s saved" if seconds >= 0 else f"{-seconds:.1f} s more than without the cascade"
