"""Differences over items and seeds, claims, and the evidence of a run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from corral.core import weighted
from corral.core.config import Config
from corral.core.errors import MetricError
from corral.core.evidence import Evidence
from corral.core.recipes import load_profile
from corral.core.runs import Run
from corral.studies.claims import NOTHING_ELSE, Compared, claim_of, command_of, compare_over_seeds, write_evidence


def compared(ours: list[list[float]], baseline: list[list[float]], clusters: list[str] | None = None) -> Compared:
    """Means of values, one list a seed."""
    return compare_over_seeds(
        [weighted.mean(values) for values in ours],
        [weighted.mean(values) for values in baseline],
        clusters or [str(i) for i in range(len(ours[0]))],
        replicates=500,
    )


def test_the_difference_is_that_of_the_means_over_seeds() -> None:
    found = compared([[1.0, 1.0], [0.0, 1.0]], [[0.0, 0.0], [0.0, 1.0]])
    assert found.ours == pytest.approx(0.75)
    assert found.baseline == pytest.approx(0.25)
    assert found.difference.value == pytest.approx(0.5)
    assert found.by_seed == (pytest.approx(1.0), pytest.approx(0.0))


def test_a_baseline_without_seeds_stands_against_every_seed() -> None:
    assert compared([[1.0, 1.0], [0.0, 0.0]], [[0.5, 0.5]]).by_seed == (0.5, -0.5)


def test_other_numbers_of_seeds_are_refused() -> None:
    with pytest.raises(MetricError, match="3 seeds"):
        compared([[1.0], [1.0], [1.0]], [[0.0], [0.0]])


def test_items_are_resampled_for_all_seeds_at_once() -> None:
    """Two seeds that are right on opposite items: their mean is the same for every resample."""
    found = compared([[1.0, 0.0] * 10, [0.0, 1.0] * 10], [[0.0] * 20])
    assert found.difference.ci95 == pytest.approx((0.5, 0.5))


def test_repeated_items_widen_the_interval() -> None:
    values = [1.0, 0.0, 1.0, 1.0, 0.0, 1.0] * 10
    single = compared([values], [[0.0] * 60])
    repeated = compared([values], [[0.0] * 60], [str(i // 10) for i in range(60)])
    assert single.difference.ci95 is not None
    assert repeated.difference.ci95 is not None
    assert repeated.difference.clusters == 6
    alternating = compared([sorted(values)], [[0.0] * 60], [str(i // 10) for i in range(60)])
    assert alternating.difference.ci95 is not None
    assert np.ptp(alternating.difference.ci95) > np.ptp(single.difference.ci95)


def test_the_spread_over_seeds_is_their_standard_deviation() -> None:
    found = compared([[1.0, 1.0], [0.0, 0.0], [0.5, 0.5]], [[0.0, 0.0]])
    assert found.to_json()["spread_over_seeds"] == pytest.approx(0.5)


def claim(found: Compared, **changes: object) -> dict[str, object]:
    settings = {"metric": "a mean", "expected": "above zero", "seeds": (0, 1), "toy": False}
    return claim_of("it_helps", found, **{**settings, **changes}).model_dump()  # type: ignore[arg-type]


def test_a_claim_holds_when_its_whole_interval_is_above_zero() -> None:
    found = claim(compared([[1.0, 1.0], [1.0, 0.9]], [[0.0, 0.0]]))
    assert found["holds"]
    assert found["tried"] == ()


def test_a_claim_whose_interval_reaches_zero_does_not_hold_and_says_what_was_tried() -> None:
    found = claim(compared([[1.0, 0.0, 1.0, 0.0]], [[0.0, 1.0, 0.0, 0.5]]))
    assert not found["holds"]
    assert found["tried"] == NOTHING_ELSE
    tried = claim(compared([[0.0, 0.0]], [[0.0, 0.0]]), tried=("twice the rows",))
    assert tried["tried"] == ("twice the rows",)


def test_a_claim_that_fails_another_condition_does_not_hold() -> None:
    assert not claim(compared([[1.0, 1.0]], [[0.0, 0.0]]), also=False)["holds"]


class _Settings(Config):
    seed: int = 0


def test_evidence_of_a_run_validates_and_names_its_system(tmp_path: Path) -> None:
    run = Run.create(tmp_path, "llama_guard/tiny", _Settings())
    found = claim_of(
        "it_helps",
        compared([[1.0, 1.0]], [[0.0, 0.0]]),
        metric="a mean",
        expected="above zero",
        seeds=(0,),
        toy=True,
    )
    _, settings = load_profile("llama_guard/tiny")
    evidence = Evidence.read(write_evidence(run, settings, [found]))
    assert evidence.system == "llama_guard"
    assert evidence.command == "corral recipes run llama_guard/tiny"
    assert [each.claim for each in evidence.claims] == ["it_helps"]


def test_the_command_spells_out_settings_that_differ_from_the_profile(tmp_path: Path) -> None:
    _, settings = load_profile("llama_guard/tiny", ["seeds=[4]", "training.rank=2"])
    run = Run.create(tmp_path, "llama_guard/tiny", settings)
    expected = "corral recipes run llama_guard/tiny --set 'training.rank=2' --set 'seeds=[4]'"
    assert sorted(command_of(run, settings).split(" --set ")) == sorted(expected.split(" --set "))


def test_the_command_of_a_users_own_settings_names_their_file(tmp_path: Path) -> None:
    run = Run.create(tmp_path, "llama_guard/mine", _Settings())
    assert command_of(run, _Settings()) == "corral recipes run mine.yaml"
