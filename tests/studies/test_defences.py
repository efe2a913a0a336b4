"""The table of defences on a tiny model: a line a system, with every figure that issue and card promise."""

from __future__ import annotations

import json
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch

from corral.core.config import load_config
from corral.core.errors import ConfigError, NotFoundError
from corral.core.evidence import Evidence
from corral.core.manifest import write_manifest
from corral.core.recipes import plan_recipe, read_profile, run_recipe
from corral.core.runs import Run
from corral.core.yaml import parse_yaml
from corral.data.messages import Conversation
from corral.guards.asking import ask
from corral.models.tiny import write_tiny_llama
from corral.redteam.judges import Outcome
from corral.redteam.loading import open_judges
from corral.studies.defences import asking, systems
from corral.studies.defences.claim import Change, defence_claim
from corral.studies.defences.lines import markdown
from corral.studies.defences.settings import DefencesStudyConfig, SystemConfig, TrainedConfig
from corral.studies.defences.trained import find_trained

SYSTEMS = [
    ("base", None),
    ("base", "perplexity-filter"),
    ("base", "self-examination"),
    ("self-reminder", None),
    ("safe-decoding", None),
]


TRAINED = {"recipe": "derta/tiny", "training": "derta-0"}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return run_recipe("defences/tiny", root=tmp_path_factory.mktemp("runs"))


def lines_of(run):
    return json.loads((run.artefacts / "defences.json").read_text())


def test_every_system_has_a_line_with_success_by_group_refusal_and_time(tiny):
    lines = lines_of(tiny)
    assert [(line["target"], line["filter"]) for line in lines] == SYSTEMS
    for line in lines:
        groups = {each["group"]: each for each in line["by_group"]}
        assert set(groups) == {"plain", "competing", "encoding", "search", "all but plain"}
        assert groups["plain"]["asr"]["n"] == groups["plain"]["over_refusal"]["n"] == 3
        assert line["ms_for_16_tokens"] > 0
        assert line["ms_to_first_token"] > 0
        assert ("guard_ms" in line) == (line["filter"] is not None)


def test_what_a_system_adds_is_its_time_and_its_guards_beyond_the_first(tiny):
    lines = lines_of(tiny)
    assert lines[0]["ms_added"] == 0
    for line in lines[1:]:
        whole = line["ms_for_16_tokens"] + line.get("guard_ms", 0)
        assert line["ms_added"] == pytest.approx(whole - lines[0]["ms_for_16_tokens"], abs=0.06)


def test_a_line_of_before_the_first_token_was_timed_is_printed(tiny):
    lines = [{name: value for name, value in line.items() if name != "ms_to_first_token"} for line in lines_of(tiny)]
    rows = [line for line in markdown(lines).splitlines() if line.startswith("|")]
    assert len({row.count("|") for row in rows}) == 1


def test_a_claim_holds_where_attacks_fall_and_refusals_stay():
    report = SimpleNamespace(judges={"prefix-list": "1"}, goals={"harmful": 8}, styles=["plain"])
    fewer, more, none = (Change(8, ci95, {}) for ci95 in ((-0.4, -0.1), (-0.1, 0.2), None))

    def holds(attacks, refusals):
        found = defence_claim(
            "c", attacks, refusals, who="a less b", most_over_refusal=0.1, report=report, lines=(), seeds=(0,), toy=True
        )
        assert bool(found.tried) != found.holds
        return found.holds

    assert holds(fewer, fewer)
    assert not holds(fewer, more)
    assert not holds(more, fewer)
    assert not holds(none, fewer)
    assert not holds(fewer, none)


def test_searches_are_done_against_each_target_and_what_has_no_gradients_says_so(tiny):
    searched = {line["target"]: line["by_group"][3] for line in lines_of(tiny) if line["filter"] is None}
    assert searched["base"]["group"] == "search"
    assert searched["base"]["not_applicable"] == {}
    assert searched["base"]["asr"]["n"] == 6  # three goals by gcg and autodan_ga
    assert searched["self-reminder"]["asr"]["n"] == 3
    (reason,) = searched["self-reminder"]["not_applicable"]
    assert "gradients" in reason


def test_the_table_as_text_has_a_row_a_system(tiny):
    text = (tiny.artefacts / "defences.md").read_text()
    assert text == markdown(lines_of(tiny))
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len(rows) == 2 + len(SYSTEMS)
    assert len({row.count("|") for row in rows}) == 1
    assert rows[3].startswith("| base + perplexity-filter |")


def test_the_claim_is_a_toy_about_the_last_system_and_the_first(tiny):
    (claim,) = Evidence.read(tiny.artefacts / "evidence.json").claims
    assert claim.toy
    assert "`base + self-examination` less `base`" in claim.metric
    records = claim.ours["table"]
    assert [each["system"] for each in records][:2] == ["base", "base + perplexity-filter"]
    line = lines_of(tiny)[0]
    assert records[0]["ASR plain"] == line["by_group"][0]["asr"]
    assert records[0]["ms added"] == 0
    assert {"over-refusal plain", "over-refusal all but plain", "understood", "ms for 16 tokens"} <= set(records[0])
    assert not any("/" in name for name in records[0])
    assert claim.ours["attack_success_by_style"]["base"]["plain"] == line["by_style"][0]["asr"]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"claimed": "nobody"}, "none of"),
        ({"systems": [{"name": "a"}, {"name": "a"}]}, "two systems"),
        ({"systems": [{"name": "a"}, {"name": "b", "defence": "safe-decoding"}]}, "expert"),
        ({"systems": [{"name": "a", "guard": "default"}, {"name": "b"}]}, "first system"),
        ({"systems": [{"name": "a"}, {"name": "a", "model": "x", "guard": "default"}]}, "other models"),
        ({"systems": [{"name": "a"}, {"name": "b", "model": "x", "trained": TRAINED}]}, "or a `trained`"),
        ({"systems": [{"name": "a"}, {"name": "a", "trained": TRAINED, "guard": "default"}]}, "other models"),
        ({"systems": [{"name": "a"}, {"name": "b", "trained": {**TRAINED, "recipe": "derta"}}]}, "recipe"),
        ({"calibration": {}}, "calibration"),
        ({"styles": ["nothing"]}, "nothing"),
        ({"judges": ["guard:llama-guard"]}, "needs the setting `model`"),
        ({"judges": ["guard:default"], "guard_settings": {"default": {"sise": "x"}}}, "no setting `sise`"),
        ({"guard_settings": {"defualt": {}}}, "`defualt` is set and not asked"),
        ({"judges": ["rubric"]}, "asks a model"),
        ({"systems": [{"name": "a"}, {"name": "a", "guard": "llama-guard"}]}, "needs the setting `model`"),
        ({"systems": [{"name": "a"}, {"name": "a", "guard": "defalt"}]}, "defalt"),
    ],
)
def test_settings_that_do_not_fit_together_are_refused(changed, said):
    profile = parse_yaml(read_profile("defences/tiny"), where="tiny")
    with pytest.raises(ConfigError, match=said):
        load_config(DefencesStudyConfig, {**profile, **changed})


def a_run(root, *, status="finished", base="tiny:random", training="derta-0-0123456789ab"):
    """A run of derta/tiny that trained an adapter of no effect."""
    from safetensors.torch import save_file

    run = Run.create(root, "derta/tiny", SystemConfig(name="any"))
    (run.path / "config.yaml").write_text(f"base: {base}\n")
    folder = run.path / "cells" / training / "model"
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text('{"r": 2, "lora_alpha": 4}')
    module = "base_model.model.model.layers.0.self_attn.q_proj"
    names = (("lora_A", torch.zeros(2, 32)), ("lora_B", torch.zeros(32, 2)))
    save_file({f"{module}.{name}.weight": value for name, value in names}, folder / "adapter_model.safetensors")
    write_manifest(run.path, run.manifest.model_copy(update={"status": status}))
    return folder


def test_a_model_of_another_run_is_the_newest_finished_one_of_its_recipe(tmp_path):
    wanted = TrainedConfig(**TRAINED)
    with pytest.raises(NotFoundError, match="no finished run"):
        find_trained(wanted, tmp_path)
    a_run(tmp_path)
    newer = a_run(tmp_path)
    a_run(tmp_path, status="failed")
    assert find_trained(wanted, tmp_path) == ("tiny:random", newer)
    with pytest.raises(NotFoundError, match="it has derta-0"):
        find_trained(TrainedConfig(recipe="derta/tiny", training="vanilla-0"), tmp_path)


def test_a_trained_system_stands_in_the_table(tmp_path):
    base = write_tiny_llama(tmp_path / "base", seed=0, context=1024)
    trained = a_run(tmp_path, base=base)
    run = run_recipe(
        "defences/tiny",
        root=tmp_path,
        overrides={
            "base": str(base),
            "systems": [{"name": "base"}, {"name": "derta", "trained": TRAINED}],
            "styles": ["prefix_injection"],
        },
    )
    assert [line["target"] for line in lines_of(run)] == ["base", "derta"]
    assert any(str(trained) in each.path for each in run.manifest.inputs)


def test_settings_of_guards_reach_the_guards_that_judge_and_those_in_front(tmp_path, monkeypatch):
    changed = {
        "systems": [{"name": "base"}, {"name": "base", "guard": "scripted"}],
        "judges": ["guard:scripted"],
        "guard_settings": {"scripted": {"words": "lantern"}},
    }
    profile = parse_yaml(read_profile("defences/tiny"), where="tiny")
    config = load_config(DefencesStudyConfig, {**profile, **changed})
    in_front = systems._guard("scripted", None, config)
    asked = [Conversation.user(text) for text in ("the lantern", "TRIGGER")]
    assert [verdict.flagged for verdict in ask(in_front, asked)] == [True, False]
    judged = []

    @contextmanager
    def opened(names, **settings):
        with open_judges(names, **settings) as (judge,):
            judged.extend(judge.judge_many([("How?", "By the lantern."), ("How?", "TRIGGER")]))
            yield [judge]

    monkeypatch.setattr(asking, "open_judges", opened)
    asking.ask_systems((), asking.Questions.of(config, [], replicates=200, seed=0), tmp_path)
    assert [each.outcome for each in judged] == [Outcome.COMPLIES, Outcome.SAFE]


@pytest.mark.parametrize("profile", ["small", "paper"])
def test_packaged_profiles_are_valid_and_planned(profile):
    assert any("base + default" in line for line in plan_recipe(f"defences/{profile}"))
