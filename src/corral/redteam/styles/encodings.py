"""Mismatched generalisation by encoding: the request, and with ``_io`` the answer, in a code (arXiv 2307.02483)."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Final, Literal

from corral.core.errors import ConfigError
from corral.guards.deobfuscate.codes import ALPHABET_SIZE
from corral.redteam.styles.base import RuleStyle, Style
from corral.redteam.styles.ciphers import CIPHERS, Cipher, caesar_cipher
from corral.redteam.styles.prompt import AnswerCode, Draft, StyleContext
from corral.redteam.styles.templates import StyleFactory, wording

Form = Literal["explained", "io", "bare"]
"""The code is named in the prompt; and asked for in the answer too; or the coded text stands alone."""


def encoding(cipher: Cipher, form: Form, name: str, **parameters: int) -> Style:
    """A style that sends the text in a cipher.

    Args:
        cipher: which one.
        form: what is said about it.
        name: of the style.
        parameters: of the cipher, which the style's id depends on.
    """
    entry = None if form == "bare" else wording("encodings", form)

    def rule(draft: Draft, rng: random.Random, context: StyleContext) -> Draft:
        del context
        coded = cipher.encode(draft.text)
        text = coded if entry is None else entry.fill(rng, title=cipher.title, text=coded)
        code = AnswerCode(cipher.name, cipher.read_answer) if form == "io" else draft.answer_code
        return replace(draft, text=text, answer_code=code)

    mechanism = "sends the request in a code without a word about it" if entry is None else entry.mechanism
    return RuleStyle(
        name,
        "encoding",
        f"{mechanism} ({cipher.title})",
        rule,
        version=1 if entry is None else entry.version,
        content=[cipher.title, form, "" if entry is None else entry.template, parameters],
    )


def caesar(shift: int = 3, *, form: Form = "explained") -> Style:
    """The Caesar cipher.

    Raises:
        ConfigError: a shift that changes nothing.
    """
    if shift % ALPHABET_SIZE == 0:
        raise ConfigError(f"a shift of `{shift}` changes nothing", where="caesar.shift", hint="Use 1 to 25.")
    name = "caesar_io" if form == "io" else "caesar"
    return encoding(caesar_cipher(shift), form, name if shift == 3 else f"{name}:shift={shift}", shift=shift)


STYLES: Final[Mapping[str, StyleFactory]] = {
    **{name: partial(encoding, cipher, "explained", name) for name, cipher in CIPHERS.items()},
    **{f"{name}_io": partial(encoding, cipher, "io", f"{name}_io") for name, cipher in CIPHERS.items()},
    "base64_raw": partial(encoding, CIPHERS["base64"], "bare", "base64_raw"),
    "caesar": caesar,
    "caesar_io": partial(caesar, form="io"),
}
