"""Undoing how a text was disguised: compatibility forms, invisible characters, look-alike letters.

``fold_text`` is what a moderator may read in the place of, or beside, what was written. It leaves genuine text of other
scripts alone: look-alikes are mapped only in texts without a letter that belongs to their script alone.
"""

from __future__ import annotations

import re
import unicodedata
from types import MappingProxyType
from typing import Final

from corral.data.perturbations import HOMOGLYPHS

_GREEK_LOOK_ALIKES: Final = dict(
    zip(
        "\u0391\u0392\u0395\u0396\u0397\u0399\u039a\u039c\u039d\u039f\u03a1\u03a4\u03a5\u03a7\u03bf\u03bd\u03c1",
        "ABEZHIKMNOPTYXovp",
        strict=True,
    )
)
_CYRILLIC_LOOK_ALIKES: Final = {look_alike: latin for latin, look_alike in HOMOGLYPHS.items()}
LOOK_ALIKES: Final = MappingProxyType({**_CYRILLIC_LOOK_ALIKES, **_GREEK_LOOK_ALIKES})
"""Letters of other scripts to the Latin letter that they are drawn like."""

_TABLE: Final = str.maketrans(dict(LOOK_ALIKES))
_JOINERS: Final = ("\u200c", "\u200d")
# Spelling in Persian and Indic scripts, and emoji families, need joiners; Latin letters never do.
_JOINERS_AFTER_LATIN: Final = re.compile(f"(?<=[A-Za-z])[{''.join(_JOINERS)}]+")
_VARIATION_SELECTORS: Final = range(0xFE00, 0xFE10)


def fold_text(text: str) -> str:
    """The text in NFKC, without invisible characters, look-alike letters as Latin ones."""
    composed = unicodedata.normalize("NFKC", text)
    visible = "".join(sign for sign in composed if not _is_invisible(sign))
    latin = visible if _is_of_another_script(visible) else visible.translate(_TABLE)
    return _JOINERS_AFTER_LATIN.sub("", latin)


def _is_invisible(sign: str) -> bool:
    if sign in _JOINERS:
        return False
    return unicodedata.category(sign) == "Cf" or ord(sign) in _VARIATION_SELECTORS


def _is_of_another_script(text: str) -> bool:
    """Whether a letter is Cyrillic or Greek and looks like no Latin one: then the look-alikes are meant."""
    return any(
        sign not in LOOK_ALIKES and unicodedata.name(sign, "").startswith(("CYRILLIC", "GREEK"))
        for sign in text
        if sign.isalpha() and not sign.isascii()
    )
