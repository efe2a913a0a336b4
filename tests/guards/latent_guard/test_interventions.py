"""The selector, the reply inversion and the sweep do what they say, on a tiny random model."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from corral.core.errors import ConfigError, DataError
from corral.data.messages import Conversation
from corral.guards.latent_guard.directions import RefusalData, mean_kl, select_refusal_direction
from corral.guards.latent_guard.interventions import (
    QUESTIONS,
    inversion,
    inversion_prompt,
    says_no,
    steering_sweep,
)
from corral.guards.latent_guard.next_token import next_token_logits
from corral.models.steering import steered

THINGS = ("lamp", "chair", "boat", "clock", "vase", "bike", "drum", "kite", "tent", "bench")
HARMFUL = tuple(f"XX {thing} XX" for thing in THINGS)  # as in conftest
HARMLESS = tuple(f"oo {thing} oo" for thing in THINGS)


def users(texts):
    return tuple(Conversation.user(text) for text in texts)


def test_next_token_logits_are_those_of_the_model_alone(reader):
    sequences = [reader.locate(c).ids for c in users(("a", "a longer prompt", "mid one"))]
    found = next_token_logits(reader.engine, sequences, batch_tokens=40)
    for ids, logits in zip(sequences, found, strict=True):
        with torch.no_grad():
            expected = reader.engine.model(torch.tensor([ids])).logits[0, -1]
        torch.testing.assert_close(logits, expected, atol=1e-5, rtol=0)


def test_only_what_stands_before_the_question_is_steered(reader):
    engine = reader.engine
    prompts = [inversion_prompt(engine, text, QUESTIONS[0]) for text in ("mend a lamp", "paint the old chair")]
    for prompt in prompts:
        assert engine.chat.decode(prompt.ids[prompt.steered :]).lstrip().startswith(QUESTIONS[0][:10])
    vector = np.ones(reader.engine.model.config.hidden_size, dtype=np.float32) * 5
    by_hand = []
    no, certainly = (engine.chat.encode_text(word)[0] for word in ("No", "Certainly"))
    for prompt in prompts:
        mask = torch.arange(len(prompt.ids))[None] < prompt.steered
        with torch.no_grad(), steered(engine.model.base_model, torch.tensor(vector), layer=1, positions=mask):
            logits = engine.model(torch.tensor([prompt.ids])).logits[0, -1]
        by_hand.append(bool(logits[no] > logits[certainly]))
    assert says_no(engine, prompts, vector_D=vector, layer=1) == by_hand


def test_inversion_reports_every_direction_and_layer(reader):
    size = reader.engine.model.config.hidden_size
    shares = inversion(reader.engine, ["mend a lamp"], {"v": np.zeros((4, size))}, layers=[0, 2], questions=QUESTIONS)
    assert set(shares) == {"none", "v"}
    assert shares["v"] == {0: shares["none"][-1], 2: shares["none"][-1]}  # a zero vector changes nothing


def test_an_empty_instruction_has_no_inversion(reader):
    with pytest.raises(DataError, match="empty"):
        inversion_prompt(reader.engine, " ", QUESTIONS[0])


def test_a_sweep_gives_a_rate_a_layer(reader):
    vectors = np.zeros((4, reader.engine.model.config.hidden_size))
    rates = steering_sweep(
        reader.engine, users(HARMLESS[:2]), vectors, layers=[0, 1], refuses=lambda reply: True, max_new_tokens=2
    )
    assert rates == {0: 1.0, 1: 1.0}


def test_kl_equals_its_definition_and_is_zero_on_itself():
    base, changed = torch.tensor([[0.0, 1.0, 2.0]]), torch.tensor([[2.0, 1.0, 0.0]])
    p, q = base.softmax(-1)[0], changed.softmax(-1)[0]
    assert mean_kl(base, changed) == pytest.approx(float((p * (p / q).log()).sum()), abs=1e-6)
    assert mean_kl(base, base) == 0.0


def test_the_chosen_direction_is_the_eligible_one_with_the_lowest_score_after_ablation(reader):
    data = RefusalData(users(HARMFUL), users(HARMLESS), users(HARMFUL[:4]), users(HARMLESS[:4]))
    chosen, candidates = select_refusal_direction(reader, data, max_kl=float("inf"), min_added=-float("inf"))
    assert chosen.ablated == min(each.ablated for each in candidates)
    assert {each.layer for each in candidates} <= {0, 1}
    assert all(each.position < 0 for each in candidates)
    assert all(np.linalg.norm(each.direction_D) > 0 for each in candidates)


def test_no_eligible_direction_and_forbidden_layers_are_errors(reader):
    data = RefusalData(users(HARMFUL), users(HARMLESS), users(HARMFUL[:4]), users(HARMLESS[:4]))
    with pytest.raises(DataError, match="none of"):
        select_refusal_direction(reader, data, min_added=float("inf"))
    with pytest.raises(ConfigError, match="top fifth"):
        select_refusal_direction(reader, data, layers=[2])
    with pytest.raises(DataError, match="a direction needs 8"):
        select_refusal_direction(reader, RefusalData(users(HARMFUL[:3]), users(HARMLESS), (), ()))
