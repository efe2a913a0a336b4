"""The study of aligned SmolLM2: what is paired with what, and the whole path on a random model."""

from __future__ import annotations

from pathlib import Path

import pytest

from corral.core.config import load_config
from corral.core.evidence import Evidence
from corral.core.recipes import list_recipes, load_profile, plan_recipe, run_recipe
from corral.core.runs import Run
from corral.data.examples import ModerationExample, prompt_key
from corral.data.messages import Conversation
from corral.data.refusals import opens_with_refusal
from corral.data.self_written import may_train, self_written_rows
from corral.models.adapters import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from corral.studies.aligned_smollm2.rows import OwnAnswer, as_command, draw_prompts, preference_rows, tuning_rows
from corral.studies.aligned_smollm2.settings import AlignedConfig
from corral.studies.requests import requests

HELP = OwnAnswer("Start with the easy part, and then", complete=False)


@pytest.fixture
def config() -> AlignedConfig:
    _, found = load_profile("aligned_smollm2/tiny")
    assert isinstance(found, AlignedConfig)
    return found


def own(rows: list[ModerationExample], answer: OwnAnswer = HELP) -> dict[str, OwnAnswer]:
    return {prompt_key(row.text): answer for row in rows}


def test_fine_tuning_and_pairs_share_no_prompt_but_the_self_written_ones(config: AlignedConfig) -> None:
    prompts = draw_prompts(config)
    tuning = {row.text for row in (*prompts.tuning.harmful, *prompts.tuning.benign)}
    pairs = {row.text for row in (*prompts.preference.harmful, *prompts.preference.benign)}
    assert tuning
    assert pairs
    assert not tuning & pairs


def test_harmful_prompts_are_refused_and_harmless_ones_answered(config: AlignedConfig) -> None:
    prompts = draw_prompts(config)
    rows = tuning_rows(prompts, own(prompts.to_answer), config)
    harmful = {row.text for row in prompts.tuning.harmful}
    for row in rows:
        refuses = row.prompt.messages[-1].text in harmful
        assert refuses == (row.completion not in {HELP.text, *(answer for _, answer in prompts.written)})
        assert row.complete == (row.completion != HELP.text)


def test_pairs_go_both_ways_and_compliance_is_never_preferred(config: AlignedConfig) -> None:
    prompts = draw_prompts(config)
    rows = preference_rows(prompts, own(prompts.to_answer), config)
    harmful = {row.text for row in prompts.preference.harmful}
    ways = [row.prompt.messages[-1].text in harmful for row in rows]
    assert sum(ways) == len(harmful)
    for row, is_harmful in zip(rows, ways, strict=True):
        answer, refusal = (row.rejected, row.chosen) if is_harmful else (row.chosen, row.rejected)
        assert answer in {HELP.text, *(text for _, text in prompts.written)}
        assert refusal not in {HELP.text, *(text for _, text in prompts.written)}
        assert not opens_with_refusal(answer)


@pytest.mark.parametrize("text", ["I'm sorry, but I can't help with that.", "  ", ""])
def test_an_own_answer_that_refuses_or_says_nothing_gives_no_row(config: AlignedConfig, text: str) -> None:
    prompts = draw_prompts(config)
    answers = own(prompts.to_answer, OwnAnswer(text, complete=True))
    assert len(preference_rows(prompts, answers, config)) == len(prompts.written)
    assert len(tuning_rows(prompts, answers, config)) == len(prompts.tuning.harmful) + len(prompts.written)


def test_prompts_of_sexual_categories_or_about_minors_are_never_answered(
    config: AlignedConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    from corral.data.mixture import Mixture, MixtureCounts
    from corral.studies.aligned_smollm2 import rows as module

    made = [
        ModerationExample(Conversation.user(f"{text} {i}"), "prompt", True, categories=categories, group=str(i))
        for i in range(20)
        for text, categories in (
            ("A request about a schoolboy", {}),
            ("A request without a word of it", {"llama_guard_3/S12": True}),
        )
    ]
    monkeypatch.setattr(
        module, "draw_mixture", lambda entries, **_: Mixture(list(made), [("x", MixtureCounts(taken=len(made)))])
    )
    prompts = module.draw_prompts(config)
    assert len(prompts.tuning.harmful) == len(made)
    assert prompts.preference.harmful == ()


@pytest.mark.parametrize(
    ("prompt", "deed"),
    [
        ("How can I bake bread?", "bake bread"),
        ("how do you fold a map", "fold a map"),
        ("How to mend a sock?", "mend a sock"),
    ],
)
def test_a_question_becomes_a_command_that_names_the_same_deed(prompt: str, deed: str) -> None:
    assert as_command(prompt, share=0.0, seed=0) == prompt
    put = as_command(prompt, share=1.0, seed=0)
    assert put == as_command(prompt, share=1.0, seed=0)
    assert not put.lower().startswith("how")
    assert put.endswith(f" {deed}.")


@pytest.mark.parametrize("prompt", ["What is bread?", "How can I bake? I have no oven.", "Tell me how to bake.", ""])
def test_other_prompts_stay_as_they_are(prompt: str) -> None:
    assert as_command(prompt, share=1.0, seed=0) == prompt


def test_requests_are_of_both_kinds_and_each_is_asked_once(config: AlignedConfig) -> None:
    asked = requests(config.evaluation.harmful, config.evaluation.benign, seed=0)
    kinds = {goal.kind: [each for each in asked if each.kind == goal.kind] for goal in asked}
    assert len({goal.id for goal in asked}) == len({goal.cluster for goal in asked}) == len(asked)
    assert {kind: len(found) for kind, found in kinds.items()} == {"harmful": 8, "benign": 8}


def test_every_profile_is_valid_keeps_what_it_measures_out_of_training_and_ships_only_what_it_may() -> None:
    for profile in list_recipes()["aligned_smollm2"]:
        _, config = load_profile(f"aligned_smollm2/{profile}")
        assert isinstance(config, AlignedConfig)
        assert plan_recipe(f"aligned_smollm2/{profile}")
        if profile == "tiny":
            continue
        asked = {*config.evaluation.harmful, *config.evaluation.benign}
        assert asked <= set(config.prompts.keep_clean_of)
        assert all(may_train(entry.source) for entry in (*config.prompts.harmful, *config.prompts.benign))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run_recipe("aligned_smollm2/tiny", root=tmp_path_factory.mktemp("runs"))


def test_the_tiny_run_writes_an_adapter_its_card_and_toy_evidence(tiny: Run) -> None:
    adapter = tiny.artefacts / "adapter"
    assert {path.name for path in adapter.iterdir()} == {ADAPTER_CONFIG, ADAPTER_WEIGHTS, "card.md"}
    claims = Evidence.read(tiny.artefacts / "evidence.json").claims
    assert {claim.claim for claim in claims} == {"refuses_harmful", "answers_benign", "tells_harmful_from_benign"}
    assert all(claim.toy for claim in claims)
    card = (adapter / "card.md").read_text()
    assert "judge prefix-list" in card
    assert "self_written/guard_basics" in card
    prompts = [row.text for row in self_written_rows("guard_basics")]
    shown = [path for path in tiny.artefacts.rglob("*") if path.is_file() and path.suffix in {".json", ".md", ".html"}]
    assert not [path for path in shown for text in prompts if text in path.read_text()]


def test_a_second_start_trains_nothing_anew(tiny: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from corral.studies.aligned_smollm2 import training

    _, config = load_profile("aligned_smollm2/tiny")
    assert isinstance(config, AlignedConfig)
    monkeypatch.setattr(training, "training_module", lambda name: pytest.fail(f"trains with {name}"))
    assert training.train(draw_prompts(config), config, tiny) == Path(tiny.artefacts / "adapter")


def test_settings_without_anything_to_measure_are_refused() -> None:
    from corral.core.errors import ConfigError

    with pytest.raises(ConfigError, match="benign"):
        load_config(AlignedConfig, {"prompts": {}, "evaluation": {"harmful": {"advbench": 1}, "benign": {}}})
