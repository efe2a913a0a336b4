"""Text that a model is calibrated on, cut into windows of tokens, with a manifest that says which.

Windows start at random places of the whole text, as in the loader of GPTQ (arXiv 2210.17323) and its successors.

Legend: W windows, T tokens of a window.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import torch
from pydantic import Field
from torch import Tensor

from corral.core.config import Config
from corral.core.errors import DataError, NotFoundError
from corral.core.files import sha256_json
from corral.data.corpora import corpora, read_corpus
from corral.data.running_text import read_texts
from corral.data.self_written.replies import helpful_answers
from corral.data.sources.loading import data_root
from corral.data.wikitext import WIKITEXT, wikitext_half
from corral.models.chat import ChatTokenizer

PACKAGED: Final = "packaged"
_BETWEEN: Final = "\n\n"


class CalibrationSettings(Config):
    """Which text, and how much of it.

    Attributes:
        source: ``packaged`` (questions and answers written for this project), a corpus of the data folder (of
            WikiText the calibration half), or a file of text (see ``data.running_text``).
        windows: W.
        length: T, or the model's context if that is shorter.
        seed: of the places.
    """

    source: str = PACKAGED
    windows: int = Field(default=32, ge=1)
    length: int = Field(default=512, ge=2)
    seed: int = 0


@dataclass(frozen=True, slots=True)
class CalibrationManifest:
    """Says exactly what a model was calibrated on.

    Attributes:
        source: as in the settings.
        text_sha256: of the whole text.
        windows: how many.
        length: tokens of each.
        seed: of their places.
        ids_sha256: of the windows' token ids: equal hashes, equal calibration.
        distinct_tokens: places of the text that are in some window; windows may overlap.
    """

    source: str
    text_sha256: str
    windows: int
    length: int
    seed: int
    ids_sha256: str
    distinct_tokens: int

    @property
    def tokens(self) -> int:
        """Of all windows, as often as they are read."""
        return self.windows * self.length

    def to_json(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self) | {"tokens": self.tokens}


@dataclass(frozen=True, slots=True)
class Calibration:
    """Windows of token ids (W, T) and where they are from."""

    windows_WT: Tensor
    manifest: CalibrationManifest


def calibration(settings: CalibrationSettings, chat: ChatTokenizer, *, context: int) -> Calibration:
    """The windows of the settings.

    Args:
        settings: which text.
        chat: the model's tokenizer.
        context: tokens that the model reads at most.

    Raises:
        NotFoundError: no such source.
        DataError: no text, or fewer tokens than one window.
    """
    text = _BETWEEN.join(text for text in calibration_texts(settings.source) if text.strip())
    if not text:
        raise DataError("there is no text to calibrate on", where=settings.source)
    ids = chat.encode_text(text)
    length = min(settings.length, context)
    if len(ids) < length:
        raise DataError(
            f"the text has {len(ids)} tokens, a window takes {length}",
            where=settings.source,
            hint="Give more text, or shorter windows.",
        )
    draw = random.Random(settings.seed)  # noqa: S311 - places of windows, not secrets
    starts = [draw.randrange(len(ids) - length + 1) for _ in range(settings.windows)]
    windows = [ids[start : start + length] for start in starts]
    manifest = CalibrationManifest(
        source=settings.source,
        text_sha256=sha256_json(text),
        windows=len(windows),
        length=length,
        seed=settings.seed,
        ids_sha256=sha256_json(windows),
        distinct_tokens=len({place for start in starts for place in range(start, start + length)}),
    )
    return Calibration(torch.tensor(windows), manifest)


def calibration_texts(source: str) -> Iterable[str]:
    """The documents of a source; see ``CalibrationSettings``.

    Raises:
        NotFoundError: no such source.
    """
    if source == PACKAGED:
        return [f"{prompt}\n\n{answer}" for prompt, answer in helpful_answers()]
    path = Path(source).expanduser()
    if path.is_file():
        return read_texts(path)
    if source == WIKITEXT:
        return wikitext_half("calibration")
    if path.suffix or "/" in source or source not in _corpus_names():
        raise NotFoundError(
            f"no file and no corpus is called `{source}`",
            where="calibration",
            hint=f"Give a file of text, a corpus of the data folder (CORRAL_DATA), or `{PACKAGED}`.",
        )
    return (document.text for document in read_corpus(source))


def _corpus_names() -> set[str]:
    try:
        return set(corpora(data_root()))
    except NotFoundError:
        return set()
