"""The Latent Guard study on a tiny model that is trained to refuse: the path, its resume, and what steering does."""

from __future__ import annotations

import json

import numpy as np
import pytest

from corral.core.config import load_config
from corral.core.errors import ConfigError, DataError, UserError
from corral.core.evidence import Evidence
from corral.core.recipes import load_profile, plan_recipe, publish_evidence, run_recipe
from corral.data.messages import Conversation
from corral.guards.loading import load_guard
from corral.studies.latent_guard.rows import Pool, draw_pools, published_fit, published_test
from corral.studies.latent_guard.settings import CLAIMS, LatentGuardConfig, SteeringConfig
from corral.studies.latent_guard.steering import steering_moves_refusal
from corral.studies.latent_guard.templated import templated_prompts


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return run_recipe("latent_guard/tiny", root=tmp_path_factory.mktemp("runs"))


def test_the_tiny_run_makes_every_claim_as_a_toy(tiny) -> None:
    evidence = Evidence.read(tiny.artefacts / "evidence.json")
    assert {claim.claim for claim in evidence.claims} == set(CLAIMS)
    assert all(claim.toy for claim in evidence.claims)
    with pytest.raises(UserError, match="toy"):
        publish_evidence(tiny, tiny.path)


def test_its_centres_load_into_a_guard_that_tells_its_classes_apart(tiny) -> None:
    model, centres = str(tiny.path / "cells" / "refuser-0"), str(tiny.artefacts / "centres")
    guard = load_guard("latent-guard", model=model, centres=centres, window=128, overlap=16)
    rows = templated_prompts()[-40:]
    verdicts = guard.classify([row.conversation for row in rows])
    right = [verdict.flagged == row.harmful for verdict, row in zip(verdicts, rows, strict=True)]
    assert np.mean(right) > 0.9
    (verdict,) = guard.classify([Conversation.user(rows[0].text)])
    assert verdict.to_json()["state"].startswith("believed_")


def test_the_table_has_a_line_a_style_with_intervals_and_benign_controls(tiny) -> None:
    claims = {claim.claim: claim for claim in Evidence.read(tiny.artefacts / "evidence.json").claims}
    table = claims["jailbreak_table"].ours["styles"]
    assert [line["style"] for line in table] == ["plain", "prefix_injection", "reverse"]
    for line in table:
        for kind in ("harmful", "benign"):
            for belief in ("harm", "refuse"):
                low, high = line[f"{kind} shift of delta_{belief}"]["ci95"]
                assert low <= line[f"{kind} shift of delta_{belief}"]["value"] <= high


def test_rows_texts_and_activations_are_not_left_in_the_artefacts(tiny) -> None:
    account = json.loads((tiny.artefacts / "rows.json").read_text())
    assert account["fit"]["rows"] == 96
    assert "text" not in json.dumps(account)
    assert not (tiny.path / "activations").exists()


@pytest.mark.slow
def test_adding_the_refusal_direction_raises_refusal_and_ablating_it_lowers_it(tmp_path) -> None:
    """Three tiny models, as the paper's companion has it; each must do both."""

    class Study:
        config = load_config(LatentGuardConfig, {"data": "templated", "steering": SteeringConfig().model_dump()})

        class run:
            path = tmp_path

    claim = steering_moves_refusal(Study)  # type: ignore[arg-type]
    assert claim.seeds == (0, 1, 2)
    for rates in claim.ours["models"]:
        assert rates["harmful"] > 0.8
        assert rates["harmless"] < 0.2
        assert rates["added"] > rates["harmless"]
        assert rates["ablated"] < rates["harmful"]
        assert rates["reversed"] < rates["harmful"]
    assert claim.holds


def test_every_profile_is_valid_and_says_what_it_will_do() -> None:
    for profile in ("tiny", "small", "paper"):
        _, config = load_profile(f"latent_guard/{profile}")
        assert isinstance(config, LatentGuardConfig)
        assert plan_recipe(f"latent_guard/{profile}")


def test_what_ships_is_fitted_on_sources_that_may_ship() -> None:
    _, config = load_profile("latent_guard/small", ["fit=[{source: advbench}]"])
    with pytest.raises(ConfigError, match="evaluation only"):
        draw_pools(config)


def test_a_claim_without_its_data_is_refused_before_anything_is_run() -> None:
    with pytest.raises(ConfigError, match="jailbreak_table"):
        load_config(LatentGuardConfig, {"claims": ["jailbreak_table"], "pairs": ["jailbreakbench"]})


def test_splits_keep_groups_whole_and_the_test_half_is_the_same_for_every_seed() -> None:
    pool = Pool("published", tuple(templated_prompts()[:200]))
    test = published_test(pool)
    for seed in range(3):
        assert not (published_fit(pool, seed=seed) & test).any()
    assert 60 < test.sum() < 140
    assert (published_fit(pool, seed=0) != published_fit(pool, seed=1)).any()


def test_a_pool_of_one_class_is_refused(monkeypatch) -> None:
    from corral.studies.latent_guard import rows

    harmful = tuple(row for row in templated_prompts() if row.harmful)[:20]
    monkeypatch.setattr(rows, "_templated_pools", lambda: [Pool("fit", harmful)])
    with pytest.raises(DataError, match="one label"):
        draw_pools(load_config(LatentGuardConfig, {"data": "templated"}))
