"""Ciphers decode back exactly, and equal Python's own codecs."""

from __future__ import annotations

import base64
import codecs

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corral.guards.deobfuscate.codes import MORSE
from corral.redteam.styles.ciphers import CIPHERS, caesar_cipher

EXACT = [*(CIPHERS[name] for name in CIPHERS if name != "morse"), *(caesar_cipher(shift) for shift in (1, 3, 25, 30))]
ASCII_LOWER = str.maketrans("ABCDEFGHIJKLMNOPQRSTUVWXYZ", "abcdefghijklmnopqrstuvwxyz")


@pytest.mark.parametrize("cipher", EXACT, ids=lambda cipher: cipher.title)
@given(text=st.text())
def test_what_was_encoded_decodes_to_itself(cipher, text) -> None:
    assert cipher.decode(cipher.encode(text)) == text


@given(st.text())
def test_morse_decodes_to_the_text_without_capitals(text) -> None:
    cipher = CIPHERS["morse"]
    coded = cipher.encode(text)
    decoded = cipher.decode(coded)
    # a text that is mostly signs without a code is not Morse, and is said not to be
    known = sum(part == "/" or part in MORSE.values() for part in coded.split(" "))
    if 2 * known >= len(coded.split(" ")) or not text:
        assert decoded == text.translate(ASCII_LOWER)
    else:
        assert decoded is None


def test_every_morse_code_stands_for_one_letter() -> None:
    assert len(set(MORSE.values())) == len(MORSE)


@given(st.text())
def test_ciphers_equal_pythons_codecs(text) -> None:
    assert CIPHERS["base64"].encode(text) == base64.b64encode(text.encode()).decode()
    assert CIPHERS["rot13"].encode(text) == codecs.encode(text, "rot13")
    assert CIPHERS["hex"].encode(text) == codecs.encode(text.encode(), "hex").decode()
    assert CIPHERS["reverse"].encode(text) == "".join(reversed(text))


def test_a_caesar_shift_of_thirteen_is_rot13() -> None:
    assert caesar_cipher(13).encode("Hello, World") == CIPHERS["rot13"].encode("Hello, World")


@pytest.mark.parametrize("name", list(CIPHERS))
def test_an_answer_in_the_code_is_read_also_between_fences(name) -> None:
    answer = "the colour of the door is green and nobody will know"
    assert CIPHERS[name].read_answer(f"```\n{CIPHERS[name].encode(answer)}\n```") == answer


@pytest.mark.parametrize("name", list(CIPHERS))
def test_an_answer_in_plain_words_is_not_in_the_code(name) -> None:
    assert CIPHERS[name].read_answer("I'm sorry, but I can not tell you what the colour is.") is None
