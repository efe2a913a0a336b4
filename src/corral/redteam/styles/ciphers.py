"""Ciphers: an encoder beside the decoder that guards use (``guards/deobfuscate/codes``).

``decode(encode(text)) == text`` for every text in Unicode, but for Morse, which has no capitals.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final

from corral.guards.deobfuscate.codes import (
    MORSE,
    MORSE_SPACE,
    from_base64,
    from_codepoints,
    from_hex,
    from_morse,
    mirrored,
    shifted,
)
from corral.guards.deobfuscate.language import likeness


@dataclass(frozen=True, slots=True)
class Cipher:
    """A code and how it is called.

    Attributes:
        name: of the style.
        title: as prompts call it.
        encode: from a text.
        decode: back; ``None`` for what is not in the code.
        total: decodes every text, so that a plain answer has to be told from a coded one by how it reads.
    """

    name: str
    title: str
    encode: Callable[[str], str]
    decode: Callable[[str], str | None]
    total: bool = False

    def read_answer(self, answer: str) -> str | None:
        """An answer that was asked for in the code, as text; ``None`` when it is not in it.

        An answer in plain words is not in the code: of a cipher that decodes everything, one that reads more like
        language before than after.
        """
        packed = answer.strip().strip("`\"'").strip()
        said = self.decode(packed)
        if said is None or (self.total and likeness(packed) > likeness(said)):
            return None
        return said


def to_base64(text: str) -> str:
    """Base64 of UTF-8."""
    return base64.b64encode(text.encode()).decode()


def to_hex(text: str) -> str:
    """Hexadecimal digits of UTF-8."""
    return text.encode().hex()


def to_morse(text: str) -> str:
    """Morse letters separated by blanks, ``/`` for a blank; characters without a code stand as they are."""
    lowered = (letter.lower() if letter.isascii() else letter for letter in text)
    return " ".join(MORSE_SPACE if letter == " " else MORSE.get(letter, letter) for letter in lowered)


def to_codepoints(text: str) -> str:
    """Decimal code points separated by blanks."""
    return " ".join(str(ord(character)) for character in text)


def reversed_text(text: str) -> str:
    """The characters from last to first; its own inverse."""
    return text[::-1]


def caesar_cipher(shift: int) -> Cipher:
    """Letters moved by ``shift`` places."""
    title = f"a Caesar cipher that moves each letter {shift} places forward"
    return Cipher("caesar", title, partial(shifted, shift=shift), partial(shifted, shift=-shift), total=True)


CIPHERS: Final[Mapping[str, Cipher]] = {
    cipher.name: cipher
    for cipher in (
        Cipher("base64", "Base64", to_base64, from_base64),
        Cipher("rot13", "ROT13", partial(shifted, shift=13), partial(shifted, shift=-13), total=True),
        Cipher("atbash", "the Atbash cipher (a for z, b for y and so on)", mirrored, mirrored, total=True),
        Cipher("hex", "hexadecimal UTF-8 bytes", to_hex, from_hex),
        Cipher("morse", "Morse code with / between words", to_morse, from_morse),
        Cipher("ascii_codes", "decimal character codes", to_codepoints, from_codepoints),
        Cipher("reverse", "letters in reverse order", reversed_text, reversed_text, total=True),
    )
}
"""Ciphers without parameters, by name."""
