"""What ``corral moderate`` says about one conversation, as programs read it, and the count of many such rows.

The keys and their order are a published contract: add none here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from corral.data.messages import Target
from corral.guards.base import Status, Verdict
from corral.guards.policy import SEVERITY, Action, Decision

FINE, FAILURE, FLAGGED, UNDECIDED, INTERRUPTED = 0, 1, 3, 4, 130
"""Exit codes beside 2, the user's mistake."""

_SCORES: Final = ("p_harm", "p_refusal", "p_attack")
_DIGITS: Final = 6


def decision_row(id: str | None, decision: Decision) -> dict[str, Any]:
    """One decision. Of several guards the highest score counts, and any that gave no verdict shows in ``status``."""
    verdicts = decision.verdicts
    return _row(id, decision.action, decision.flagged, verdicts, target=verdicts[0].target if verdicts else None)


def both_row(id: str | None, decisions: Mapping[Target, Decision]) -> dict[str, Any]:
    """Prompt and response of one conversation under ``verdicts``, and above them the more severe of each value.

    A target that the conversation does not have is null.
    """
    verdicts = [verdict for decision in decisions.values() for verdict in decision.verdicts]
    flags = [decision.flagged for decision in decisions.values()]
    flagged = True if True in flags else None if None in flags else False
    action = max((decision.action for decision in decisions.values()), key=SEVERITY.__getitem__)
    judged = {target: decision_row(id, decision) for target, decision in decisions.items()}
    return _row(id, action, flagged, verdicts, target="both") | {
        "verdicts": {"prompt": judged.get("prompt"), "response": judged.get("response")}
    }


def missing_verdicts(decisions: Iterable[Decision]) -> list[str]:
    """Why guards gave no verdict, one line each."""
    return [
        f"{verdict.guard}: {verdict.detail or verdict.status.value}"
        for decision in decisions
        for verdict in decision.verdicts
        if verdict.status is not Status.OK
    ]


def _row(
    id: str | None, action: Action, flagged: bool | None, verdicts: Sequence[Verdict], *, target: str | None
) -> dict[str, Any]:
    return {
        "id": id,
        "action": action.value,
        "flagged": flagged,
        "status": next((v.status.value for v in verdicts if v.status is not Status.OK), Status.OK.value),
        **{name: _highest(getattr(verdict, name) for verdict in verdicts) for name in _SCORES},
        "categories": _categories(verdicts),
        "target": target,
        "guard": "+".join(dict.fromkeys(verdict.guard for verdict in verdicts)),
        "windows": sum(verdict.windows for verdict in verdicts),
        "latency_ms": round(sum(verdict.latency_ms for verdict in verdicts), 3),
    }


def _highest(scores: Iterable[float | None]) -> float | None:
    known = [score for score in scores if score is not None]
    return round(max(known), _DIGITS) if known else None


def _categories(verdicts: Iterable[Verdict]) -> dict[str, float]:
    highest: dict[str, float] = {}
    for verdict in verdicts:
        for code, score in verdict.categories.items():
            highest[code] = max(highest.get(code, 0.0), round(score, _DIGITS))
    return highest


def action_exit_code(actions: Iterable[str]) -> int:
    """The exit code that stands for the most severe of these actions."""
    taken = set(actions)
    if taken & {Action.FLAG, Action.BLOCK}:
        return FLAGGED
    return UNDECIDED if Action.UNDECIDED in taken else FINE


@dataclass(slots=True)
class Tally:
    """How many rows got which action, how many had no verdict, and how many could not be read."""

    actions: Counter[str] = field(default_factory=Counter)
    unanswered: int = 0
    rejected: int = 0

    def add(self, row: Mapping[str, Any]) -> None:
        """Count one row."""
        self.actions[row["action"]] += 1
        self.unanswered += row["status"] != Status.OK.value

    @property
    def rows(self) -> int:
        """Rows that were given out."""
        return self.actions.total()

    def exit_code(self, *, check: bool) -> int:
        """What the command ends with for a file: with ``check`` findings come first, then rows without an answer."""
        found = action_exit_code(self.actions) if check else FINE
        return found or (FAILURE if self.rejected or self.unanswered else FINE)

    def to_json(self) -> dict[str, int]:
        """As plain JSON values."""
        actions = {action.value: self.actions[action] for action in Action}
        return {"rows": self.rows, **actions, "no_verdict": self.unanswered, "rejected": self.rejected}

    def __str__(self) -> str:
        parts = [f"{self.actions[action]:,} {action}" for action in Action if self.actions[action]]
        text = f"{self.rows:,} {'row' if self.rows == 1 else 'rows'}: {', '.join(parts) or 'none'}"
        if self.unanswered:
            text += f"; {self.unanswered:,} without a verdict"
        return f"{text}; {self.rejected:,} rejected" if self.rejected else text
