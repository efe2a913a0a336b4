"""Training and evaluation records, under TRL's column names.

``text`` for language modelling, ``prompt``/``completion``, ``prompt``/``chosen``/``rejected``, ``prompt`` alone, and
``ModerationExample`` for guards. All are frozen; an unknown label is ``None`` (or an absent category), never false.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from corral.core.errors import DataError, suggest
from corral.core.files import sha256_json
from corral.data.messages import TARGETS, Conversation, Target


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
    """A prompt and the completion to learn.

    ``complete`` is false of a completion that was cut off: its end is no end of a turn.
    """

    prompt: Conversation
    completion: str
    source: str = ""
    licence: str = ""
    complete: bool = True


@dataclass(frozen=True, slots=True)
class PreferenceExample:
    """A prompt with a preferred and a dispreferred completion.

    ``chosen_complete`` and ``rejected_complete`` are false of a completion that was cut off.
    """

    prompt: Conversation
    chosen: str
    rejected: str
    source: str = ""
    licence: str = ""
    chosen_complete: bool = True
    rejected_complete: bool = True


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
    categories: Mapping[str, bool] = field(default_factory=dict, hash=False)
    taxonomy: str = ""
    language: str = ""
    source: str = ""
    licence: str = ""
    id: str = ""
    group: str = ""
    split: str = ""
    eval_overlap: tuple[str, ...] = ()
    raw: Mapping[str, Any] = field(default_factory=dict, compare=False)

    @property
    def text(self) -> str:
        """Text of the judged message ("" when the conversation has no message of that kind)."""
        index = self.conversation.judged_index(self.target)
        return "" if index is None else self.conversation.messages[index].text


_NOT_ALPHANUMERIC: Final = re.compile(r"[\W_]+")


def normalise_prompt(text: str) -> str:
    """NFKC, case folded, runs of anything but letters and digits folded to one space."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return _NOT_ALPHANUMERIC.sub(" ", folded).strip()


def prompt_key(text: str) -> str:
    """Cluster key of a prompt: 16 hex digits of the SHA-256 of its normalised text.

    A text of signs alone (emoji, code) normalises to nothing and is keyed by itself, or all such would be one cluster.
    """
    normalised = normalise_prompt(text) or text.strip()
    return hashlib.sha256(normalised.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def example_to_json(example: ModerationExample) -> dict[str, Any]:
    """A moderation example as plain JSON values, read back by ``example_from_json``; ``raw`` is left out."""
    return {
        "messages": example.conversation.to_openai(),
        "target": example.target,
        "harmful": example.harmful,
        "refusal": example.refusal,
        "attack": example.attack,
        "categories": dict(example.categories),
        "taxonomy": example.taxonomy,
        "language": example.language,
        "source": example.source,
        "licence": example.licence,
        "id": example.id,
        "group": example.group,
        "split": example.split,
        "eval_overlap": list(example.eval_overlap),
    }


def rows_hash(rows: Iterable[ModerationExample]) -> str:
    """Hash of texts and labels, by which what was computed from rows is found again."""
    return sha256_json([example_to_json(row) for row in rows])


def example_from_json(value: Mapping[str, Any], *, where: str = "row") -> ModerationExample:
    """A moderation example from JSON values; only ``messages`` and ``target`` are required.

    Raises:
        DataError: a malformed conversation, an unknown key, or a value of the wrong type; names the field.
    """
    known = ("messages", "target", *_JSON_LABELS, *_JSON_TEXTS, "categories", "eval_overlap")
    if unknown := sorted(set(value) - set(known)):
        raise DataError(f"unknown key `{unknown[0]}`", where=where, hint=suggest(unknown[0], known))
    target = value.get("target")
    if target not in TARGETS:
        raise DataError(f"target is `{target}`", where=f"{where}.target", hint="Use `prompt` or `response`.")
    labels = {name: _typed(value.get(name), bool | None, f"{where}.{name}") for name in _JSON_LABELS}
    texts = {name: _typed(value.get(name, ""), str, f"{where}.{name}") for name in _JSON_TEXTS}
    categories = _typed(value.get("categories", {}), Mapping, f"{where}.categories")
    overlap = _typed(value.get("eval_overlap", []), list | tuple, f"{where}.eval_overlap")
    example = ModerationExample(
        Conversation.from_openai(value.get("messages"), where=f"{where}.messages"),
        target,
        **labels,
        **texts,
        categories={code: _typed(label, bool, f"{where}.categories.{code}") for code, label in categories.items()},
        eval_overlap=tuple(_typed(name, str, f"{where}.eval_overlap") for name in overlap),
    )
    return example if example.group else replace(example, group=prompt_key(example.text))


_JSON_LABELS: Final = ("harmful", "refusal", "attack")
_JSON_TEXTS: Final = ("taxonomy", "language", "source", "licence", "id", "group", "split")


def _typed(value: Any, kind: Any, where: str) -> Any:
    """The value itself, once its type is known to be right."""
    if not isinstance(value, kind):
        raise DataError(f"is `{str(value)[:40]}`, of type {type(value).__name__}", where=where)
    return value
