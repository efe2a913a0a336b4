"""What ``corral moderate`` tells of compositions: who decided, and what every part said. Only where it is asked for.

The rows that programs read stay as they are; ``--explain`` adds one key to them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from corral.data.messages import Target
from corral.guards.base import Status, Verdict
from corral.guards.composition.verdict import ComposedVerdict
from corral.guards.policy import Decision

_DIGITS: Final = 6


def explanation(decisions: Mapping[Target, Decision]) -> dict[str, Any]:
    """The key ``explained``: for each guard and target what it said, who decided, and what its parts said."""
    verdicts = [verdict for decision in decisions.values() for verdict in decision.verdicts]
    return {"explained": [{"target": verdict.target, **_said(verdict.guard, verdict)} for verdict in verdicts]}


def composition_notes(decisions: Iterable[Decision]) -> dict[str, str]:
    """For people: who decided, and what each part's score was."""
    found = [verdict for each in decisions for verdict in each.verdicts if isinstance(verdict, ComposedVerdict)]
    lines = [line for verdict in found for line in _lines(verdict)]
    return {"decided by": "; ".join(lines)} if lines else {}


def _lines(verdict: ComposedVerdict) -> list[str]:
    said = []
    for part in verdict.parts:
        score = "no verdict" if part.verdict.status is not Status.OK else _number(part.verdict.p_harm)
        form = f" ({', '.join(part.form)})" if part.form else ""
        said.append(f"{part.guard}{form} {score}")
    own = f"{verdict.decided_by or 'nobody'}: {', '.join(said)}"
    inner = [part.verdict for part in verdict.parts if isinstance(part.verdict, ComposedVerdict)]
    return [own, *(line for each in inner for line in _lines(each))]


def _said(name: str, verdict: Verdict, form: tuple[str, ...] = ()) -> dict[str, Any]:
    row: dict[str, Any] = {
        "guard": name,
        **({"form": list(form)} if form else {}),
        "status": verdict.status.value,
        "flagged": verdict.flagged,
        "p_harm": None if verdict.p_harm is None else round(verdict.p_harm, _DIGITS),
        "latency_ms": round(verdict.latency_ms, 3),
    }
    if isinstance(verdict, ComposedVerdict):
        row["decided_by"] = verdict.decided_by
        row["parts"] = [_said(part.guard, part.verdict, part.form) for part in verdict.parts]
    return row


def _number(score: float | None) -> str:
    return "yes or no" if score is None else f"{score:.2f}"
