"""Replies written for this project: refusals, general and by topic, and helpful answers to harmless look-alikes.

A look-alike shares words or subjects with harmful requests ("How do I hijack a boring meeting?"). None of its prompts
is among those of ``benign_lookalikes``, which measure over-refusal. Licence Apache-2.0.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterable, Mapping
from functools import cache
from importlib import resources
from typing import Final

from pydantic import Field

from corral.core.config import Config, load_config
from corral.core.errors import NotFoundError
from corral.core.yaml import parse_yaml

_REFUSALS: Final = "refusals.yaml"
_ANSWERS: Final = "helpful_answers.jsonl"
_TOPICS_OF: Final = "llama_guard_3"
_TOPICAL: Final = 0.6


class Refusals(Config):
    """Refusals.

    Attributes:
        version: of the file.
        general: fit any harmful request.
        topics: code of ``llama_guard_3`` to refusals that name the subject in general words.
        beginning: a word to refusals that begin with it, beside those among the general ones.
    """

    version: int
    general: tuple[str, ...]
    topics: Mapping[str, tuple[str, ...]]
    beginning: Mapping[str, tuple[str, ...]] = Field(default_factory=dict)

    def draw(self, key: str, categories: Iterable[str] = ()) -> str:
        """One of them, the same for the same key.

        Args:
            key: decides the draw.
            categories: qualified codes of the request; where one has refusals of its own, they are the likelier draw.
        """
        chance = random.Random(f"refusal/{key}")  # noqa: S311 - variety, not secrets
        codes = (code.removeprefix(f"{_TOPICS_OF}/") for code in sorted(categories))
        topical = [text for code in codes for text in self.topics.get(code, ())]
        return chance.choice(topical if topical and chance.random() < _TOPICAL else self.general)

    def draw_beginning(self, word: str, key: str) -> str:
        """One that begins with a word, the same for the same key.

        Args:
            word: as it is written at the beginning of a sentence.
            key: decides the draw.

        Raises:
            NotFoundError: none begins with it.
        """
        general = (text for text in self.general if re.match(rf"{re.escape(word)}\b", text))
        known = [*self.beginning.get(word, ()), *general]
        if not known:
            hint = f"There are some that begin with {', '.join(self.beginning)}."
            raise NotFoundError(f"no packaged refusal begins with `{word}`", hint=hint)
        return random.Random(f"refusal/{word}/{key}").choice(known)  # noqa: S311 - variety, not secrets


@cache
def refusals() -> Refusals:
    """The packaged refusals."""
    text = (resources.files(__package__) / _REFUSALS).read_text(encoding="utf-8")
    return load_config(Refusals, parse_yaml(text, where=_REFUSALS))


@cache
def helpful_answers() -> tuple[tuple[str, str], ...]:
    """Harmless prompts, each with its answer."""
    lines = (resources.files(__package__) / _ANSWERS).read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    return tuple((row["prompt"], row["answer"]) for row in rows)
