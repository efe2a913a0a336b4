"""The front of attack success against over-refusal: which points are on it, what they train on, and its page."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corral.core.config import config_hash, load_config
from corral.core.errors import ConfigError
from corral.core.evidence import Evidence
from corral.core.recipes import load_profile, run_recipe
from corral.redteam.results import Rate
from corral.studies.egida.measures import BEFORE
from corral.studies.egida.pareto import Point, Strength, nested, strengths_of, with_best
from corral.studies.egida.pareto_page import front_page
from corral.studies.egida.recipe import FRONT, FRONT_PAGE
from corral.studies.egida.settings import STAND_IN, EgidaConfig, ParetoConfig


def share(value: float | None) -> Rate:
    return Rate(value=value, ci95=None if value is None else (value / 2, value), n=8, clusters=8, rule="made up")


def point(name: str, success: float | None, refusal: float | None) -> Point:
    return Point(Strength(name, 1e-5, 8, (0,)), share(success), share(refusal), share(0.5))


def test_a_point_is_on_the_front_unless_another_is_better_in_one_and_no_worse_in_the_other() -> None:
    points = with_best([point("a", 0.5, 0.1), point("b", 0.2, 0.3), point("c", 0.5, 0.3), point("d", None, 0.0)])
    assert [each.best for each in points] == [True, True, False, False]


def test_equal_points_are_both_on_the_front() -> None:
    assert [each.best for each in with_best([point("a", 0.5, 0.1), point("b", 0.5, 0.1)])] == [True, True]


@given(st.lists(st.tuples(st.sampled_from([0.0, 0.25, 0.5]), st.sampled_from([0.0, 0.25, 0.5])), min_size=1))
def test_nothing_off_the_front_is_better_than_all_on_it(values) -> None:
    points = with_best([point(str(i), *each) for i, each in enumerate(values)])
    front = [each for each, found in zip(values, points, strict=True) if found.best]
    assert front
    for x, y in values:
        assert any(a <= x and b <= y for a, b in front)


def test_smaller_trainings_see_a_part_of_what_larger_ones_see_in_one_order() -> None:
    pairs = [SimpleNamespace(instance=SimpleNamespace(uuid=f"pair-{i}")) for i in range(20)]
    small, large = nested(pairs, 5, 0), nested(pairs, 12, 0)
    assert (len(small), len(large)) == (5, 12)
    assert [each for each in large if each in small] == small
    assert nested(pairs, 20, 0) == pairs


def test_every_rate_meets_every_size_and_none_is_larger_than_what_there_is() -> None:
    found = strengths_of(ParetoConfig(learning_rates=(1e-6, 1e-5), pairs=(4, 64, 128)), 30)
    assert [(each.learning_rate, each.pairs) for each in found] == [(1e-6, 4), (1e-6, 30), (1e-5, 4), (1e-5, 30)]
    assert strengths_of(ParetoConfig(learning_rates=(1e-6,)), 30)[0].pairs == 30


def test_the_page_has_a_mark_a_point_and_prints_no_figure_that_is_not_there() -> None:
    text = front_page(with_best([point(BEFORE, 0.5, None), point("<b>", 0.2, 0.3)]), judge="prefix-list", target="m")
    assert text.count('class="mark"') == 1  # a point without a value is in the table alone
    assert "&lt;b&gt;" in text
    assert "prefix-list" in text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pareto": {"learning_rates": [1e-5]}}, "`attack` is not set"),
        ({"pareto": {"learning_rates": []}, "attack": {}}, "learning_rates"),
        ({"pareto": {"learning_rates": [0.0]}, "attack": {}}, "above 0"),
        ({"pareto": {"learning_rates": [1e-5], "ability": ["speed"]}, "attack": {}}, "ability"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(changes, message) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(EgidaConfig, {"requests": {"sources": [STAND_IN]}, **changes})


def test_settings_without_a_front_have_the_hash_that_they_had() -> None:
    config = load_config(EgidaConfig, {"requests": {"sources": [STAND_IN]}})
    assert "pareto" not in config.model_dump()
    asked = load_config(
        EgidaConfig, {"requests": {"sources": [STAND_IN]}, "attack": {}, "pareto": {"learning_rates": [1e-5]}}
    )
    assert asked.model_dump()["pareto"]["learning_rates"] == (1e-5,)
    assert config_hash(asked) != config_hash(config)


def test_a_tiny_run_measures_every_point_and_shares_the_studys_own_training(tmp_path) -> None:
    _, config = load_profile("egida/tiny")
    own = config.dpo.learning_rate
    front = {"learning_rates": [own, own / 10], "pairs": [6, 1000]}
    changes = {"seeds": [0], "chosen": ["gold"], "agreement": None, "pareto": front}
    run = run_recipe("egida/tiny", overrides=changes, root=tmp_path)
    points = json.loads((run.artefacts / FRONT).read_text())
    assert [each["learning_rate"] for each in points] == [0.0, own, own, own / 10, own / 10]
    assert all(each["attack_success"]["n"] > 0 and each["over_refusal"]["n"] > 0 for each in points)
    assert any(each["best"] for each in points)
    trainings = [line["name"] for line in run.logged() if line.get("cell") == "training"]
    assert len(trainings) == 4  # not five: all pairs at the study's own rate are its own training
    assert "<svg" in (run.artefacts / FRONT_PAGE).read_text()
    (cost,) = [
        each for each in Evidence.read(run.artefacts / "evidence.json").claims if each.claim == "over_refusal_cost"
    ]
    assert len(cost.ours["pareto"]) == 5
