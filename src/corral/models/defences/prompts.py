"""Defences that change what a model is asked.

- Self-Reminder (Xie et al., Nature Machine Intelligence 2023): a reminder before and after the user's words.
- In-context refusal (ICD; Wei et al., arXiv 2310.06387): refusals of harmful requests as earlier turns.
- Paraphrase (Jain et al., arXiv 2309.00614, section 4.2): another model puts the request in its own words.

The wordings are ours. All act on the conversation alone, so they work with any engine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from importlib import resources
from typing import Final, Protocol

from corral.core.config import Config, load_config
from corral.core.files import sha256_json
from corral.core.yaml import parse_yaml
from corral.data.messages import Conversation, TextPart
from corral.models.engines.base import Engine, GenerationSettings

_WORDING: Final = "wording.yaml"
_SLOT: Final = "{text}"


class PromptDefence(Protocol):
    """Rewrites conversations before a model reads them."""

    @property
    def name(self) -> str:
        """For example ``self-reminder``."""

    @property
    def revision(self) -> str:
        """Hash of everything that the rewriting depends on."""

    def rewrite(self, conversations: Sequence[Conversation]) -> list[Conversation]:
        """What the model is asked instead; same length and order."""


class _Reminder(Config):
    before: str
    after: str


class _Demonstration(Config):
    request: str
    reply: str


class _Wording(Config):
    version: int
    self_reminder: _Reminder
    in_context_refusal: tuple[_Demonstration, ...]
    paraphrase: str


@cache
def _wording() -> _Wording:
    text = (resources.files(__package__) / _WORDING).read_text(encoding="utf-8")
    return load_config(_Wording, parse_yaml(text, where=_WORDING))


class SelfReminder:
    """Puts a reminder before and after the last message of the user."""

    name = "self-reminder"

    @property
    def revision(self) -> str:
        """Hash of the wording."""
        return sha256_json(_wording().self_reminder.model_dump())[:16]

    def rewrite(self, conversations: Sequence[Conversation]) -> list[Conversation]:
        """See ``PromptDefence``."""
        words = _wording().self_reminder
        return [_with_words(each, f"{words.before}\n{_last_words(each)}\n{words.after}") for each in conversations]


class InContextRefusal:
    """Shows refused requests as turns before the first message that is not the system's.

    Args:
        demonstrations: (request, refusal) pairs; our own by default.
    """

    name = "in-context-refusal"

    def __init__(self, demonstrations: Sequence[tuple[str, str]] | None = None) -> None:
        own = [(each.request, each.reply) for each in _wording().in_context_refusal]
        self._demonstrations = own if demonstrations is None else list(demonstrations)

    @property
    def revision(self) -> str:
        """Hash of the demonstrations."""
        return sha256_json(self._demonstrations)[:16]

    def rewrite(self, conversations: Sequence[Conversation]) -> list[Conversation]:
        """See ``PromptDefence``."""
        shown = [message for pair in self._demonstrations for message in Conversation.exchange(*pair).messages]
        rewritten = []
        for conversation in conversations:
            messages = conversation.messages
            begin = next((i for i, m in enumerate(messages) if m.role not in ("system", "developer")), len(messages))
            rewritten.append(Conversation((*messages[:begin], *shown, *messages[begin:])))
        return rewritten


class Paraphrase:
    """Lets an engine put the last message of the user in other words; what it leaves empty stays as it was.

    Args:
        engine: rewrites, greedily.
        revision: of its weights.
        max_new_tokens: of a rewritten message.
    """

    name = "paraphrase"

    def __init__(self, engine: Engine, *, revision: str = "", max_new_tokens: int = 128) -> None:
        self._engine = engine
        self._settings = GenerationSettings(max_new_tokens=max_new_tokens)
        self.revision = sha256_json([_wording().paraphrase, engine.name, revision, max_new_tokens])[:16]

    def rewrite(self, conversations: Sequence[Conversation]) -> list[Conversation]:
        """See ``PromptDefence``.

        Raises:
            DataError: a message that does not fit the engine's context.
            EngineError: the engine could not answer.
        """
        texts = [_last_words(conversation) for conversation in conversations]
        asked = [Conversation.user(_wording().paraphrase.replace(_SLOT, text)) for text in texts]
        answers = self._engine.generate(asked, self._settings)
        said = [answer.text.strip() or text for answer, text in zip(answers, texts, strict=True)]
        return [_with_words(conversation, text) for conversation, text in zip(conversations, said, strict=True)]


def _with_words(conversation: Conversation, text: str) -> Conversation:
    """The conversation with another text in the user's last message, if there is one."""
    index = _last_user(conversation)
    if index is None:
        return conversation
    messages = list(conversation.messages)
    others = tuple(part for part in messages[index].content if not isinstance(part, TextPart))
    messages[index] = replace(messages[index], content=(TextPart(text), *others))
    return Conversation(tuple(messages))


def _last_words(conversation: Conversation) -> str:
    index = _last_user(conversation)
    return "" if index is None else conversation.messages[index].text


def _last_user(conversation: Conversation) -> int | None:
    return next(
        (i for i in reversed(range(len(conversation.messages))) if conversation.messages[i].role == "user"), None
    )
