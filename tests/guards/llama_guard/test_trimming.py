"""A guard's model with its head cut to its verdicts: the same scores, and no mass that says too much."""

import pytest
import torch

from corral.core.errors import ConfigError, RunError
from corral.data.messages import Conversation
from corral.guards.base import Status
from corral.guards.llama_guard.guard import LlamaGuard
from corral.guards.llama_guard.prompts import PolicyPrompt
from corral.guards.loading import load_guard
from corral.models.engines.scripted import ScriptedEngine
from corral.models.head_trimming import TrimmedHead

TAXONOMY = {"Fraud": "", "Spoilers": ""}
TEXTS = [Conversation.user(text) for text in ("hi", "a longer message", "?" * 60)]


@pytest.fixture(scope="module")
def whole(word_engine):
    return LlamaGuard(word_engine, PolicyPrompt.of("3", TAXONOMY), min_mass=0.0)


@pytest.fixture(scope="module")
def trimmed(whole, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trimmed") / "Llama-Guard-3-1B"
    assert whole.save_trimmed(folder) == folder
    return folder


def test_scores_of_labels_of_one_token_are_those_of_the_whole_model(whole, trimmed):
    guard = load_guard("llama-guard", model=trimmed, taxonomy=TAXONOMY, label_prefix="", min_mass=0.0)
    head = guard.engine.model.get_output_embeddings()
    assert isinstance(head, TrimmedHead)
    assert head.weight.shape[0] < whole.engine.model.get_output_embeddings().weight.shape[0]
    for ours, full in zip(guard.classify(TEXTS), whole.classify(TEXTS), strict=True):
        assert ours.p_harm == pytest.approx(full.p_harm, abs=1e-5)
        assert (ours.status, ours.flagged) == (full.status, full.flagged)


def test_a_mass_that_means_nothing_is_refused_or_left_out(trimmed):
    with pytest.raises(ConfigError, match="trimmed") as caught:
        load_guard("llama-guard", model=trimmed, taxonomy=TAXONOMY)
    assert caught.value.where == "min_mass"
    (verdict,) = load_guard("llama-guard", model=trimmed, taxonomy=TAXONOMY, min_mass=0.0).classify(TEXTS[:1])
    assert (verdict.status, verdict.mass, verdict.p_raw) == (Status.OK, None, None)


def test_a_policy_whose_codes_were_cut_off_is_refused(trimmed):
    with pytest.raises(ConfigError, match="lacks 1 tokens"):
        load_guard("llama-guard", model=trimmed, taxonomy={**TAXONOMY, "Weapons": ""}, label_prefix="", min_mass=0.0)


def test_the_guards_own_model_stays_whole(whole, tmp_path):
    model = whole.engine.model
    before = whole.classify(TEXTS[:1])[0]
    head = model.get_output_embeddings()
    whole.save_trimmed(tmp_path / "trimmed")
    assert model.get_output_embeddings() is head
    with pytest.raises(RunError):
        whole.save_trimmed(tmp_path / "trimmed")
    assert model.get_output_embeddings() is head
    assert whole.classify(TEXTS[:1])[0].p_raw == before.p_raw
    assert isinstance(head, torch.nn.Linear)


def test_a_model_on_a_server_cannot_be_trimmed(tmp_path):
    guard = LlamaGuard(ScriptedEngine({}), PolicyPrompt.of("3", TAXONOMY))
    with pytest.raises(ConfigError, match="in this process"):
        guard.save_trimmed(tmp_path / "trimmed")
