"""What compositions spend is counted by where a guard stands, and what they save is computed in one place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from corral.data.messages import Conversation, TargetChoice
from corral.guards.base import Guard, Verdict
from corral.guards.composition.cascade import Band, CascadeGuard
from corral.guards.composition.costs import Asked, CompositionCost, CostMeter, PartCost, asked_of, saving
from corral.guards.composition.ensemble import EnsembleGuard
from corral.guards.deobfuscate import DeobfuscatingGuard
from corral.guards.loading import load_guard
from corral.guards.scripted import ScriptedGuard

HIDDEN = "TRIG\u200bGER"


class Timed(ScriptedGuard):
    """A scripted guard whose every answer takes the same time."""

    def __init__(self, milliseconds: float, word: str = "TRIGGER") -> None:
        super().__init__(word)
        self._milliseconds = milliseconds

    def classify(self, conversations: Sequence[Conversation], *, target: TargetChoice = "auto") -> list[Verdict]:
        return [
            replace(verdict, latency_ms=self._milliseconds)
            for verdict in super().classify(conversations, target=target)
        ]


def spent(guard: Guard, *texts: str) -> CompositionCost:
    cost = CompositionCost()
    for verdict in guard.classify([Conversation.user(text) for text in texts]):
        cost.add(asked_of(verdict))
    return cost


def test_two_guards_of_one_name_at_two_places_are_counted_apart() -> None:
    first, second = Timed(1.0), Timed(10.0)
    guard = EnsembleGuard(
        [DeobfuscatingGuard(first, name="left"), DeobfuscatingGuard(second, name="right")], names=("left", "right")
    )
    left, right = spent(guard, HIDDEN).parts
    assert (left.path, right.path) == ("left/scripted", "right/scripted")
    assert (left.calls, left.rows, left.seconds) == (2, 1, pytest.approx(0.002))
    assert right.seconds == pytest.approx(0.020)


def test_a_guard_within_a_decoder_has_the_name_that_it_was_given() -> None:
    guard = load_guard({"decode": {"guard": "scripted", "name": "big", "settings": {"words": ["BIG"]}}})
    (verdict,) = guard.classify([Conversation.user("BIG")])
    assert [part.guard for part in verdict.parts] == ["big"]
    (part,) = spent(guard, "BIG").parts
    assert (part.path, part.guard, part.revision) == ("big", "scripted", ScriptedGuard(["BIG"]).revision)


def test_a_guard_that_is_not_composed_is_one_call() -> None:
    guard = ScriptedGuard()
    (asked,) = asked_of(guard.classify([Conversation.user("a")])[0])
    assert (asked.path, asked.guard, asked.revision, asked.answered) == ("scripted", "scripted", guard.revision, True)


def part(path: str, rows: int, seconds: float, alone: float) -> PartCost:
    return PartCost(
        path=path, guard=path, revision="1", rows=rows, calls=rows, failed=0, seconds=seconds, seconds_alone=alone
    )


def test_a_cascade_is_held_against_its_costly_guard_and_any_other_against_the_dearest() -> None:
    cascade = saving([part("cheap", 10, 9.0, 9.0), part("costly", 2, 1.0, 5.0)], 10)
    assert cascade is not None
    assert (cascade.path, cascade.alone, cascade.spent, cascade.seconds) == ("costly", 5.0, 10.0, -5.0)
    ensemble = saving([part("a", 10, 9.0, 9.0), part("b", 10, 1.0, 1.0)], 10)
    assert ensemble is not None
    assert (ensemble.path, ensemble.seconds) == ("a", -1.0)
    assert saving([part("alone", 10, 9.0, 9.0)], 10) is None


def test_a_cascades_line_tells_what_was_asked_and_saved() -> None:
    costly = Timed(100.0, "BIG")
    guard = CascadeGuard(Timed(10.0), costly, band=Band(low=0.0, high=0.5), names=("cheap", "costly"))
    meter = CostMeter()
    for verdict in guard.classify([Conversation.user(text) for text in ("TRIGGER", "TRIGGER", "TRIGGER", "fine")]):
        meter.add(verdict)
    (line,) = meter.lines()
    assert line == (
        "cascade(cheap,costly) asked cheap about 4 of 4 (100.0%), costly about 1 of 4 (25.0%); 0.1 s where costly "
        "alone would take about 0.4 s (0.3 s saved)"
    )


def test_calls_survive_a_journal() -> None:
    cost = CompositionCost()
    cost.add([Asked(*["a/b", "b", "1", 5.0, False])])
    (found,) = cost.parts
    assert (found.path, found.failed, found.seconds) == ("a/b", 1, 0.005)
