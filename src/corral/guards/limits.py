"""What a guard of text refuses to read: it says so in its verdict, and never cuts the input."""

from __future__ import annotations

from typing import Final

from corral.data.messages import Conversation, Message, Target, TextPart

MAX_CHARS: Final = 200_000


def unreadable(conversation: Conversation, target: Target, *, max_chars: int = MAX_CHARS) -> str | None:
    """Why a guard of text cannot judge this message, or ``None`` when it can.

    Args:
        conversation: the conversation.
        target: the message in it that is to be judged.
        max_chars: longest judged message; earlier turns do not count.
    """
    index = conversation.judged_index(target)
    if index is None:
        return f"the conversation has no {target} to judge"
    message = conversation.messages[index]
    if kinds := _unread_kinds(message):
        return f"the {target} holds {' and '.join(kinds)} content, which this guard does not read"
    if len(message.text) > max_chars:
        return (
            f"the {target} has {len(message.text)} characters, over the limit of {max_chars}; "
            "split it, or raise the limit (max_chars)"
        )
    return None if message.text.strip() else f"the {target} is empty"


def _unread_kinds(message: Message) -> list[str]:
    """Kinds of content other than text, for example ``image``."""
    parts = {type(part) for part in message.content} - {TextPart}
    return sorted(part.__name__.removesuffix("Part").lower() for part in parts)
