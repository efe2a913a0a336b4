"""Hold-back windows: which text of a growing reply is judged next, and which may leave.

The windows advance by ``window - overlap`` characters, and when one has passed, only its part that no later window
covers leaves. So a passage of at most ``overlap`` characters lies whole in one window, and none of it leaves before
that window passed. Each character is judged at most ``window / (window - overlap)`` times, rounded up: a growing reply
is not read from its start again.
"""

from __future__ import annotations


class HoldBack:
    """One growing text.

    Args:
        window: characters judged at once; ``None`` holds everything until the end.
        overlap: characters that consecutive windows share, fewer than ``window``.
    """

    def __init__(self, window: int | None, overlap: int = 0) -> None:
        if window is not None and not 0 <= overlap < window:
            raise ValueError(f"an overlap of {overlap} does not fit a window of {window}")
        self._window = window
        self._overlap = overlap
        self._pieces: list[str] = []  # joined when they are looked at: text that grows piece by piece is copied once
        self._held = 0
        self._left = ""

    @property
    def held(self) -> int:
        """Characters that have not left."""
        return self._held

    def push(self, text: str) -> None:
        """Take more of the text."""
        self._pieces.append(text)
        self._held += len(text)

    def due(self) -> str | None:
        """The next full window, ``None`` when there is too little text; the same until ``release`` or the end."""
        if self._window is None or self._held < self._window:
            return None
        return self._joined()[: self._window]

    def release(self) -> str:
        """The text that may leave now that the window of ``due`` passed."""
        assert self._window is not None  # noqa: S101 - ``due`` gave a window
        return self._taken(self._window - self._overlap)

    def rest(self) -> str | None:
        """The last window, ``None`` when nothing is held: what is held, after as much of what left as fits."""
        if not self._held:
            return None
        room = 0 if self._window is None else max(0, self._window - self._held)
        return (self._left[len(self._left) - room :] if room else "") + self._joined()

    def release_rest(self) -> str:
        """All that is held, now that the window of ``rest`` passed."""
        return self._taken(self._held)

    def _taken(self, count: int) -> str:
        text = self._joined()
        out, self._pieces = text[:count], [text[count:]]
        self._held -= count
        if self._window is not None:
            self._left = (self._left + out)[-self._window :]
        return out

    def _joined(self) -> str:
        self._pieces = ["".join(self._pieces)]
        return self._pieces[0]
