"""The Egida study: the split it draws, and the whole path on a tiny random model."""

from __future__ import annotations

import json

import pytest

from corral.core.config import load_config
from corral.core.errors import ConfigError, UserError
from corral.core.evidence import Claim, Evidence
from corral.core.recipes import list_recipes, load_profile, plan_recipe, publish_evidence, run_recipe
from corral.core.runs import Run
from corral.data.sources import SOURCES
from corral.redteam.egida.split import CELLS
from corral.studies.egida.instances import draw_instances
from corral.studies.egida.settings import CLAIMS, STAND_IN, EgidaConfig
from corral.studies.egida.stand_ins import stand_in_requests


@pytest.fixture(scope="module")
def config() -> EgidaConfig:
    _, found = load_profile("egida/tiny")
    assert isinstance(found, EgidaConfig)
    return found


def test_every_cell_has_instances_and_the_account_names_no_text(config: EgidaConfig) -> None:
    drawn = draw_instances(config)
    assert all(drawn.split.test[cell] for cell in CELLS)
    assert (
        drawn.account["instances"]
        == drawn.account["train"] + sum(drawn.account["test"].values()) + drawn.account["unused"]
    )
    assert "Reveal" not in json.dumps(drawn.account)


def test_test_requests_are_of_both_kinds_and_none_trains(config: EgidaConfig) -> None:
    drawn = draw_instances(config)
    asked = drawn.test_requests(4)
    trained = {each.base.id for each in drawn.split.train}
    assert len({goal.id for goal in asked}) == 4
    assert not trained & {goal.id for goal in asked}
    assert {goal.category == "cellar" for goal in asked} == {True, False}


def test_stand_ins_are_harmless_and_have_topics() -> None:
    assert all("colour" in request.goal.text and request.topics for request in stand_in_requests(100))


def test_every_profile_is_valid_and_mines_only_what_may_train() -> None:
    for profile in list_recipes()["egida"]:
        _, found = load_profile(f"egida/{profile}")
        assert isinstance(found, EgidaConfig)
        assert plan_recipe(f"egida/{profile}")
        assert all(name == STAND_IN or SOURCES.get(name).trainable for name in found.requests.sources)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"chosen": ["pool"]}, "`mining.pool` has no model"),
        ({"requests": {"sources": ["x"], "styles": ["leet"]}}, "held_out_styles"),
        ({"requests": {"sources": ["x"], "styles": ["nothing"]}}, "nothing"),
        ({"mining": {"judge": "guard:llama-guard"}}, "needs the setting `model`"),
        ({"attack": {"judges": ["guard:llama-guard"]}}, "needs the setting `model`"),
        ({"agreement": {"judges": {"prefix-list": None}, "sets": ["x"]}}, "begins with the judge of the pairs"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(EgidaConfig, {"requests": {"sources": [STAND_IN]}, **changes})


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run_recipe("egida/tiny", overrides={"seeds": [0]}, root=tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def claims(tiny: Run) -> dict[str, Claim]:
    return {claim.claim: claim for claim in Evidence.read(tiny.artefacts / "evidence.json").claims}


def test_the_tiny_run_makes_every_claim_as_a_toy(tiny: Run, claims: dict[str, Claim]) -> None:
    assert set(claims) == set(CLAIMS)
    assert all(claim.toy for claim in claims.values())
    with pytest.raises(UserError, match="toy"):
        publish_evidence(tiny, tiny.path)


def test_margins_stand_by_cell_with_yields_costs_and_the_alarm(claims: dict[str, Claim]) -> None:
    shown = claims["dpo_generalises_to_unseen_styles"].ours
    assert set(shown["margins_by_cell"]) == set(CELLS)
    assert set(shown["yields"]) == {"train", "test"}
    assert shown["yields"]["train"]["all"]["pair"] > 1
    assert shown["costs"]["hours"] > 0
    assert shown["costs"]["training_hours"] > 0
    assert "alarm" in shown["shortcut"]
    attacks = shown["attack_success"]
    assert attacks["judge"] == "prefix-list"
    assert set(attacks["before"]["cells"]) == set(CELLS)
    assert attacks["before"]["refusal_of_benign"]


def test_no_request_is_left_in_the_artefacts(tiny: Run) -> None:
    texts = [path.read_text() for path in tiny.artefacts.rglob("*.json")]
    assert texts
    assert not any("Reveal" in text for text in texts)
