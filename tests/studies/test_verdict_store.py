"""Verdicts of a study: judged once, in the order of the rows; what the guard failed on is asked again."""

from __future__ import annotations

from pathlib import Path

import pytest

from corral.core.config import Config
from corral.core.runs import Run
from corral.data.examples import ModerationExample
from corral.data.messages import Conversation, Message
from corral.guards.scripted import ScriptedGuard
from corral.studies.verdict_store import VerdictStore

ROWS = [
    ModerationExample(Conversation.user("a long prompt with TRIGGER"), "prompt", harmful=True, source="own", id="0"),
    ModerationExample(
        Conversation((Message.of("user", "hello"), Message.of("assistant", "broken"))), "response", source="own", id="1"
    ),
    ModerationExample(Conversation.user("short"), "prompt", harmful=False, source="own", id="2"),
]


@pytest.fixture
def store(tmp_path: Path) -> VerdictStore:
    return VerdictStore(Run.create(tmp_path, "study/tiny", Config()), batch=2)


def test_prompts_and_responses_are_judged_each_by_their_own_target(store: VerdictStore) -> None:
    found = store.judge_by("scripted", {"v": 1}, ROWS, ScriptedGuard)
    assert (found.flagged.tolist(), found.unscored) == ([True, False, False], 0)
    assert store.judge_by("scripted", {"v": 1}, ROWS, lambda: pytest.fail("loaded again")).scores.tolist() == (
        found.scores.tolist()
    )


def test_a_row_that_the_guard_failed_on_is_unscored_and_asked_again(store: VerdictStore) -> None:
    guard = ScriptedGuard(faults={"broken": "error"})
    found = store.judge_by("scripted", {"v": 1}, ROWS, lambda: guard)
    assert (found.answered.tolist(), found.scores[1]) == ([True, False, True], 1.0)
    guard.faults.clear()
    assert store.judge_by("scripted", {"v": 1}, ROWS, lambda: guard).unscored == 0
