"""WikiText split by article, so that what a model is calibrated on is not what it is measured on."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final, Literal

from corral.core.errors import DataError
from corral.data.corpora import read_corpus

WIKITEXT: Final = "wikitext2_valid"
Half = Literal["calibration", "evaluation"]

_TITLE: Final = re.compile(r"^ = [^=\n].*[^=\n] = $", re.MULTILINE)


def wikitext_half(half: Half, root: Path | None = None) -> list[str]:
    """Every other article of the validation split: the first, third, ... are for calibration.

    Raises:
        NotFoundError: it is not in the data folder.
        DataError: it differs from the index, or has fewer than two articles.
    """
    found = articles("\n".join(document.text for document in read_corpus(WIKITEXT, root)))
    if len(found) < 2:
        raise DataError("has no articles to split by", where=WIKITEXT)
    return found[0::2] if half == "calibration" else found[1::2]


def articles(text: str) -> list[str]:
    """The articles of a WikiText file: each from its title, `` = Title = ``, to the next; none blank."""
    starts = [match.start() for match in _TITLE.finditer(text)]
    ends = [*starts, len(text)][1:]
    return [text[start:end] for start, end in zip(starts, ends, strict=True) if text[start:end].strip()]
