"""Perplexity and bits per byte agree with closed forms and with one long forward pass."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from corral.core.errors import ConfigError, DataError
from corral.models.engines.torch import TorchEngine
from corral.models.scoring import TextLikelihood, rolling_windows, text_likelihoods

TEXT = "hello the hills, née 12 tell"


@pytest.fixture(scope="module")
def engine(llama, chat):
    return TorchEngine(llama, chat)


@given(st.lists(st.integers(0, 9), min_size=1, max_size=60), st.integers(2, 12), st.data())
def test_windows_score_each_token_once_and_read_no_more_than_they_may(ids, window, data):
    overlap = data.draw(st.integers(0, window - 1))
    pairs = list(rolling_windows(ids, -1, window=window, overlap=overlap))
    assert [token for _, targets in pairs for token in targets] == ids
    sequence = [-1, *ids]
    position = 1
    for context, targets in pairs:
        assert len(context) + len(targets) - 1 <= window
        assert sequence[position - len(context) : position] == context
        assert len(context) >= min(overlap + 1, position)
        position += len(targets)


def test_a_uniform_model_has_the_vocabulary_as_perplexity(llama, chat):
    flat = copy.deepcopy(llama)
    torch.nn.init.zeros_(flat.lm_head.weight)
    (score,) = text_likelihoods(TorchEngine(flat, chat), [TEXT])
    vocabulary = flat.config.vocab_size
    assert score.tokens == len(chat.encode_text(TEXT))
    assert score.bytes == len(TEXT.encode())
    assert score.perplexity == pytest.approx(vocabulary, rel=1e-5)
    assert score.bits_per_byte == pytest.approx(score.tokens * math.log2(vocabulary) / score.bytes, rel=1e-5)


def test_one_window_equals_one_forward_pass(engine, llama, chat):
    ids = [chat.tokenizer.bos_token_id, *chat.encode_text(TEXT)]
    logprobs = llama(torch.tensor([ids])).logits[0].log_softmax(dim=-1)
    expected = sum(logprobs[i, ids[i + 1]].item() for i in range(len(ids) - 1))
    (score,) = text_likelihoods(engine, [TEXT])
    assert score.nats == pytest.approx(expected, abs=1e-3)


def test_windows_with_all_the_context_equal_one_forward_pass(engine):
    (whole,) = text_likelihoods(engine, [TEXT])
    # With the largest overlap every later window scores one token after as much context as the window holds.
    (windowed,) = text_likelihoods(engine, [TEXT], window=whole.tokens, overlap=whole.tokens - 1)
    assert windowed.nats == pytest.approx(whole.nats, abs=1e-3)
    (short,) = text_likelihoods(engine, [TEXT], window=4)
    assert short.tokens == whole.tokens
    assert short.nats != pytest.approx(whole.nats, abs=1e-2)


def test_a_corpus_is_the_sum_of_its_texts(engine):
    scores = text_likelihoods(engine, [TEXT, "tell"], window=8, overlap=2)
    assert scores[0] + scores[1] == TextLikelihood(
        scores[0].nats + scores[1].nats, scores[0].tokens + scores[1].tokens, scores[0].bytes + scores[1].bytes
    )


def test_settings_that_cannot_be_met_and_empty_texts_are_refused(engine):
    for settings in ({"window": 161}, {"window": 4, "overlap": 4}, {"window": 4, "overlap": -1}):
        with pytest.raises(ConfigError, match="need 0 <= overlap"):
            text_likelihoods(engine, [TEXT], **settings)
    with pytest.raises(DataError, match=r"texts\[1\]"):
        text_likelihoods(engine, [TEXT, ""])
