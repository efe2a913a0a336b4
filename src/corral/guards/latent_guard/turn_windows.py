"""Conversations as windows that a chat model reads: every user turn in one pass, long ones cut without loss."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Final

from corral.core.errors import ConfigError, DataError
from corral.data.messages import Conversation, Message
from corral.guards.latent_guard.centres import Position
from corral.guards.latent_guard.reading import LatentReader
from corral.guards.windows import JudgedWindows, Window, window_spans

_INSTRUCTING: Final = ("user", "tool")
_RULING: Final = ("system", "developer")
_SLACK: Final = 8  # a piece cut from a text may be a few tokens longer than it was within it


def check_window(reader: LatentReader, *, window: int, overlap: int) -> None:
    """Refuse a window that leaves no room beside the chat template, or that the model cannot read.

    Raises:
        ConfigError: such a window.
    """
    frame = _frame(reader, ())
    if window > reader.engine.context_length or not 0 <= overlap < window - frame:
        raise ConfigError(
            f"a window of `{window}` tokens with an overlap of `{overlap}`: the chat template takes {frame}, the model "
            f"reads {reader.engine.context_length}",
            where="window",
            hint=f"Use a window of {frame + overlap + 1} to {reader.engine.context_length} tokens.",
        )


def fitted_windows(
    reader: LatentReader, messages: Sequence[Message], *, position: Position, window: int, overlap: int
) -> JudgedWindows:
    """Windows of at most ``window`` tokens that end with the last message, each with the span of one user turn.

    Args:
        reader: of the model whose template is rendered.
        messages: the conversation up to the judged message.
        position: the spans end with: the turn's last token, or the token before the assistant's first.
        window: tokens.
        overlap: tokens that consecutive pieces of a message share that does not fit.

    Returns:
        One window a turn, all of the same ids, where the conversation fits; system messages are always kept, oldest
        turns are left out first and counted; pieces of the last message where it does not fit alone.

    Raises:
        DataError: an empty instruction, one whose end cannot be told from the template, or no room beside the system
            messages.
    """
    ruling = [message for message in messages[:-1] if message.role in _RULING]
    turns = [message for message in messages[:-1] if message.role not in _RULING] + list(messages[-1:])
    whole = reader.engine.chat.encode(Conversation((*ruling, *turns)))
    total = len(whole.ids)
    for start in _openings(turns):
        if total - whole.spans[len(ruling) + start].start > window:
            continue  # the turns alone are too long, whatever the template adds
        kept = (*ruling, *turns[start:])
        ids = reader.engine.chat.encode(Conversation(kept)).ids
        if len(ids) <= window:
            return JudgedWindows(tuple(_turn_windows(reader, kept, position)), total - len(ids))
    pieces = _pieces(reader, ruling, turns[-1].text, window=window, overlap=overlap)
    dropped = max(0, total - len(reader.engine.chat.encode(Conversation((*ruling, turns[-1]))).ids))
    return JudgedWindows(
        tuple(w for piece in pieces for w in _turn_windows(reader, (*ruling, piece), position)), dropped
    )


def _openings(turns: Sequence[Message]) -> Iterator[int]:
    """Where a conversation may begin once older turns are left out: at a user's turn, or at the last message."""
    yield 0
    yield from (i for i in range(1, len(turns) - 1) if turns[i].role == "user")
    if len(turns) > 1:
        yield len(turns) - 1


def _turn_windows(reader: LatentReader, messages: Sequence[Message], position: Position) -> Iterator[Window]:
    """One window for each message that instructs; ids are the same, so they are read once."""
    located = reader.locate(Conversation(tuple(messages)))
    encoded = reader.engine.chat.encode(Conversation(tuple(messages)))
    for index, (message, following) in enumerate(pairwise(messages)):
        span, after = encoded.spans[index], encoded.spans[index + 1]
        stop = span.stop - encoded.shared_ends[index]
        if message.role in _INSTRUCTING and stop > span.start:
            answered = position == "prompt" and following.role == "assistant" and after.start > span.start
            yield Window(located.ids, span.start, after.start if answered else stop)
    last = located.instruction
    yield Window(located.ids, last.start, len(located.ids) if position == "prompt" else last.stop)


def _pieces(
    reader: LatentReader, ruling: Sequence[Message], text: str, *, window: int, overlap: int
) -> Iterator[Message]:
    ids, ends = reader.engine.chat.encode_text_with_ends(text)
    room = window - _frame(reader, ruling) - _SLACK
    if room <= overlap:
        raise DataError("the system messages leave no room for the prompt", hint="Raise the guard's `window`.")
    starts = [0, *ends[:-1]]
    for first, stop in window_spans(len(ids), room, overlap):
        piece = text[starts[first] : ends[stop - 1]]
        if piece.strip():
            yield Message.of("user", piece)


def _frame(reader: LatentReader, ruling: Sequence[Message]) -> int:
    """Tokens of everything around a one-letter prompt."""
    return len(reader.locate(Conversation((*ruling, Message.of("user", "a")))).ids)
