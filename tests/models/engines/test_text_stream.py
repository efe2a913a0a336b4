"""Streamed text is the whole text, in whole characters, up to the first completed stop string."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corral.models.engines.text_stream import TextStream

texts = st.text(max_size=30) | st.text(alphabet="ab é日🙂", max_size=30)
stops = st.lists(st.text(alphabet="ab é", min_size=1, max_size=4), max_size=3)


def run(backend, ids, stop=()):
    stream = TextStream(backend, stop)
    pieces = []
    for token in ids:
        pieces.append(stream.push(token))
        if stream.stopped:
            return stream, pieces
    pieces.append(stream.finish())
    return stream, pieces


def first_completed(text, stop):
    """Brute force: where the stop string begins that is complete first (the earliest start among equals)."""
    for end in range(len(text) + 1):
        found = [end - len(string) for string in stop if text[:end].endswith(string)]
        if found:
            return min(found)
    return None


@given(texts)
def test_pieces_join_to_the_text_and_hold_no_broken_character(chat, text):
    stream, pieces = run(chat.backend, chat.encode_text(text))
    assert "".join(pieces) == stream.text == text
    # A replacement character may only come from the text itself.
    assert sum(piece.count("\ufffd") for piece in pieces) == text.count("\ufffd")


@given(texts, stops)
def test_nothing_after_a_stop_string_is_ever_shown(chat, text, stop):
    stream, pieces = run(chat.backend, chat.encode_text(text), stop)
    shown = "".join(pieces)
    assert stream.text == shown
    assert stream.stopped == any(string in text for string in stop)
    assert text.startswith(shown)
    assert not any(string in shown for string in stop)
    if not stream.stopped:
        assert shown == text


@given(st.text(alphabet="ab", max_size=20), st.lists(st.text(alphabet="ab", min_size=1, max_size=3), max_size=3))
def test_the_stop_string_that_is_complete_first_wins_where_a_token_is_a_character(chat, text, stop):
    stream, _ = run(chat.backend, chat.encode_text(text), stop)
    cut = first_completed(text, stop)
    assert stream.text == (text if cut is None else text[:cut])


def test_an_unfinished_character_becomes_a_replacement_character_at_the_end(chat):
    ids = chat.encode_text("a日")[:-1]
    stream, pieces = run(chat.backend, ids)
    assert pieces[:-1] == ["a", "", ""]
    assert stream.text == chat.decode(ids) == "a\ufffd"


def test_the_beginning_of_a_stop_string_is_shown_once_it_cannot_become_one(chat):
    stream = TextStream(chat.backend, ["abc"])
    pieces = [stream.push(chat.encode_text(letter)[0]) for letter in "abab"]
    assert pieces == ["", "", "ab", ""]
    assert stream.finish() == "ab"


@pytest.mark.parametrize("control", ["<|im_start|>", "<s>"])
def test_control_tokens_give_no_text(chat, control):
    ids = [*chat.encode_text("a"), chat.tokenizer.convert_tokens_to_ids(control), *chat.encode_text("b")]
    assert run(chat.backend, ids)[0].text == "ab"
