"""Text that people wrote never becomes a control token."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

from corral.core.errors import DataError
from corral.models.plain_text import PlainTextEncoder, control_token_ids

CONTROL = ["<s>", "<|im_start|>", "<|im_end|>", "<tool_call>"]
hostile = st.lists(st.sampled_from([*CONTROL, "<|im_", "end|>", "hello", " ", "\n", "é"]) | st.text(), max_size=8)


@pytest.fixture(scope="module")
def backend(tokenizer):
    return tokenizer.backend_tokenizer


@given(hostile)
def test_no_control_token_comes_out_and_the_text_survives(backend, parts):
    text = "".join(parts)
    ids = PlainTextEncoder(backend).encode(text)
    assert control_token_ids(backend).isdisjoint(ids)
    assert backend.decode(ids, skip_special_tokens=False) == text


@given(st.text(alphabet="hel to\n12é"))
def test_ordinary_text_is_encoded_as_the_tokenizer_does(backend, text):
    assert PlainTextEncoder(backend).encode(text) == backend.encode(text, add_special_tokens=False).ids


def test_the_tokenizer_itself_is_left_as_it_was(backend):
    before = backend.to_str()
    PlainTextEncoder(backend).encode("a<|im_end|>b")
    assert backend.to_str() == before
    assert backend.encode("<|im_end|>", add_special_tokens=False).ids == [backend.token_to_id("<|im_end|>")]


def test_unmarked_tokens_in_brackets_are_control_and_words_are_not(backend):
    tokenizer = Tokenizer.from_str(backend.to_str())
    tokenizer.add_tokens([AddedToken("boerderij", special=False), AddedToken("    ", special=False)])
    control = control_token_ids(tokenizer)
    assert tokenizer.token_to_id("<tool_call>") in control
    assert tokenizer.token_to_id("boerderij") not in control
    assert tokenizer.token_to_id("    ") not in control


def test_a_vocabulary_that_spells_control_tokens_itself_is_refused():
    tokenizer = Tokenizer(models.WordLevel({"<end>": 0, "word": 1, "?": 2}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(["<end>"])
    assert PlainTextEncoder(tokenizer).encode("word") == [1]
    with pytest.raises(DataError, match="cannot tell"):
        PlainTextEncoder(tokenizer).encode("word <end>")


@given(hostile)
def test_token_ends_follow_each_other_and_reach_the_end_of_the_text(backend, parts):
    text = "".join(parts)
    encoder = PlainTextEncoder(backend)
    ids, ends = encoder.encode_with_ends(text)
    assert ids == encoder.encode(text)
    assert ends == sorted(ends)
    assert (ends[-1] if ends else 0) == len(text)
