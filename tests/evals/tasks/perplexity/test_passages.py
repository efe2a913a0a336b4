"""Passages hold each scored token once and exactly its bytes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corral.evals.tasks.perplexity.passages import StringPassages, TokenPassages, passage_scorer, string_pieces
from corral.evals.tasks.perplexity.texts import Document, TextSet
from corral.models.engines.scripted import ScriptedEngine

texts_with_words = st.lists(st.text("aé漢\n \t", min_size=1, max_size=12), min_size=1, max_size=12).map(" ".join)


def texts_of(*texts: str, cut="windows") -> TextSet:
    return TextSet("own", tuple(Document(str(i), text) for i, text in enumerate(texts)), cut=cut)


@given(texts_with_words.filter(str.strip), st.integers(2, 9))
def test_windows_do_not_overlap_and_account_for_every_byte(tiny_engine, text, window):
    ids = tiny_engine.chat.encode_text(text)
    passages = TokenPassages(tiny_engine, window).cut(texts_of(text))
    read = [[*context, *scored] for passage in passages for context, scored in passage.parts]
    if len(ids) >= window:
        assert read == [ids[start : start + window] for start in range(0, len(ids) - window + 1, window)]
    else:
        assert read == ([ids] if len(ids) > 1 else [])
    # The tiny tokenizer has a token a byte. A character's bytes count to its first token, hence at most 3 off.
    for passage in passages:
        ((context, scored),) = passage.parts
        assert len(context) == 1
        assert abs(passage.bytes - len(scored)) <= 3
    bounds = [int(bound) for passage in passages for bound in passage.id.split("-")]
    assert bounds == sorted(bounds)


def test_ascii_windows_count_exactly_the_scored_bytes(tiny_engine):
    passages = TokenPassages(tiny_engine, 8).cut(texts_of("0123456789abcdefXYZ"))
    assert [(passage.id, passage.bytes) for passage in passages] == [("1-8", 7), ("9-16", 7)]


def test_a_document_is_scored_whole_after_the_start_token(tiny_engine):
    (passage,) = TokenPassages(tiny_engine, 4).cut(texts_of("abcdefgh", cut="documents"))
    start = tiny_engine.chat.tokenizer.bos_token_id
    assert passage.parts[0][0] == [start]
    assert [token for _, scored in passage.parts for token in scored] == tiny_engine.chat.encode_text("abcdefgh")
    assert passage.bytes == 8


@given(texts_with_words, st.integers(1, 30))
def test_string_pieces_make_up_the_text_and_keep_to_the_limit(text, most):
    pieces = list(string_pieces(text, most))
    joined = "".join(first + rest for first, rest in pieces)
    assert text.startswith(joined)
    assert len(text[len(joined) :].split()) <= 1
    for first, rest in pieces:
        assert len(first.split()) == 1
        assert rest.strip()
        assert len((first + rest).encode()) <= most or len((first + rest).split()) == 2


def test_the_engine_decides_how_text_is_cut(tiny_engine):
    assert isinstance(passage_scorer(tiny_engine, 16), TokenPassages)
    assert passage_scorer(tiny_engine, 10_000).window == tiny_engine.context_length
    assert isinstance(passage_scorer(ScriptedEngine({}), 16), StringPassages)


def test_strings_are_scored_by_their_bytes():
    scorer = StringPassages(ScriptedEngine({}, default=""), 1000)
    passages = scorer.cut(texts_of("one two three", cut="documents"))
    (found,) = scorer.score(passages)
    # The scripted engine finds every byte equally likely: 8 bits each.
    assert (found.tokens, found.bytes) == (10, 10)
    assert found.bits_per_byte == pytest.approx(8.0)
