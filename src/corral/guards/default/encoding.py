"""How the default guard reads a conversation: turns, the judged message last, nothing after it.

A decoder reads ChatML: ``<|im_start|>user\\n`` + text + ``<|im_end|>\\n`` for every turn, without the model's default
system prompt (the guard judges what people wrote, not a prompt that nobody wrote). An encoder of the E5 family (arXiv
2402.05672) reads ``<s>``, then ``query:`` + text + ``</s>`` for what people wrote and ``passage:`` for everything else.
Text is encoded with control tokens switched off, so that a message that spells ``<|im_end|>`` cannot end its own turn.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal, NamedTuple, Self

from tokenizers import Tokenizer

from corral.core.errors import ConfigError
from corral.data.messages import Conversation, Message, Target
from corral.models.loading import is_encoder, load_text_tokens
from corral.models.text_tokens import FastTokens, TextTokens

_ROLES: Final = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant", "tool": "tool"}
Turns = Literal["chatml", "e5"]
"""What a decoder reads, and what an encoder does."""
_E5_PREFIXES: Final = {role: "query:" if role == "user" else "passage:" for role in _ROLES}


class JudgedTokens(NamedTuple):
    """Token ids of one judged message and what stands before it.

    Attributes:
        context: the turns before the judged message.
        header: opens the judged turn.
        text: the judged message itself.
        end: closes the judged turn; the heads read it together with ``text``.
    """

    context: list[int]
    header: list[int]
    text: list[int]
    end: list[int]


class WholeTokens(NamedTuple):
    """Token ids of a whole conversation, and the span ``start:stop`` of its judged message with its closing token."""

    ids: list[int]
    start: int
    stop: int


def clip_context(conversation: Conversation, target: Target, *, max_chars: int) -> tuple[Conversation, int]:
    """The conversation with at most ``max_chars`` characters before the judged message, and how many were left out.

    The characters nearest to the judged message stay; that message is never cut. What follows it is dropped when it is
    longer than ``max_chars``: a causal decoder does not need it. Tokenising megabytes of context that no window has
    room for would cost a guard its latency.
    """
    index = conversation.judged_index(target)
    if index is None:
        return conversation, 0
    room, dropped = max_chars, 0
    nearest_first: list[Message] = []
    for message in reversed(conversation.messages[:index]):
        text = message.text
        kept = text[max(0, len(text) - room) :] if room else ""
        dropped += len(text) - len(kept)
        room -= len(kept)
        if kept or not text:
            nearest_first.append(message if kept == text else Message.of(message.role, kept))
    after = conversation.messages[index + 1 :]
    if sum(len(message.text) for message in after) > max_chars:
        after = ()
    return Conversation((*reversed(nearest_first), conversation.messages[index], *after), conversation.id), dropped


class ConversationEncoder:
    """Turns conversations into token ids.

    Args:
        tokenizer: knows the control tokens of its turns; a bare ``tokenizers.Tokenizer`` is owned by this object from
            here on.
        turns: how a conversation is written.

    Attributes:
        beginning: token ids that stand before everything.

    Raises:
        ConfigError: the tokenizer lacks a control token.
    """

    def __init__(self, tokenizer: Tokenizer | TextTokens, *, turns: Turns = "chatml") -> None:
        self._tokens = FastTokens(tokenizer) if isinstance(tokenizer, Tokenizer) else tokenizer
        plain = self._plain
        self._reads_ahead = turns == "e5"
        if turns == "e5":
            self.beginning = [self._control("<s>")]
            self._end, self._between = self._control("</s>"), []
            self._headers = {role: plain(prefix) for role, prefix in _E5_PREFIXES.items()}
        else:
            start, self._between = self._control("<|im_start|>"), plain("\n")
            self.beginning, self._end = [], self._control("<|im_end|>")
            self._headers = {role: [start, *plain(name), *self._between] for role, name in _ROLES.items()}

    @classmethod
    def for_base(cls, base: str | Path) -> Self:
        """For a guard's base model: a decoder's ChatML, or an encoder's queries and passages.

        Raises:
            NotFoundError: no such model, or no tokenizer there.
            MissingDependencyError: an embedded model's package is not installed.
            ConfigError: the tokenizer lacks a control token.
        """
        return cls(load_text_tokens(base), turns="e5" if is_encoder(base) else "chatml")

    @property
    def openings(self) -> list[list[int]]:
        """Token ids that a conversation may begin with: the header of each role."""
        return [[*self.beginning, *ids] for ids in dict.fromkeys(map(tuple, self._headers.values()))]

    def encode(self, conversation: Conversation, target: Target) -> JudgedTokens | None:
        """Token ids of the message that ``target`` names, ``None`` when there is none."""
        return self.encode_batch([(conversation, target)])[0]

    def encode_whole(self, conversation: Conversation, target: Target) -> WholeTokens | None:
        """Token ids of all turns, ``None`` when there is no message to judge.

        An encoder sees what follows a token, so for one the judged message is the last. Up to the judged message they
        are ``beginning`` and those of ``encode``.
        """
        index = conversation.judged_index(target)
        if index is None:
            return None
        messages = conversation.messages[: index + 1] if self._reads_ahead else conversation.messages
        texts = [message.text for message in messages]
        encoded = self._tokens.encode_batch(texts)
        ids = list(self.beginning)
        start = stop = 0
        for i, (message, tokens) in enumerate(zip(messages, encoded, strict=True)):
            ids += self._headers[message.role]
            begin = len(ids)
            ids += [*tokens, self._end]
            if i == index:
                start, stop = begin, len(ids)
            if i < len(texts) - 1:
                ids += self._between
        return WholeTokens(ids, start, stop)

    def encode_batch(self, items: Sequence[tuple[Conversation, Target]]) -> list[JudgedTokens | None]:
        """Same as ``encode`` for many, with one call into the tokenizer."""
        indices = [conversation.judged_index(target) for conversation, target in items]
        turns = [
            conversation.messages[: index + 1] if index is not None else ()
            for (conversation, _), index in zip(items, indices, strict=True)
        ]
        texts = [message.text for messages in turns for message in messages]
        encoded = iter(self._tokens.encode_batch(texts))
        return [self._assemble(messages, [next(encoded) for _ in messages]) for messages in turns]

    def _assemble(self, messages: Sequence[Message], ids: Sequence[list[int]]) -> JudgedTokens | None:
        if not messages:
            return None
        context: list[int] = []
        for message, tokens in zip(messages[:-1], ids[:-1], strict=True):
            context += [*self._headers[message.role], *tokens, self._end, *self._between]
        return JudgedTokens(context, list(self._headers[messages[-1].role]), list(ids[-1]), [self._end])

    def _plain(self, text: str) -> list[int]:
        (ids,) = self._tokens.encode_batch([text])
        return ids

    def _control(self, token: str) -> int:
        found = self._tokens.token_to_id(token)
        if found is None:
            raise ConfigError(
                f"the tokenizer has no `{token}`",
                hint="Train the guard on a base model with ChatML turns, or an E5 encoder.",
            )
        return found
