"""Overlapping windows over token ids: how long inputs are read without truncation.

Pure functions. A guard reads every window and takes the maximum over windows of each score, so that one harmful
passage anywhere flags the whole message. Consecutive windows share at least ``overlap`` tokens; therefore every run
of at most ``overlap + 1`` consecutive tokens lies whole inside some window, wherever it starts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from corral.core.errors import ConfigError


def check_windows(size: int, overlap: int) -> None:
    """Refuse a window size and overlap that do not cover an input.

    Raises:
        ConfigError: ``size`` below 1, or ``overlap`` outside [0, size).
    """
    if size < 1:
        raise ConfigError(f"a window of `{size}` tokens holds nothing", where="window", hint="Use 1 or more.")
    if not 0 <= overlap < size:
        raise ConfigError(
            f"an overlap of `{overlap}` tokens does not fit a window of `{size}`",
            where="overlap",
            hint=f"Use 0 to {size - 1}; an eighth of the window is usual.",
        )


def window_spans(length: int, size: int, overlap: int) -> list[tuple[int, int]]:
    """Half-open ``(start, stop)`` spans that cover ``length`` tokens.

    The last window is moved back to be full, so its overlap may be larger than asked for.

    Args:
        length: tokens to cover; 0 gives no window.
        size: tokens in a window.
        overlap: tokens that consecutive windows share, at least.

    Raises:
        ConfigError: see ``check_windows``.
    """
    check_windows(size, overlap)
    if length <= 0:
        return []
    if length <= size:
        return [(0, length)]
    last = length - size
    starts = [*range(0, last, size - overlap), last]
    return [(start, start + size) for start in starts]


@dataclass(frozen=True, slots=True)
class Window:
    """Token ids read in one forward pass; those of the judged message are ``ids[start:stop]``."""

    ids: tuple[int, ...]
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class JudgedWindows:
    """The windows of one judged message.

    Attributes:
        windows: at least one, unless there was nothing to read.
        context_dropped: tokens of the older turns that no window had room for.
    """

    windows: tuple[Window, ...]
    context_dropped: int = 0


def judged_windows(
    context_ids: Sequence[int], target_ids: Sequence[int], *, size: int, overlap: int, min_context: int = 0
) -> JudgedWindows:
    """Windows over a judged message, each with the tail of the context (the most recent turns) in front.

    When both fit one window there is one. Otherwise the target is cut into overlapping pieces of at most
    ``size - min_context`` tokens (or fewer reserved, when the context is shorter), every target token is in some
    piece, and the room that a piece leaves is filled with the end of the context.

    Args:
        context_ids: tokens before the judged message.
        target_ids: tokens of the judged message.
        size: tokens in a window, context included.
        overlap: tokens of the target that consecutive windows share, at least.
        min_context: room kept for the context when the target alone would fill the window.

    Raises:
        ConfigError: sizes that do not fit each other; ``overlap`` must leave room beside ``min_context``.
    """
    check_windows(size, overlap)
    if not 0 <= min_context < size - overlap:
        raise ConfigError(
            f"`{min_context}` tokens of context and an overlap of `{overlap}` do not fit a window of `{size}`",
            where="min_context",
            hint=f"Use 0 to {size - overlap - 1}.",
        )
    room = size - min(min_context, len(context_ids))
    kept = min(len(context_ids), size - min(len(target_ids), room))
    tail = tuple(context_ids[len(context_ids) - kept :])
    windows = tuple(
        Window((*tail, *target_ids[start:stop]), kept, kept + stop - start)
        for start, stop in window_spans(len(target_ids), room, overlap)
    )
    return JudgedWindows(windows, len(context_ids) - kept)


def max_over_windows(scores_WK: NDArray[np.float64]) -> NDArray[np.float64]:
    """Maximum of each score over windows: (W, K) to (K,).

    A score that is not finite in any window stays so in the result, so that a broken window is never outvoted.
    """
    pooled: NDArray[np.float64] = np.where(
        np.isfinite(scores_WK).all(axis=0), scores_WK.max(axis=0), np.full(scores_WK.shape[1], np.nan)
    )
    return pooled
