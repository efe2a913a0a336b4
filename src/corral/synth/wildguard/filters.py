"""The label filter: a labeller judges every generated row again, and rows that miss their intended labels go.

WildGuard has GPT-4 relabel all three fields and moves or drops what misses. Here any guard is a labeller (``WildGuard``
over any engine among them). What is done follows from which fields agree (``DECISIONS``); every row that is not kept as
it was says why, and a row that the labeller could not judge is never kept.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import Any, Final, Literal, Protocol

from corral.core.files import canonical_json
from corral.data.messages import Conversation
from corral.guards.base import Guard, Verdict
from corral.synth.pipeline import read_rejects, read_step
from corral.synth.rows import Outcome, Row, Task, Unusable, row_text
from corral.synth.steps import FunctionStep

Decision = Literal["keep", "move", "quarantine"]
FIELDS: Final = ("harmful", "refusal", "response_harmful")

DECISIONS: Final[Mapping[tuple[bool, bool, bool], Decision]] = {
    (True, True, True): "keep",
    # Asked to refuse, it complied, or the other way round: a good row of the other branch.
    (True, False, True): "move",
    (True, False, False): "move",
    # Complied, harmlessly where harm was meant or harmfully where none was: neither branch's row.
    (True, True, False): "quarantine",
    # What the request was meant to be decides what a good reply is.
    (False, True, True): "quarantine",
    (False, True, False): "quarantine",
    (False, False, True): "quarantine",
    (False, False, False): "quarantine",
}
"""By whether prompt harm, refusal and reply harm agree; of a prompt without a reply, the last two do."""


@dataclass(frozen=True, slots=True)
class Labels:
    """The three fields of a row; ``None`` where there is no reply, or where a labeller could not tell."""

    harmful: bool | None
    refusal: bool | None = None
    response_harmful: bool | None = None


class Labeller(Protocol):
    """Judges rows."""

    @property
    def version(self) -> Mapping[str, Any]:
        """JSON values that stand for what it is: the same version gives the same labels."""

    def label(self, rows: Sequence[Row]) -> list[Labels]:
        """The labels of each row, in order."""


class GuardLabeller:
    """Labels by a guard's own decisions; a refusal is one at 0.5. Failures of the guard are ``None``."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard

    @property
    def version(self) -> Mapping[str, Any]:
        """Name and revision of the guard."""
        return {"guard": self._guard.name, "revision": self._guard.revision}

    def label(self, rows: Sequence[Row]) -> list[Labels]:
        """The labels of each row, in order."""
        verdicts = self._guard.classify_both([_conversation(row) for row in rows])
        return [_labels(each.get("prompt"), each.get("response")) for each in verdicts]


def filter_step(
    labeller: Labeller, *, decisions: Mapping[tuple[bool, bool, bool], Decision] = DECISIONS
) -> FunctionStep:
    """Rows with their labels confirmed or corrected; ``judged``, ``intended`` and ``moved`` say which.

    Args:
        labeller: who judges.
        decisions: what to do for each combination of agreements; combinations left out are quarantined.
    """
    version = {
        "labeller": dict(labeller.version),
        "decisions": [[*key, decision] for key, decision in sorted(decisions.items())],
    }

    def expand(row: Row) -> Iterable[Task]:
        yield Task(f"{row['id']}/filtered", row, "label filter")

    def make(tasks: Sequence[Task]) -> list[Outcome]:
        judged = labeller.label([task.row for task in tasks])
        return [
            Outcome(_decided(intended_labels(task.row), labels, decisions), answer=canonical_json(asdict(labels)))
            for task, labels in zip(tasks, judged, strict=True)
        ]

    return FunctionStep("filtered", expand, make, version)


def intended_labels(row: Row) -> Labels:
    """What a row was made to be."""
    return Labels(*(row.get(name) for name in FIELDS))


def agreement(out: Path) -> dict[str, dict[str, int]]:
    """For each field of a filtered file, quarantined rows included: how often intended and judged label agree.

    Counts are ``agreed``, ``disagreed`` and ``unjudged``, over rows that have the field.
    """
    counts = {name: Counter[str]() for name in FIELDS}
    pairs = [(Labels(**row["intended"]), row["judged"]) for row in read_step(out)]
    pairs += [(intended_labels(reject.row), json.loads(reject.row["answer"])) for reject in read_rejects(out)]
    for intended, judged in pairs:
        for name in FIELDS:
            wanted, found = getattr(intended, name), judged.get(name)
            if wanted is not None:
                counts[name]["unjudged" if found is None else "agreed" if found == wanted else "disagreed"] += 1
    return {name: dict(sorted(count.items())) for name, count in counts.items()}


def _decided(
    intended: Labels, judged: Labels, decisions: Mapping[tuple[bool, bool, bool], Decision]
) -> Mapping[str, Any] | Unusable:
    pairs = list(zip(FIELDS, astuple(intended), astuple(judged), strict=True))
    if missing := [name for name, wanted, found in pairs if wanted is not None and found is None]:
        return Unusable("unjudged", ", ".join(missing), retry=False)
    first, second, third = (wanted is None or wanted == found for _, wanted, found in pairs)
    decision = decisions.get((first, second, third), "quarantine")
    missed = "; ".join(f"{name} judged {_word(found)}" for name, wanted, found in pairs if wanted not in (None, found))
    if decision == "quarantine":
        return Unusable("label_missed", missed, retry=False)
    if decision == "move" and judged.refusal and judged.response_harmful:
        return Unusable("contradictory", missed, retry=False)
    final = {name: wanted if wanted is None or decision == "keep" else found for name, wanted, found in pairs}
    return {**final, "moved": decision == "move", "intended": asdict(intended), "judged": asdict(judged)}


def _labels(prompt: Verdict | None, response: Verdict | None) -> Labels:
    if response is None:
        return Labels(prompt.flagged if prompt else None)
    refusal = None if response.flagged is None or response.p_refusal is None else response.p_refusal >= 0.5
    return Labels(prompt.flagged if prompt else None, refusal, response.flagged)


def _conversation(row: Row) -> Conversation:
    prompt = row_text(row, "prompt")
    response = row.get("response")
    return Conversation.user(prompt) if response is None else Conversation.exchange(prompt, row_text(row, "response"))


def _word(found: bool | None) -> str:
    return {True: "true", False: "false", None: "unknown"}[found]
