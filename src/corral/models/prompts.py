"""Prompts that go beyond a conversation under the chat template: what tests of a model's defences send.

An engine takes them beside conversations and raw text. They need the model's tokenizer, so an endpoint that only knows
chats cannot take them.
"""

from __future__ import annotations

from dataclasses import dataclass

from corral.data.messages import Conversation


@dataclass(frozen=True, slots=True)
class Prefilled:
    """A conversation whose answer begins with given words; the model goes on from there.

    The words are anybody's text: no control token is read from them. The answer does not repeat them.
    """

    conversation: Conversation
    prefix: str


@dataclass(frozen=True, slots=True)
class PlainText:
    """Text to be continued without a chat template and without control tokens.

    Only the beginning-of-sequence token stands before it, where the tokenizer puts one. Unlike a ``str`` prompt, which
    a program wrote and which may spell control tokens, this is anybody's text.
    """

    text: str


@dataclass(frozen=True, slots=True)
class Unescaped:
    """A conversation in which control tokens that messages spell are read as such: forged turns take effect.

    What a server does that pastes messages into a template and tokenises the whole. For tests of that defect only.
    """

    conversation: Conversation
