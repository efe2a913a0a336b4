"""Decoders of exact encodings: each gives the text that was encoded, or ``None`` where there is none to be had.

Encoders are in ``redteam/styles/ciphers``; what both need, such as the Morse alphabet, is here. Shift ciphers move
ASCII letters only and leave every other character as it is, so that every text has a reading, and only ``readings``
can tell whether it is a better one.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from string import ascii_lowercase, ascii_uppercase
from typing import Final

ALPHABET_SIZE: Final = 26

MORSE: Final[Mapping[str, str]] = {
    "a": ".-", "b": "-...", "c": "-.-.", "d": "-..", "e": ".", "f": "..-.", "g": "--.", "h": "....", "i": "..",
    "j": ".---", "k": "-.-", "l": ".-..", "m": "--", "n": "-.", "o": "---", "p": ".--.", "q": "--.-", "r": ".-.",
    "s": "...", "t": "-", "u": "..-", "v": "...-", "w": ".--", "x": "-..-", "y": "-.--", "z": "--..",
    "0": "-----", "1": ".----", "2": "..---", "3": "...--", "4": "....-", "5": ".....", "6": "-....", "7": "--...",
    "8": "---..", "9": "----.", ".": ".-.-.-", ",": "--..--", "?": "..--..", "'": ".----.", "/": "-..-.", "(": "-.--.",
    ")": "-.--.-", ":": "---...", "=": "-...-", "+": ".-.-.", "-": "-....-", '"': ".-..-.", "@": ".--.-.",
}  # fmt: skip
"""International Morse code (ITU-R M.1677-1), with lower-case letters."""
MORSE_SPACE: Final = "/"
_MORSE_LETTERS: Final = {code: letter for letter, code in MORSE.items()}
_SEPARATORS: Final = re.compile(r"[\s,;]+")


def from_base64(text: str) -> str | None:
    """Base64 (RFC 4648, standard or URL-safe, padding optional, blanks ignored) of a text in UTF-8."""
    packed = "".join(text.split()).replace("-", "+").replace("_", "/").rstrip("=")
    try:
        return base64.b64decode(packed + "=" * (-len(packed) % 4), validate=True).decode()
    except (binascii.Error, ValueError):
        return None


def from_hex(text: str) -> str | None:
    """Hexadecimal digits of a text in UTF-8, blanks, commas, ``0x`` and ``\\x`` between bytes ignored."""
    digits = _SEPARATORS.sub("", re.sub(r"\\x|0x", "", text))
    try:
        return bytes.fromhex(digits).decode()
    except ValueError:
        return None


def shifted(text: str, shift: int) -> str:
    """ASCII letters moved by so many places in the alphabet, case kept; ``-shift`` undoes it, 13 is ROT13."""
    turn = shift % ALPHABET_SIZE
    plain = ascii_lowercase + ascii_uppercase
    moved = ascii_lowercase[turn:] + ascii_lowercase[:turn] + ascii_uppercase[turn:] + ascii_uppercase[:turn]
    return text.translate(str.maketrans(plain, moved))


def mirrored(text: str) -> str:
    """Atbash: the first letter of the alphabet for the last and so on; its own inverse."""
    plain = ascii_lowercase + ascii_uppercase
    return text.translate(str.maketrans(plain, ascii_lowercase[::-1] + ascii_uppercase[::-1]))


def from_morse(text: str) -> str | None:
    """Morse letters separated by blanks, words by ``/``; a letter without a code stands as it is, case is lost.

    ``None`` when not even half of it is Morse.
    """
    if not text:
        return ""
    letters = text.split(" ")
    known = sum(letter == MORSE_SPACE or letter in _MORSE_LETTERS for letter in letters)
    if 2 * known < len(letters):
        return None
    return "".join(" " if letter == MORSE_SPACE else _MORSE_LETTERS.get(letter, letter) for letter in letters)


def from_codepoints(text: str) -> str | None:
    """Decimal code points separated by blanks or commas; ``None`` for anything that is not one of Unicode's."""
    if not text.strip():
        return ""
    try:
        return "".join(map(chr, map(int, _SEPARATORS.split(text.strip()))))
    except (ValueError, OverflowError):
        return None
