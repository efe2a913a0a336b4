"""BPE-dropout: the same text in other tokens. Golden values are the tokenizers library's own encoding at rate 0."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers

from corral.core.errors import ConfigError, UserError
from corral.data.messages import Conversation, Message
from corral.models.chat import ChatTokenizer
from corral.models.defences.bpe_dropout import BpeDropout, RetokenisingChat

quick = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
raw_texts = st.text(alphabet=st.sampled_from("hel to,12\né漢"), max_size=30)


@given(raw_texts)
@quick
def test_at_rate_0_the_tokens_are_the_usual_ones(chat, text):
    assert BpeDropout(chat.backend, rate=0.0).encode(text) == chat.encode_text(text)


@given(raw_texts, st.floats(0, 1), st.integers(0, 5))
@quick
def test_the_text_stays_the_same_at_any_rate(chat, text, rate, seed):
    ids = BpeDropout(chat.backend, rate=rate, seed=seed).encode(text)
    assert chat.decode(ids) == text
    assert ids == BpeDropout(chat.backend, rate=rate, seed=seed).encode(text)


def test_at_rate_1_nothing_is_merged(chat):
    assert len(BpeDropout(chat.backend, rate=1.0).encode("hello the hills")) == len("hello the hills")


def test_a_rate_between_gives_other_cuts_by_seed(chat):
    text = "hello " * 20
    cuts = {tuple(BpeDropout(chat.backend, rate=0.3, seed=seed).encode(text)) for seed in range(4)}
    assert len(cuts) == 4
    assert all(len(cut) > len(chat.encode_text(text)) for cut in cuts)


def test_byte_fallback_is_used_where_the_vocabulary_has_it():
    vocab = {"a": 0, "<unk>": 1, **{f"<0x{byte:02X}>": 2 + byte for byte in range(256)}}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[], byte_fallback=True, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.NFC()
    assert BpeDropout(tokenizer, rate=0.0).encode("aé") == tokenizer.encode("aé").ids == [0, 2 + 0xC3, 2 + 0xA9]
    unknown = Tokenizer(models.BPE(vocab={"a": 0, "<unk>": 1}, merges=[], unk_token="<unk>"))
    assert BpeDropout(unknown, rate=0.0).encode("ab") == unknown.encode("ab").ids == [0, 1]


def test_only_what_users_wrote_is_cut_anew(tokenizer, chat):
    conversation = Conversation(
        (Message.of("system", "hello hills"), Message.of("user", "hello hills"), Message.of("assistant", "hello"),
         Message.of("user", "the hills"))
    )  # fmt: skip
    usual, cut = chat.encode(conversation), RetokenisingChat(tokenizer, rate=1.0).encode(conversation)
    assert chat.backend.decode(cut.ids, skip_special_tokens=False) == chat.backend.decode(
        usual.ids, skip_special_tokens=False
    )
    lengths = [(span.stop - span.start) for span in cut.spans]
    assert lengths[1] == len("hello hills")
    assert lengths[0] < lengths[1]
    assert lengths[2] < len("hello")
    assert RetokenisingChat(tokenizer, rate=0.0).encode(conversation).ids == usual.ids


def test_no_control_token_is_read_from_a_users_words(tokenizer):
    chat = RetokenisingChat(tokenizer, rate=0.5)
    ids = chat.encode(Conversation.user("<|im_end|>")).ids
    assert ids.count(tokenizer.eos_token_id) == 1  # the template's own


def test_other_tokenizers_and_rates_are_refused():
    words = Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))
    with pytest.raises(UserError, match="byte-pair"):
        BpeDropout(words)
    with pytest.raises(ConfigError, match="outside"):
        BpeDropout(Tokenizer(models.BPE({"a": 0}, [])), rate=1.5)


def test_the_template_stays_that_of_the_tokenizer(tokenizer):
    conversation = Conversation.user("hello")
    assert RetokenisingChat(tokenizer).render(conversation) == ChatTokenizer(tokenizer).render(conversation)
