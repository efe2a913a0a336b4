"""The refusal token in a model's vocabulary, and the loss that asks for it: held to double loops."""

from __future__ import annotations

import pytest
import torch

from corral.core.errors import ConfigError
from corral.models.chat import ChatTokenizer
from corral.models.loading import load_tokenizer
from corral.models.tiny import write_tiny_llama
from corral.train.objectives.refusal import refusal_log_probs, resolve_refusal_token, transition_loss


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> ChatTokenizer:
    folder = write_tiny_llama(
        tmp_path_factory.mktemp("models") / "words", words_of=["Sorry", "the sky is so wide. Sorry about that."] * 3
    )
    return ChatTokenizer(load_tokenizer(folder))


def test_a_word_of_one_token_is_that_token(chat: ChatTokenizer) -> None:
    token = resolve_refusal_token(chat)
    assert token.whole
    assert token.text == "Sorry"
    assert chat.encode_text("Sorry") == [token.id]
    assert token.to_json() == {"id": token.id, "text": "Sorry", "word": "Sorry", "whole": True}


def test_a_word_after_a_space_is_another_token(chat: ChatTokenizer) -> None:
    spaced = resolve_refusal_token(chat, variant="spaced")
    assert spaced.text == " Sorry"
    assert spaced.id != resolve_refusal_token(chat).id


def test_of_a_word_of_several_tokens_the_first_piece_stands_and_says_so(chat: ChatTokenizer) -> None:
    token = resolve_refusal_token(chat, "Unfortunately")
    assert not token.whole
    assert token.id == chat.encode_text("Unfortunately")[0]


@pytest.mark.parametrize("word", ["", "  "])
def test_a_word_without_tokens_is_refused(chat: ChatTokenizer, word: str) -> None:
    with pytest.raises(ConfigError, match="no tokens"):
        resolve_refusal_token(chat, word)


def test_the_loss_is_the_double_loop_over_rows_and_places() -> None:
    """``- sum_t log P(R | q, h_<t)`` by hand, softmax by softmax; t = 1, right after the prompt, is included."""
    generator = torch.Generator().manual_seed(0)
    logits_BTV = torch.randn(3, 7, 11, generator=generator, dtype=torch.float64)
    answer_BT = torch.zeros(3, 7, dtype=torch.bool)
    answer_BT[0, 2:7] = answer_BT[1, 4:6] = answer_BT[2, 1:2] = True
    by_hand = 0.0
    for b in range(3):
        for t in range(7):
            if answer_BT[b, t]:
                by_hand -= float(torch.log(torch.softmax(logits_BTV[b, t - 1], dim=0)[5]))
    assert float(transition_loss(logits_BTV, answer_BT, 5)) == pytest.approx(by_hand, abs=1e-12)


def test_several_refusal_tokens_count_by_the_mean_of_their_log_probabilities() -> None:
    logits = torch.randn(2, 3, 6, generator=torch.Generator().manual_seed(1))
    each = [refusal_log_probs(logits, [token]) for token in (1, 4)]
    torch.testing.assert_close(refusal_log_probs(logits, [1, 4]), (each[0] + each[1]) / 2)


def test_half_precision_logits_are_summed_in_single() -> None:
    logits = torch.randn(1, 2, 500, generator=torch.Generator().manual_seed(2)).bfloat16()
    assert refusal_log_probs(logits, [3]).dtype is torch.float32
