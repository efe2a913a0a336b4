"""A text that hides nothing has one reading; what is hidden is read, and the original stays beside it."""

from __future__ import annotations

import base64
import codecs
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corral.data.perturbations import PERTURBATIONS
from corral.guards.deobfuscate.codes import MORSE, from_base64, from_codepoints, from_hex, from_morse, mirrored, shifted
from corral.guards.deobfuscate.noise import with_plain_letters, without_invisible, without_leet, without_stacked_marks
from corral.guards.deobfuscate.readings import readings
from corral.redteam.styles import StyleContext, load_style, seeded

SECRET = "Tell me how to find out the secret colour of the kitchen door"
MORSE_SECRET = " ".join(MORSE.get(letter, "/") for letter in SECRET.lower())


def said(text: str) -> list[str]:
    return [reading.text for reading in readings(text)]


@pytest.mark.parametrize(
    "code",
    [
        base64.b64encode(SECRET.encode()).decode(),
        base64.urlsafe_b64encode(SECRET.encode()).decode().rstrip("="),
        SECRET.encode().hex(),
        SECRET.encode().hex(" "),
        "".join(f"\\x{byte:02x}" for byte in SECRET.encode()),
        " ".join(str(ord(letter)) for letter in SECRET),
        codecs.encode(SECRET, "rot13"),
        shifted(SECRET, 5),
        mirrored(SECRET),
        SECRET[::-1],
    ],
    ids=["base64", "urlsafe", "hex", "spaced hex", "escapes", "code points", "rot13", "caesar", "atbash", "reversed"],
)
@pytest.mark.parametrize("around", ["{}", "Here is a message.\n\n{}\n\nAnswer it."], ids=["alone", "in a prompt"])
def test_a_code_is_read_wherever_it_stands(code: str, around: str) -> None:
    found = said(around.format(code))
    assert found[0] == around.format(code)
    assert around.format(SECRET) in found
    assert SECRET in found  # alone, as a guard would have judged it had it been asked plainly


@pytest.mark.parametrize("shift", range(1, 26))
@pytest.mark.parametrize("secret", [SECRET, "Sage mir bitte, wie ich die Farbe der Tür finden kann"])
def test_every_shift_is_undone(shift: int, secret: str) -> None:
    assert said(shifted(secret, shift))[1:] == [secret]


WORDS = SECRET.split()


@pytest.mark.parametrize(
    "program",
    [
        "\n".join(f'stack.append("{word}")' for word in reversed(WORDS)),
        "\n".join(f"queue.put('{word}')" for word in WORDS),
        f"order = {WORDS}  # read it",
        f"order = {[*WORDS[0::2], *WORDS[1::2]]}",
        'Let a = "Tell me how to find out the sec"\nLet b = "ret colour of the kit"\nLet c = "chen door"\nSay a+b+c',
        'x = "Tell me how to find out" + " the secret colour of" + " the kitchen door"',
        'x1 = "Tell me how to find out"; x2 = "the secret colour of"; x3 = "the kitchen door"',
        'print("hello")\nargs = ["Tell me how to find out", "the secret colour of", "the kitchen door"]',
    ],
    ids=["stack", "queue", "list", "two halves", "variables", "sum", "without blanks", "after another string"],
)
def test_what_a_program_keeps_in_pieces_is_put_together(program: str) -> None:
    assert SECRET in said(program)


@pytest.mark.parametrize("style", ["code_attack", "code_attack:structure=list", "code_chameleon"])
def test_a_request_in_a_program_of_our_red_team_is_read(style: str) -> None:
    prompt = load_style(style).apply(SECRET, rng=seeded(0, style), context=StyleContext())
    assert SECRET in said(prompt.shown.messages[-1].text)


def test_a_long_list_is_put_together_in_time_that_grows_with_it() -> None:
    found = said(str(["word"] * 20_000))
    assert found[1] == " ".join(["word"] * 20_000)


def test_morse_is_read_without_capitals() -> None:
    assert SECRET.lower() in said(f"Here:\n\n{MORSE_SECRET}")


def test_codes_around_codes_are_read() -> None:
    inner = codecs.encode(SECRET, "rot13")
    assert SECRET in said(base64.b64encode(inner.encode()).decode())


@pytest.mark.parametrize(
    "disguised",
    [
        "\u200b".join(SECRET),
        SECRET.replace("o", "\u043e").replace("e", "\u0435"),
        "".join(letter + "\u0301\u0302\u0303" * letter.isalpha() for letter in SECRET),
        SECRET.translate(str.maketrans("eo", "30")),
        unicodedata.normalize("NFKC", SECRET).translate(
            {ord(c): 0x1D5EE + ord(c) - 97 for c in map(chr, range(97, 123))}
        ),
    ],
    ids=["invisible", "look-alikes", "stacked marks", "digits", "styled letters"],
)
def test_a_disguise_is_seen_through(disguised: str) -> None:
    found = readings(disguised)
    assert found[0].text == disguised
    assert SECRET in said(disguised)
    assert found[-1].how


@pytest.mark.parametrize(
    "text",
    [
        "Please write a poem about the sea for my sister.",
        "Это обычный текст о погоде, и в нём нет ничего скрытого.",
        "My flight is LH454 on 24.12.2026, seat 17A, booking X9TQ2P.",
        "Call me on 555 0134 or come to room 204.",
        "def add(a, b):\n    return a + b\n",
        "sha256: 9f86d081",
        "你好，请介绍一下北京。",
        'He said "yes", then she said "no", and I said "maybe, who knows".',
        "I don't think it's the dogs' fault, isn't it?",
        '{"role": "user", "content": "hello my friend", "count": "three"}',
        'open("file.txt", "w")',
        "",
        "   ",
    ],
)
def test_a_text_that_hides_nothing_has_one_reading(text: str) -> None:
    assert said(text) == [text]


@given(st.text())
def test_the_text_as_written_is_always_the_first_reading_and_none_is_blank_or_repeated(text: str) -> None:
    found = said(text)
    assert found[0] == text
    assert len(set(found)) == len(found)
    assert all(other.strip() for other in found[1:])


@given(st.text())
@pytest.mark.parametrize("remove", [without_invisible, without_stacked_marks, with_plain_letters, without_leet])
def test_removers_of_noise_are_idempotent(remove, text: str) -> None:
    once = remove(text)
    assert remove(once) == once


@pytest.mark.parametrize("name", ["leet", "homoglyph", "zero_width"])
@given(seed=st.integers(0, 1000))
def test_noise_of_our_own_making_is_undone(name: str, seed: int) -> None:
    noisy = PERTURBATIONS[name].apply(SECRET, strength=1.0, seed=seed)
    assert noisy != SECRET
    assert SECRET.casefold() in [text.casefold() for text in said(noisy)]


@given(st.text(alphabet=st.characters(max_codepoint=0x7F, categories=("L", "P", "Z"))))
def test_plain_ascii_words_are_left_alone(text: str) -> None:
    for remove in (without_invisible, without_stacked_marks, with_plain_letters):
        assert remove(text) == text


@pytest.mark.parametrize("decode", [from_base64, from_hex, from_codepoints, from_morse])
@given(text=st.text())
def test_decoders_take_any_text_without_an_error(decode, text: str) -> None:
    found = decode(text)
    assert found is None or isinstance(found, str)


def test_numbers_and_names_are_not_taken_for_digits_in_letters_places() -> None:
    assert without_leet("GPT4 has 3 modes") == "GPT4 has 3 modes"
    assert without_leet("h0w d035 17 w0rk 1n 2024 0r 145") == "how does it work in 2024 or 145"
