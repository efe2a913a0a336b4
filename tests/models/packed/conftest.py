"""A tiny random Llama with grouped queries, and log-probabilities by brute force."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

VOCABULARY = 97


def tiny_llama(dtype=torch.float32, *, spread=0.2):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=48,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=6,
        num_key_value_heads=2,
        max_position_embeddings=512,
        initializer_range=spread,
        tie_word_embeddings=False,
    )
    return LlamaForCausalLM(config).eval().to(dtype)


def brute_force(model, sequence, label):
    """The sum of the label's token log-probabilities from one pass of transformers' model over the whole."""
    with torch.inference_mode():
        logprobs = model(torch.tensor([[*sequence, *label]])).logits[0].double().log_softmax(-1)
    return sum(logprobs[len(sequence) - 1 + i, token].item() for i, token in enumerate(label))


@pytest.fixture(scope="session")
def make_llama():
    return tiny_llama


@pytest.fixture(scope="session")
def llama():
    return tiny_llama()


@pytest.fixture(scope="session")
def expected(llama):
    """Log-probabilities of labels after sequences, each computed on its own."""
    return lambda sequences, labels: [tuple(brute_force(llama, s, label) for label in labels) for s in sequences]
