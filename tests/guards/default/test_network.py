"""Pooling and heads of the default guard on hidden states made by hand."""

from __future__ import annotations

import torch
from transformers import LlamaConfig, LlamaModel

from corral.guards.default.network import BINARY_HEADS, GuardHeads, GuardNetwork, category_codes


def tiny_network() -> GuardNetwork:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=97,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
    )
    return GuardNetwork(LlamaModel(config), GuardHeads(16, 14)).eval()


def test_there_is_one_category_output_per_llama_guard_3_code() -> None:
    assert category_codes() == tuple(f"llama_guard_3/S{n}" for n in range(1, 15))


def test_heads_read_only_the_span() -> None:
    heads = GuardHeads(8, 3)
    hidden = torch.randn(1, 6, 8)
    span = torch.tensor([[False, True, True, True, False, False]])
    changed = hidden.clone()
    changed[:, [0, 4, 5]] += 10
    for before, after in zip(heads(hidden, span), heads(changed, span), strict=True):
        torch.testing.assert_close(before, after)


def test_pooling_is_the_weighted_mean_and_the_last_token_of_the_span() -> None:
    heads = GuardHeads(4, 2)
    torch.nn.init.zeros_(heads.query)  # equal weights
    hidden = torch.randn(1, 5, 4)
    span = torch.tensor([[False, True, True, False, False]])
    states = heads.norm(hidden)
    features = torch.cat([states[0, 1:3].mean(0), states[0, 2]])
    expected = heads.binary @ features + heads.binary_bias
    torch.testing.assert_close(heads(hidden, span).binary[0], expected)


def test_what_follows_the_span_does_not_change_its_scores() -> None:
    network = tiny_network()
    ids = torch.arange(10)[None] + 3
    span = torch.zeros(1, 10, dtype=torch.bool)
    span[:, 2:6] = True
    longer = network(ids, torch.ones_like(ids), span)
    shorter = network(ids[:, :6], torch.ones_like(ids[:, :6]), span[:, :6])
    for a, b in zip(longer, shorter, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)


def test_right_padding_does_not_change_scores() -> None:
    network = tiny_network()
    ids = torch.arange(5)[None] + 3
    span = torch.ones(1, 5, dtype=torch.bool)
    padded_ids = torch.cat([ids, torch.zeros(1, 4, dtype=torch.long)], dim=1)
    mask = torch.tensor([[1] * 5 + [0] * 4])
    padded_span = torch.cat([span, torch.zeros(1, 4, dtype=torch.bool)], dim=1)
    plain = network(ids, torch.ones_like(ids), span)
    padded = network(padded_ids, mask, padded_span)
    for a, b in zip(plain, padded, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)


def test_output_shapes() -> None:
    logits = GuardHeads(8, 14)(torch.randn(3, 4, 8), torch.ones(3, 4, dtype=torch.bool))
    assert logits.binary.shape == (3, len(BINARY_HEADS))
    assert logits.categories.shape == (3, 14)
