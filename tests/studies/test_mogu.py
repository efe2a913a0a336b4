"""The MoGU study on a tiny model: the path, its resume, and what its files say."""

from __future__ import annotations

import json

import pytest

from corral.core.config import load_config
from corral.core.errors import ConfigError, DataError, UserError
from corral.core.evidence import Evidence
from corral.core.recipes import load_profile, plan_recipe, publish_evidence, run_recipe
from corral.data.messages import Conversation
from corral.models.engines.base import GenerationSettings
from corral.models.engines.first_tokens import FirstTokensSwitch
from corral.models.engines.loading import load_engine
from corral.studies.defences.lines import as_records, by_style
from corral.studies.mogu.rows import draw_instructions, gate_sets
from corral.studies.mogu.settings import CLAIMS, DEFENCES, FILTERS, MoguStudyConfig


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return run_recipe("mogu/tiny", root=tmp_path_factory.mktemp("runs"))


def claims_of(run):
    return {claim.claim: claim for claim in Evidence.read(run.artefacts / "evidence.json").claims}


def test_the_tiny_run_makes_every_claim_as_a_toy(tiny):
    claims = claims_of(tiny)
    assert set(claims) == set(CLAIMS)
    assert all(claim.toy for claim in claims.values())
    with pytest.raises(UserError, match="toy"):
        publish_evidence(tiny, tiny.path)


def test_every_identity_holds(tiny):
    claim = claims_of(tiny)["identity_tests"]
    assert [check["identity"] for check in claim.ours if not check["holds"]] == []
    assert claim.holds
    assert claim.n == 9


def lines_of(run):
    return json.loads((run.artefacts / "defences.json").read_text())


def test_the_table_has_a_line_a_system_with_intervals(tiny):
    lines = lines_of(tiny)
    assert {(line["target"], line["filter"]) for line in lines} == {
        ("base", None),
        ("mogu-0", None),
        *((name, None) for name in DEFENCES),
        *(("base", name) for name in FILTERS),
    }
    for line in lines:
        assert [each["style"] for each in line["by_style"]] == ["plain", "prefix_injection", "all but plain"]
        assert line["ms_for_16_tokens"] > 0
        for each in line["by_style"]:
            assert each["asr"]["n"] == each["over_refusal"]["n"] == 8
    claim = claims_of(tiny)["defence_table"]
    assert claim.ours["table"] == as_records(lines)
    assert claim.ours["attack_success_by_style"] == by_style(lines)


def test_the_mixture_refuses_the_forbidden_topic_and_complies_with_the_other_as_before(tiny):
    plain = {line["target"]: line["by_style"][0] for line in lines_of(tiny) if line["filter"] is None}
    assert plain["base"]["asr"]["value"] == 1.0
    assert plain["mogu-0"]["asr"]["value"] <= 0.25
    assert plain["mogu-0"]["over_refusal"]["value"] <= 0.25


def test_the_gates_are_told_by_layer_for_benign_malicious_and_attacked_prompts(tiny):
    layers = json.loads((tiny.artefacts / "gates.json").read_text())["0"]
    assert set(layers) == {"templated", "attacked by prefix_injection"}
    for line in layers["templated"]:
        assert all(0 < line[kind][gate] < 1 for kind in ("benign", "malicious") for gate in ("a", "b"))
    claim = claims_of(tiny)["gates_separate_malicious"]
    table = claim.ours["sets"]["templated"]
    assert table["ci95"][0] <= table["gates"] <= table["ci95"][1]
    assert 0 <= table["probe"] <= 1


def test_the_kept_model_answers_as_a_switch_and_has_no_eager_expert(tiny):
    engine = load_engine(tiny.artefacts / "model")
    assert isinstance(engine, FirstTokensSwitch)
    assert engine.generate([Conversation.user("Hello")], GenerationSettings(max_new_tokens=8))
    assert not (tiny.artefacts / "model" / "glad.safetensors").exists()


def test_the_stages_say_what_their_checkpoints_scored(tiny):
    stages = json.loads((tiny.path / "report.json").read_text())["stages"]["0"]
    assert set(stages) == {"unwill", "router"}
    for stage in stages.values():
        assert str(stage["chosen"]) in stage["scores"]
        assert stage["stopped"] == ""


def test_texts_are_not_left_in_the_artefacts(tiny):
    held = gate_sets(load_profile("mogu/tiny")[1])["templated"][0].text
    for path in tiny.artefacts.rglob("*.json"):
        assert held not in path.read_text()


def test_training_and_measuring_prompts_do_not_meet_and_differ_by_seed():
    _, config = load_profile("mogu/tiny")
    instructions = draw_instructions(config)
    first, second = (instructions.draw(config, seed) for seed in (0, 1))
    assert first != second
    measured = {row.text for rows in gate_sets(config).values() for row in rows}
    for drawn in (first, second):
        assert sum(bool(row.harmful) for row in drawn.train) == len(drawn.train) / 2 == 32
        assert not {row.text for row in drawn.train} & {row.text for row in drawn.validation}
        assert not {row.text for row in (*drawn.train, *drawn.validation)} & measured
    with pytest.raises(DataError, match="are asked for"):
        instructions.draw(config.model_copy(update={"prompts": config.prompts.model_copy(update={"train": 999})}), 0)


@pytest.mark.parametrize("profile", ["tiny", "small", "paper"])
def test_every_profile_is_read_and_planned(profile):
    assert plan_recipe(f"mogu/{profile}")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "neither sources"),
        ({"defences": {"styles": ["nothing"]}}, "nothing"),
        ({"data": "templated", "training": {"glad": {"mode": "trained"}}}, "go together"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        load_config(MoguStudyConfig, values)
