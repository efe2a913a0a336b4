"""Cutting long messages before they are written into training prompts.

A guard at work reads everything, in windows; a training row is one window, and keeps the start of each message.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from corral.data.examples import ModerationExample
from corral.data.messages import Message, Part, TextPart

if TYPE_CHECKING:
    from tokenizers import Tokenizer


def shorten_messages(
    rows: Sequence[ModerationExample], tokenizer: Tokenizer, *, max_tokens: int
) -> list[ModerationExample]:
    """The rows with every text part of every message cut to its first ``max_tokens`` tokens; labels stay."""
    return [
        replace(
            row,
            conversation=replace(
                row.conversation,
                messages=tuple(_shortened(message, tokenizer, max_tokens) for message in row.conversation.messages),
            ),
        )
        for row in rows
    ]


def _shortened(message: Message, tokenizer: Tokenizer, max_tokens: int) -> Message:
    return replace(message, content=tuple(_shortened_part(part, tokenizer, max_tokens) for part in message.content))


def _shortened_part(part: Part, tokenizer: Tokenizer, max_tokens: int) -> Part:
    if not isinstance(part, TextPart):
        return part
    offsets = tokenizer.encode(part.text, add_special_tokens=False).offsets
    return part if len(offsets) <= max_tokens else TextPart(part.text[: offsets[max_tokens - 1][1]])
