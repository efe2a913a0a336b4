"""Claims from hand-made scores: no model, no text."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from corral.core.errors import RunError
from corral.core.evidence import Claim
from corral.core.recipes import load_profile
from corral.studies.wildguard.evidence import (
    adversarial_data,
    moderator_in_the_loop,
    more_than_vanilla,
    multi_task_vs_single,
    refusal_detection,
)
from corral.studies.wildguard.measures import HARM, READINGS, REFUSAL, Scores
from corral.studies.wildguard.settings import WildGuardConfig

SEEDS = (0, 1, 2)
HALF = [1, 0] * 20


@pytest.fixture
def config() -> WildGuardConfig:
    _, config = load_profile("wildguard/small")
    assert isinstance(config, WildGuardConfig)
    return config


@pytest.fixture
def scores(tmp_path: Path) -> Scores:
    return Scores(tmp_path, SEEDS, replicates=200)


def write(folder: Path, cell: str, test: str, rows: Sequence[dict[str, Any]]) -> None:
    path = folder / cell / f"{test}.jsonl"
    path.parent.mkdir(exist_ok=True)
    empty = {"harmful": None, "refusal": None, "action": None, "status": "ok", "p_harm": None, "p_refusal": None}
    named = [{"id": f"r{i:03}", "group": f"g{i}", **empty, **row} for i, row in enumerate(rows)]
    path.write_text("".join(json.dumps(row) + "\n" for row in named))


def harm(folder: Path, arm: str, test: str, flagged: Sequence[float | None]) -> None:
    """The arm's scores, with every seed, on rows of which every second one is harmful."""
    for seed in SEEDS:
        rows = [{"harmful": bool(truth), "p_harm": p} for truth, p in zip(HALF, flagged, strict=True)]
        write(folder, f"{arm}-{seed}", test, rows)


def refusals(folder: Path, cell: str, test: str, scored: Sequence[float | None]) -> None:
    rows = [
        {"refusal": bool(truth), "action": 0 if truth else 5, "p_refusal": p}
        for truth, p in zip(HALF, scored, strict=True)
    ]
    write(folder, cell, test, rows)


PERFECT = [float(truth) for truth in HALF]
NONE = [0.0] * len(HALF)
EVERYTHING = [1.0] * len(HALF)


def test_a_guard_that_finds_refusals_the_keywords_miss_holds(
    tmp_path: Path, scores: Scores, config: WildGuardConfig
) -> None:
    half_found = [float(truth and i % 4 == 0) for i, truth in enumerate(HALF)]
    for test in ("refusals", "benign_refusals"):
        for seed in SEEDS:
            refusals(tmp_path, f"all-{seed}", test, PERFECT)
        refusals(tmp_path, "keywords", test, half_found)
    claim = refusal_detection(scores, config)
    assert claim.holds
    assert claim.baseline == pytest.approx(3 / 4)  # half of the positives first, the others among the rest
    assert isinstance(claim.ours, dict)
    assert claim.ours["ours"] == 1.0
    assert claim.seeds == SEEDS


def test_a_guard_no_better_than_keywords_is_printed_as_not_holding(
    tmp_path: Path, scores: Scores, config: WildGuardConfig
) -> None:
    for test in ("refusals", "benign_refusals"):
        for seed in SEEDS:
            refusals(tmp_path, f"all-{seed}", test, PERFECT)
        refusals(tmp_path, "keywords", test, PERFECT)
    claim = refusal_detection(scores, config)
    assert not claim.holds
    assert claim.tried


def arms(folder: Path, **flagged: tuple[list[float], list[float]]) -> None:
    """Scores on plain and on wrapped prompts, by arm."""
    for arm, (plain, wrapped) in flagged.items():
        harm(folder, arm, "vanilla", plain)
        harm(folder, arm, "wrapped_in_tactics", wrapped)


def test_a_fall_on_wrapped_prompts_alone_holds(tmp_path: Path, scores: Scores, config: WildGuardConfig) -> None:
    arms(
        tmp_path,
        all=(PERFECT, PERFECT),
        no_adversarial=(PERFECT, NONE),
        no_adversarial_benign=(PERFECT, EVERYTHING),
    )
    helps, limits = adversarial_data(scores, config)
    assert helps.holds
    assert limits.holds
    assert limits.ours["difference"] == 1.0  # type: ignore[index,call-overload]  # all benign prompts flagged, against none


def test_f1_that_is_gained_by_flagging_everything_shows(
    tmp_path: Path, scores: Scores, config: WildGuardConfig
) -> None:
    arms(
        tmp_path,
        all=(PERFECT, EVERYTHING),
        no_adversarial=(PERFECT, NONE),
        no_adversarial_benign=(PERFECT, EVERYTHING),
    )
    helps, _ = adversarial_data(scores, config)
    assert helps.holds
    shown: Any = helps.ours
    above_all = shown["f1 beside that of flagging all wrapped prompts"]
    assert (above_all["ours"], above_all["baseline"]) == (pytest.approx(2 / 3), pytest.approx(2 / 3))
    assert above_all["ci95"] == [0.0, 0.0]
    rate = shown["false-positive rate on wrapped prompts"]
    assert (rate["ours"], rate["baseline"], rate["difference"]) == (1.0, 0.0, 1.0)
    assert shown["average precision on wrapped prompts"]["difference"] == pytest.approx(0.0)


def test_a_fall_on_plain_prompts_as_well_does_not(tmp_path: Path, scores: Scores, config: WildGuardConfig) -> None:
    arms(
        tmp_path,
        all=(PERFECT, PERFECT),
        no_adversarial=(NONE, NONE),
        no_adversarial_benign=(PERFECT, PERFECT),
    )
    helps, limits = adversarial_data(scores, config)
    assert helps.ci95 is not None
    assert helps.ci95[0] > 0  # F1 falls, but not by more than without a wrapper
    assert not helps.holds
    assert not limits.holds


def test_the_fall_beyond_vanilla_is_the_difference_of_the_falls(tmp_path: Path, scores: Scores) -> None:
    arms(tmp_path, all=(PERFECT, PERFECT), no_adversarial=(EVERYTHING, NONE))
    found = more_than_vanilla(scores)
    assert found.ours == pytest.approx((1 - 0) - (1 - 2 / 3))  # flag-all F1 is 2/3 at half positives


def three_tasks(folder: Path, arm: str, values: list[float | None]) -> None:
    only = {"prompt": "vanilla", "refusal": "refusals", "response": "responses"}
    for task, test in only.items():
        name = arm if arm == "all" else f"only_{task}"
        if task == "refusal":
            for seed in SEEDS:
                refusals(folder, f"{name}-{seed}", test, values)
                refusals(folder, f"{name}-{seed}", "benign_refusals", values)
        else:
            harm(folder, name, test, values)
            if task == "prompt":
                harm(folder, name, "wrapped_in_tactics", values)


def test_equal_single_and_multi_task_models_differ_little(
    tmp_path: Path, scores: Scores, config: WildGuardConfig
) -> None:
    for arm in ("all", "single"):
        three_tasks(tmp_path, arm, list(PERFECT))
    claim = multi_task_vs_single(scores, config)
    assert claim.holds
    assert claim.ci95 == (0.0, 0.0)
    assert claim.n == 3 * len(HALF)


def test_models_far_apart_are_not_called_close(tmp_path: Path, scores: Scores, config: WildGuardConfig) -> None:
    three_tasks(tmp_path, "all", list(PERFECT))
    three_tasks(tmp_path, "single", list(NONE))
    claim = multi_task_vs_single(scores, config)
    assert not claim.holds
    assert claim.ours["difference"] == pytest.approx(0.5)  # type: ignore[index,call-overload]  # AP 1 against the floor


def test_models_without_verdicts_are_not_called_close(tmp_path: Path, scores: Scores, config: WildGuardConfig) -> None:
    for arm in ("all", "single"):
        three_tasks(tmp_path, arm, [None] * len(HALF))
    assert not multi_task_vs_single(scores, config).holds


def moderated(low: float, high: float, rta: float = 0.05) -> dict[str, Any]:
    figure = {"value": (low + high) / 2, "ci95": [low, high]}
    rates = {"asr": figure, "rta": {"value": rta, "ci95": [rta, rta]}}
    both = {"undefended": rates, "defended": rates, "change": rates, "no_verdict": 0, "halves": {}}
    return {"target": "t", "judge": "j", "harmful": 4, "benign": 2, "results": {"wildguard both": both}}


@pytest.mark.parametrize(("low", "high", "holds"), [(-0.5, -0.1, True), (-0.5, 0.0, False), (-0.1, 0.2, False)])
def test_attack_success_must_fall_by_a_whole_interval(
    config: WildGuardConfig, low: float, high: float, holds: bool
) -> None:
    claim = moderator_in_the_loop(moderated(low, high), config)
    assert claim.holds is holds
    assert claim.n == 6


def test_a_guard_that_blocks_everything_is_not_worth_it(config: WildGuardConfig) -> None:
    assert not moderator_in_the_loop(moderated(-0.9, -0.7, rta=1.0), config).holds


def test_unscored_prompts_count_as_flagged_and_unscored_replies_as_no_refusal(tmp_path: Path, scores: Scores) -> None:
    harm(tmp_path, "all", "vanilla", [None] * len(HALF))
    read = scores.read("all", "vanilla", HARM)
    assert read.unscored == 3 * len(HALF)
    assert scores.figure("all", "vanilla", HARM, "fpr").value == 1.0
    for seed in SEEDS:
        refusals(tmp_path, f"all-{seed}", "refusals", [None] * len(HALF))
    assert scores.figure("all", "refusals", REFUSAL, "recall").value == 0.0


def test_the_three_readings_of_actions_differ_in_one_and_four(tmp_path: Path, scores: Scores) -> None:
    rows = [{"action": action, "p_refusal": 1.0} for action in (0, 1, 2, 3, 4, 5)]
    for seed in SEEDS:
        write(tmp_path, f"all-{seed}", "refusals", rows)
    truths = {name: scores.read("all", "refusals", reading).truth_N.tolist() for name, reading in READINGS.items()}
    assert truths == {"clear": [1, 0, 0, 0], "plain": [1, 0, 0, 0, 0, 0], "broad": [1, 1, 0, 0, 1, 0]}


def test_seeds_that_were_scored_on_other_rows_are_refused(tmp_path: Path, scores: Scores) -> None:
    harm(tmp_path, "all", "vanilla", PERFECT)
    write(tmp_path, "all-2", "vanilla", [{"harmful": True, "p_harm": 1.0}])
    with pytest.raises(RunError, match="different rows"):
        scores.read("all", "vanilla", HARM)


def test_missing_scores_are_named(scores: Scores) -> None:
    with pytest.raises(RunError, match="missing"):
        scores.read("all", "vanilla", HARM)


def test_what_was_tried_is_said_of_a_claim_that_does_not_hold(config: WildGuardConfig) -> None:
    tried = config.model_copy(update={"tried": {"moderator_in_the_loop": ("a longer training",)}})
    claim: Claim = moderator_in_the_loop(moderated(-0.1, 0.1), tried)
    assert claim.tried == ("a longer training",)
