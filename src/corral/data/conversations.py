"""Rows to conversations: ``messages`` in OpenAI's shapes, ``prompt`` with an optional ``response``, or ``text``.

The first of the three that a row has (null counts as absent) is read; other columns are left alone. An empty
``response`` is no response, since CSV cannot tell the two apart.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Final

from corral.core.errors import DataError
from corral.data.messages import Conversation, Message
from corral.data.readers import Item, OnReject, RejectedRow, Row, accepted, as_json

CONTENT_COLUMNS: Final = ("messages", "prompt", "text")
_SHOWN_COLUMNS: Final = 6


def conversation_from_row(row: Row) -> Conversation:
    """The conversation of one row; its id is the row's ``id``, or else the line number.

    Raises:
        DataError: no known column, a value of the wrong type, a malformed message, or no text at all; ``where`` names
            the field.
    """
    id = _id(row)
    value = row.value
    if value.get("messages") is not None:
        return Conversation.from_openai(value["messages"], id=id)
    if value.get("prompt") is not None:
        return replace(_exchange(value["prompt"], value.get("response")), id=id)
    if value.get("text") is not None:
        return Conversation.user(_filled(_text(value["text"], "text"), "text"), id=id)
    known = ", ".join(f"`{column}`" for column in CONTENT_COLUMNS)
    raise DataError(f"none of the columns {known} is filled; the row has {_columns(value)}")


def conversation_items(items: Iterable[Item]) -> Iterator[Conversation | RejectedRow]:
    """Turn rows into conversations, and rows that hold none into rejects; the order is kept."""
    for item in items:
        if isinstance(item, RejectedRow):
            yield item
            continue
        try:
            yield conversation_from_row(item)
        except DataError as error:
            reason = f"{error.where}: {error.message}" if error.where else error.message
            yield RejectedRow(item.path, item.line, reason, as_json(item.value))


def conversations_from_rows(
    rows: Iterable[Item],
    *,
    strict: bool = False,
    on_reject: OnReject | None = None,
) -> Iterator[Conversation]:
    """Yield the conversations of the rows that hold one.

    Args:
        rows: as ``read_rows`` or ``read_items`` yields them.
        strict: raise at the first row that holds no conversation.
        on_reject: called with each such row; without it, each is logged as a warning.

    Raises:
        DataError: with ``strict``; names path and line.
    """
    return accepted(conversation_items(rows), strict=strict, on_reject=on_reject)


def _id(row: Row) -> str:
    given = row.value.get("id")
    if given is None:
        return str(row.line)
    if isinstance(given, bool) or not isinstance(given, str | int):
        raise DataError(f"expected text or a whole number, got {type(given).__name__}", where="id")
    return str(given)


def _exchange(prompt: object, response: object) -> Conversation:
    """A prompt as text or, in TRL's conversational form, as a list of messages; then the response, if any."""
    answered = response is not None and response != ""
    turns: tuple[Message, ...]
    if isinstance(prompt, str):
        turns = (Message.of("user", prompt if answered else _filled(prompt, "prompt")),)
    else:
        turns = Conversation.from_openai(prompt, where="prompt").messages
    if answered:
        turns += (Message.of("assistant", _text(response, "response")),)
    return Conversation(turns)


def _text(value: object, column: str) -> str:
    if not isinstance(value, str):
        raise DataError(f"expected text, got {type(value).__name__}", where=column)
    return value


def _filled(text: str, column: str) -> str:
    if not text.strip():
        raise DataError("there is no text to judge", where=column)
    return text


def _columns(value: Mapping[str, Any]) -> str:
    if not value:
        return "no columns"
    names = [f"`{name[:40]}`" for name in value]
    return ", ".join(names[:_SHOWN_COLUMNS]) + (", ..." if len(names) > _SHOWN_COLUMNS else "")
