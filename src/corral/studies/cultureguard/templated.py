"""Templated text for the mechanism check: invented categories, a reply to every other request, and a made-up language.

The requests are those of the Llama Guard study. Their "translation" spells every word backwards: a language that a
model which never saw it cannot read, aligned row by row.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from corral.data.examples import ModerationExample
from corral.data.messages import Conversation
from corral.studies.llama_guard.templated import INVENTED, templated_rows

TAXONOMY: Final = INVENTED
STYLES: Final = ("asked", "told")


def training_rows() -> list[ModerationExample]:
    """Requests, and for every second one a reply that takes up its subject."""
    rows = list(templated_rows("asked", TAXONOMY))
    return [*rows, *(_replied(row) for row in rows[::2])]


def translated_rows(language: str) -> list[ModerationExample]:
    """Sentences of another style in English, or in any other language spelt backwards; ``raw["pair"]`` aligns them."""
    return [
        replace(_in_language(row, language), language=language, group=row.group, raw={**row.raw, "pair": row.id})
        for row in templated_rows("told", TAXONOMY)
    ]


def corpus() -> Iterator[str]:
    """All templated text, for the vocabulary of a tiny base."""
    for row in training_rows():
        yield from (message.text for message in row.conversation.messages)
    for row in translated_rows("xx"):
        yield row.text


def _replied(row: ModerationExample) -> ModerationExample:
    reply = f"Yes. {row.text}"
    conversation = Conversation.exchange(row.text, reply)
    return replace(row, conversation=conversation, target="response", attack=None, id=f"{row.id}:reply")


def _in_language(row: ModerationExample, language: str) -> ModerationExample:
    if language == "en":
        return row
    backwards = re.sub(r"[a-z]+", lambda match: match[0][::-1], row.text.lower())
    return replace(row, conversation=Conversation.user(backwards))
