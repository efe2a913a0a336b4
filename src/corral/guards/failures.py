"""Reasons for a missing verdict that hold no text of the conversation."""

from __future__ import annotations


def failure_detail(what: str, error: BaseException) -> str:
    """Say what failed, with the exception's type and place but not its message, which may quote the text."""
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    at = f" at {frame.tb_frame.f_globals.get('__name__', '?')}:{frame.tb_lineno}" if frame else ""
    return f"{what} ({type(error).__name__}{at})"
