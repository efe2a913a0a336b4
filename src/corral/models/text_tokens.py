"""From text to token ids, and no more: what a guard needs of a tokenizer.

``FastTokens`` is the ``tokenizers`` library. Of a unigram vocabulary as large as XLM-R's (250,000 pieces) it keeps 280
MB in memory and takes seconds to load; ``PieceTokens`` is the ``sentencepiece`` library, which needs a fifth of the
memory and a third of the time, and gives the same ids (tests compare them), but for texts that two ways of cutting fit
equally well, such as a letter a thousand times.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from corral.core.errors import DataError

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from tokenizers.normalizers import Normalizer


class TextTokens(Protocol):
    """Turns texts into token ids; text that spells a control token is text."""

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text, without control tokens."""

    def token_to_id(self, token: str) -> int | None:
        """The id of a control token, or a piece of the vocabulary; ``None`` for another."""


class FastTokens:
    """A tokenizer of the ``tokenizers`` library.

    Args:
        tokenizer: this object owns it from here on.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        tokenizer.encode_special_tokens = True
        tokenizer.no_truncation()
        tokenizer.no_padding()

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """See ``TextTokens``."""
        return [list(found.ids) for found in self._tokenizer.encode_batch(list(texts), add_special_tokens=False)]

    def token_to_id(self, token: str) -> int | None:
        """See ``TextTokens``."""
        found = self._tokenizer.token_to_id(token)
        return None if found is None else int(found)


class PieceTokens:
    """A unigram vocabulary in a file of the ``sentencepiece`` library.

    Args:
        path: the file; its own normalisation leaves the text as it is, but for the mark of a word's beginning.
        normalizer: what is done to a text first; it leaves no two spaces side by side.

    Raises:
        DataError: not such a file.
    """

    def __init__(self, path: Path, normalizer: Normalizer) -> None:
        from sentencepiece import SentencePieceProcessor

        self._normalizer = normalizer
        self._pieces = SentencePieceProcessor()
        try:
            self._pieces.Load(str(path))
        except (OSError, RuntimeError) as error:
            raise DataError("not a readable sentencepiece file", where=str(path)) from error
        self._blank = int(self._pieces.PieceToId("\u2581"))

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """See ``TextTokens``."""
        # The library puts a blank before every text but an empty one; `tokenizers` only where there is none.
        clean = [self._normalizer.normalize_str(text) for text in texts]
        encoded = self._pieces.Encode([text.removeprefix(" ") for text in clean])
        return [[self._blank] if text == " " else list(ids) for text, ids in zip(clean, encoded, strict=True)]

    def token_to_id(self, token: str) -> int | None:
        """See ``TextTokens``."""
        found = int(self._pieces.PieceToId(token))
        return found if self._pieces.IdToPiece(found) == token else None
