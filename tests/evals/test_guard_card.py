"""A guard's card is written from the run's account and the evaluation of exactly its weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from corral.core.errors import DataError
from corral.evals.guard_card import guard_card, scores_card
from corral.evals.results import ModerationReport
from corral.evals.tasks.moderation import ModerationSettings, choose_sets, run_moderation

FIRST = {
    "training_rows": 1200,
    "development_rows": 50,
    "entries": [{"source": "red_instruct", "taken": 4}, {"source": "red_instruct", "taken": 5}],
}
SECOND = {
    "training_rows": 300,
    "development_rows": 60,
    "entries": [{"source": "red_instruct", "taken": 3}, {"source": "self_written/guard_basics", "taken": 3}],
    "left_in": {"derta_attacks": 4, "past_tense": 0, "replies": 9},
}
ACCOUNT = {"stages": [FIRST, SECOND]}


@pytest.fixture
def report(aegis: Path, rule_guard: Any, tmp_path: Path) -> ModerationReport:
    guard = rule_guard(lambda text, target: {"p_harm": len(text) % 5 / 5}, revision="abc-bf16")
    return run_moderation([guard], choose_sets(["aegis_test"]), tmp_path, ModerationSettings(replicates=50))


def test_rows_of_a_source_are_summed_with_licence_and_origin(report: ModerationReport) -> None:
    card = guard_card("# Notes", ACCOUNT, {"seed": 0, "mixture": [1]}, "abc", report)
    assert card.startswith("# Notes\n")
    assert "| red_instruct | 12 | Apache-2.0 | declare-lab/red-instruct |" in card
    assert "| self_written/guard_basics | 3 | Apache-2.0 | written for this project |" in card
    assert "Trained on 1,200, then on 300 rows, calibrated on 60 held-out rows" in card


def test_what_training_shares_with_other_evaluation_sets_is_said(report: ModerationReport) -> None:
    card = guard_card("", ACCOUNT, {}, "abc", report)
    assert "share as much with another evaluation set: derta_attacks 4." in card
    assert "mostly stock refusals: 9." in card


def test_a_refit_is_said_and_its_rows_count(report: ModerationReport) -> None:
    refit = {**SECOND, "heads": ["prompt_attack"], "training_rows": 70, "left_in": {"replies": 0}}
    card = guard_card("", ACCOUNT | {"refits": [refit]}, {}, "abc", report)
    assert "`prompt_attack` alone was trained anew on 70 rows and calibrated on 60 of other groups" in card
    assert "| red_instruct | 15 |" in card


def test_every_measured_set_is_in_the_card_beside_flagging_everything(report: ModerationReport) -> None:
    card = guard_card("# Notes", ACCOUNT, {}, "abc", report)
    assert "aegis_test" in card
    assert "flag-all F1" in card


def test_settings_are_listed_without_the_mixture(report: ModerationReport) -> None:
    card = guard_card("", ACCOUNT, {"training": {"rank": 16}, "mixture": [{"source": "x"}]}, "abc", report)
    assert "| training.rank | 16 |" in card
    assert "mixture" not in card


def test_scores_of_other_weights_are_refused(report: ModerationReport) -> None:
    with pytest.raises(DataError, match="the run made `def`"):
        guard_card("", ACCOUNT, {}, "def", report)


def test_where_a_folder_lay_is_left_out(report: ModerationReport) -> None:
    card = guard_card("", ACCOUNT, {"training": {"start_from": "/somewhere/private/guard"}}, "abc", report)
    assert "| training.start_from | .../guard |" in card
    assert "private" not in card


def test_a_card_without_a_run_has_notes_revision_and_scores(report: ModerationReport) -> None:
    card = scores_card("# Notes\n\n", report)
    assert card.startswith("# Notes\n\nScores are those of revision `abc-bf16`.\n")
    assert "| aegis_test |" in card
    assert "Training data" not in card
