"""Counting what a model reads: in tokens where its tokenizer is at hand, else in bytes.

No byte-level vocabulary makes more tokens of a text than it has bytes in UTF-8.
"""

from __future__ import annotations

from typing import Final, Protocol

from corral.core.errors import ConfigError
from corral.data.messages import Conversation
from corral.models.chat import ChatTokenizer
from corral.models.engines.base import Engine, Prompt
from corral.models.plain_text import control_token_ids
from corral.models.prompts import PlainText, Prefilled, Unescaped

MAX_WINDOW: Final = 8192
_CHAT_TEMPLATE_BYTES: Final = 512


class Meter(Protocol):
    """Counts what a model reads."""

    def spans(self, text: str) -> list[tuple[int, int]]:
        """Characters ``start:stop`` of each token of a text; tokens that share a character repeat it."""

    def length(self, prompt: Prompt) -> int:
        """Tokens of a prompt, chat format included."""


class TokenMeter:
    """Counts with the model's tokenizer.

    Args:
        chat: the tokenizer, with the template that frames prompts.
    """

    def __init__(self, chat: ChatTokenizer) -> None:
        self._chat = chat
        self._control_ids = control_token_ids(chat.backend)

    def spans(self, text: str) -> list[tuple[int, int]]:
        """Characters of each token; of each byte when the text spells a control token, which it is not read as."""
        encoding = self._chat.backend.encode(text, add_special_tokens=False)
        if not self._control_ids.isdisjoint(encoding.ids):
            return ByteMeter().spans(text)
        return list(encoding.offsets)

    def length(self, prompt: Prompt) -> int:
        """Tokens of a prompt."""
        return len(self._chat.encode_prompt(prompt))


class ByteMeter:
    """Counts bytes of UTF-8, and for a conversation what a chat template may add to it."""

    def spans(self, text: str) -> list[tuple[int, int]]:
        """The character of each byte."""
        return [(i, i + 1) for i, character in enumerate(text) for _ in character.encode(errors="surrogatepass")]

    def length(self, prompt: Prompt) -> int:
        """Bytes of a prompt."""
        match prompt:
            case str(text) | PlainText(text):
                return len(self.spans(text))
            case Prefilled(conversation, prefix):
                return self.length(conversation) + len(self.spans(prefix))
            case Unescaped(conversation):
                return self.length(conversation)
            case Conversation(messages):
                return _CHAT_TEMPLATE_BYTES + sum(len(self.spans(message.text)) for message in messages)


def meter_for(engine: Engine) -> TokenMeter | ByteMeter:
    """Tokens for an engine that has its model's tokenizer, else bytes."""
    chat = getattr(engine, "chat", None)
    return TokenMeter(chat) if isinstance(chat, ChatTokenizer) else ByteMeter()


def window_for(engine: Engine, given: int | None) -> int:
    """Tokens that a prompt and its answer may have: as given, else the model's context, 8,192 at most.

    Raises:
        ConfigError: more than the model's context.
    """
    context = getattr(engine, "context_length", None)
    longest = context if isinstance(context, int) else None
    if given is None:
        return MAX_WINDOW if longest is None else min(longest, MAX_WINDOW)
    if longest is not None and given > longest:
        raise ConfigError(f"a window of `{given}` tokens is longer than the model's {longest}", where="window")
    return given
