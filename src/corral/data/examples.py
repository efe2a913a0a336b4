"""Training and evaluation records, under TRL's column names.

``text`` for language modelling, ``prompt``/``completion``, ``prompt``/``chosen``/``rejected``, ``prompt`` alone, and
``ModerationExample`` for guards. All are frozen; an unknown label is ``None`` (or an absent category), never false.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from corral.data.messages import Conversation, Target

_NOTHING: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class LanguageModelingExample:
    """Running text."""

    text: str
    source: str = ""
    licence: str = ""


@dataclass(frozen=True, slots=True)
class PromptOnlyExample:
    """A prompt whose completion a model will sample."""

    prompt: Conversation
    source: str = ""
    licence: str = ""


@dataclass(frozen=True, slots=True)
class PromptCompletionExample:
    """A prompt and the completion to learn."""

    prompt: Conversation
    completion: str
    source: str = ""
    licence: str = ""


@dataclass(frozen=True, slots=True)
class PreferenceExample:
    """A prompt with a preferred and a dispreferred completion."""

    prompt: Conversation
    chosen: str
    rejected: str
    source: str = ""
    licence: str = ""


@dataclass(frozen=True, slots=True)
class ModerationExample:
    """One judged message in its conversation.

    Attributes:
        conversation: the messages up to and including the judged one.
        target: whether the judged message is the prompt or the response.
        harmful: the judged message breaks the source's policy; ``None`` when the source does not say.
        refusal: the judged response refuses; ``None`` when unknown or when the target is the prompt.
        attack: the judged prompt is an injection or jailbreak attempt; ``None`` when unknown.
        categories: ``taxonomy/code`` to true or false; an absent code is unknown, not false.
        taxonomy: id of the taxonomy that ``categories`` uses, "" when there are none.
        language: ISO 639-1 code, "" when unknown.
        source: name of the data set.
        licence: licence of the text.
        id: unique within the source.
        group: rows that share a prompt, a translation source or a contrast pair share a group; splits and bootstraps
            keep a group whole.
        split: the upstream split, "" when there is none.
        eval_overlap: names of the ``evaluate_only`` sets that hold the same prompt.
        raw: upstream columns that the fields above do not carry.
    """

    conversation: Conversation
    target: Target
    harmful: bool | None = None
    refusal: bool | None = None
    attack: bool | None = None
    categories: Mapping[str, bool] = _NOTHING
    taxonomy: str = ""
    language: str = ""
    source: str = ""
    licence: str = ""
    id: str = ""
    group: str = ""
    split: str = ""
    eval_overlap: tuple[str, ...] = ()
    raw: Mapping[str, Any] = field(default=_NOTHING, compare=False)

    @property
    def text(self) -> str:
        """Text of the judged message ("" when the conversation has no message of that kind)."""
        index = self.conversation.judged_index(self.target)
        return "" if index is None else self.conversation.messages[index].text


def normalise_prompt(text: str) -> str:
    """NFKC, case folded, runs of anything but letters and digits folded to one space."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join("".join(c if c.isalnum() else " " for c in folded).split())


def prompt_key(text: str) -> str:
    """Cluster key of a prompt: 16 hex digits of the SHA-256 of its normalised text."""
    return hashlib.sha256(normalise_prompt(text).encode()).hexdigest()[:16]
