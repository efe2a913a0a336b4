"""Reasons for a missing verdict that hold no text of the conversation."""

from __future__ import annotations

import re
from typing import Final

_PLACE: Final = re.compile(r"\Aconversations\[\d+\](?:: |\.)")


def failure_detail(what: str, error: BaseException) -> str:
    """Say what failed, with the exception's type and place but not its message, which may quote the text."""
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    at = f" at {frame.tb_frame.f_globals.get('__name__', '?')}:{frame.tb_lineno}" if frame else ""
    return f"{what} ({type(error).__name__}{at})"


def bad_input(index: int, problem: str, *, where: str | None = None) -> str:
    """What is wrong with a conversation: its index in the call, the place in it where that is known, and the rule."""
    return f"conversations[{index}]{f'.{where}' if where else ''}: {problem}"


def without_index(detail: str) -> str:
    """A detail for somebody who gave the conversations in another order or number: the index would mislead."""
    return _PLACE.sub("", detail)
