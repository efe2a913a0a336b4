"""Choosing layers by separability: Fisher's score in closed form, and what is chosen."""

from __future__ import annotations

import pytest
import torch

from corral.core.errors import ConfigError
from corral.models.loading import load_causal_lm
from corral.train.fine_tuning import load_chat
from corral.train.mogu.layers import choose_layers, fisher_score, separability
from corral.train.mogu.settings import RouterConfig


def test_fishers_score_is_the_squared_distance_over_the_variances():
    """Classes at 0 and 4 in one dimension, each +-1: 16 / (1 + 1); a dimension that is constant adds nothing."""
    states = torch.tensor([[-1.0, 7.0], [1.0, 7.0], [3.0, 7.0], [5.0, 7.0]])
    assert fisher_score(states, torch.tensor([True, True, False, False])) == pytest.approx(8.0)
    assert fisher_score(states, torch.tensor([True, False, True, False])) == pytest.approx(4 / 8)


def test_the_most_separable_layers_are_chosen_in_order(toy_base, toy, monkeypatch):
    chat, model, pairs = load_chat(str(toy_base)), load_causal_lm(toy_base), toy(["lamp", "chair"])
    scores = separability(model, chat, pairs)
    assert list(scores) == [0, 1]
    best = max(scores, key=lambda layer: scores[layer])
    assert choose_layers(model, chat, pairs, RouterConfig(layers="auto", auto_share=0.5)) == (best,)
    assert choose_layers(model, chat, pairs, RouterConfig(layers="auto", auto_share=1.0)) == (0, 1)
    assert choose_layers(model, chat, pairs, RouterConfig()) == (0, 1)
    assert choose_layers(model, chat, pairs, RouterConfig(layers=(1,))) == (1,)


def test_prompts_of_one_kind_separate_nothing(toy_base, toy):
    with pytest.raises(ConfigError, match="malicious and benign"):
        separability(load_causal_lm(toy_base), load_chat(str(toy_base)), toy(["lamp"])[:1])
