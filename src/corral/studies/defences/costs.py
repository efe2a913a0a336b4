"""What a system costs: ability on the scorecard's tasks, and milliseconds; kept, since both take long."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from corral.core.files import atomic_write_json, read_json, sha256_json
from corral.data.messages import Conversation, Message
from corral.data.messages import Target as Judged
from corral.evals.sample_cache import SampleCache
from corral.evals.scorecard import TaskSettings, choose_tasks, run_scorecard
from corral.evals.tasks.task import Subject
from corral.guards.asking import ask
from corral.guards.base import Guard
from corral.models.engines.base import GenerationSettings
from corral.redteam.attempts import Target

TIMED_TOKENS: Final = 16
_REPLY: Final = "The sea is wide and the ships are slow. They carry grain, timber and letters from coast to coast."
_DIGITS: Final = 16


@dataclass(frozen=True)
class Measured:
    """What is measured beside attacks.

    Attributes:
        ability: tasks of the scorecard.
        ability_limit: items of each, ``None`` for all.
        timed: prompts that time is measured on.
        seed: of the draw of items.
    """

    ability: tuple[str, ...] = ()
    ability_limit: int | None = None
    timed: int = 4
    seed: int = 0


def target_cost(target: Target, measured: Measured, folder: Path) -> dict[str, Any]:
    """Milliseconds to the first and the sixteenth token of an answer, and figures of the scorecard's tasks by name."""

    def took(tokens: int) -> float:
        settings = GenerationSettings(max_new_tokens=tokens)
        return _milliseconds(lambda prompt: target.engine.generate([prompt], settings), measured.timed)

    def find() -> dict[str, Any]:
        return {
            "ms_to_first_token": took(1),
            f"ms_for_{TIMED_TOKENS}_tokens": took(TIMED_TOKENS),
            "ability": ability_of(target, measured, folder),
        }

    return _kept(folder, [target.name, target.revision, asdict(measured)], find)


def guard_cost(guard: Guard, judged: Judged, measured: Measured, folder: Path) -> dict[str, Any]:
    """Milliseconds that the guard adds to one message."""

    def judge(prompt: Conversation) -> object:
        reply = () if judged == "prompt" else (Message.of("assistant", _REPLY),)
        return ask(guard, [Conversation((*prompt.messages, *reply))], target=judged)

    key = [guard.name, guard.revision, judged, measured.timed]
    return _kept(folder, key, lambda: {"guard_ms": _milliseconds(judge, measured.timed)})


def _milliseconds(act: Callable[[Conversation], object], prompts: int) -> float:
    """Median over prompts of one at a time, after one that is not counted."""
    taken = []
    for number in range(prompts + 1):
        prompt = Conversation.user(f"Write {number + 2} sentences about the sea and the ships that sail on it.")
        started = time.perf_counter()
        act(prompt)
        taken.append(1e3 * (time.perf_counter() - started))
    return round(float(np.median(taken[1:])), 1)


def ability_of(target: Target, measured: Measured, folder: Path) -> dict[str, Any]:
    """Figures of the scorecard's tasks by name, from the samples under ``folder`` where they are there."""
    if not measured.ability:
        return {}
    settings = TaskSettings(limit=measured.ability_limit, seed=measured.seed)
    subject = Subject(target.engine, target.name, target.revision)
    card = run_scorecard(subject, choose_tasks(measured.ability, settings), SampleCache(folder / "samples")).card
    return {
        name: {"value": figure.value, "ci95": None if figure.ci95 is None else list(figure.ci95), "n": figure.n}
        for entry in card.tasks
        for name, figure in entry.figures.items()
    }


def _kept(folder: Path, key: list[Any], find: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    path = folder / "costs" / f"{sha256_json(key)[:_DIGITS]}.json"
    if path.is_file():
        found: dict[str, Any] = read_json(path)
        return found
    path.parent.mkdir(parents=True, exist_ok=True)
    found = find()
    atomic_write_json(path, found)
    return found
