"""From token ids to text as they come: whole characters only, and nothing after a stop string."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers import Tokenizer


class TextStream:
    """Decodes one growing sequence of token ids.

    Control tokens give no text. Whatever could still become part of a character or of a stop string is held back, so
    the pieces joined are the text of the whole, cut before the first stop string that is completed.

    Args:
        tokenizer: the model's tokenizer.
        stop: strings that end the text.
    """

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str] = ()) -> None:
        from tokenizers.decoders import DecodeStream

        self._tokenizer = tokenizer
        self._decoder = DecodeStream(skip_special_tokens=True)
        self._stop = tuple(stop)
        self._ids: list[int] = []
        self._decoded = 0
        self._pending = ""
        self.text = ""
        self.stopped = False

    def push(self, token_id: int) -> str:
        """Take one more token and return the text that is now certain (often "")."""
        self._ids.append(token_id)
        return self._take(self._decoder.step(self._tokenizer, token_id) or "", final=False)

    def finish(self) -> str:
        """The text that was still held back; an unfinished character becomes U+FFFD."""
        if self.stopped:
            return ""
        whole = self._tokenizer.decode(self._ids, skip_special_tokens=True)
        return self._take(whole[self._decoded :], final=True)

    def _take(self, piece: str, *, final: bool) -> str:
        self._decoded += len(piece)
        self._pending += piece
        found = [position for stop in self._stop if (position := self._pending.find(stop)) >= 0]
        if found:
            self.stopped = True
            certain = min(found)
        else:
            certain = len(self._pending) - (0 if final else _held_back(self._pending, self._stop))
        out, self._pending = self._pending[:certain], self._pending[certain:]
        self.text += out
        return out


def _held_back(text: str, stop: Sequence[str]) -> int:
    """Length of the longest end of ``text`` that begins a stop string."""
    longest = min(len(text), max((len(string) - 1 for string in stop), default=0))
    return next((n for n in range(longest, 0, -1) if any(string.startswith(text[-n:]) for string in stop)), 0)
