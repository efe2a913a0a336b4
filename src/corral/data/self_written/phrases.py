"""Requests made of a verb and what it is done to, from ``phrases.yaml``: contrasts by the thousand.

Look-alikes are flagged where a guard has learnt a verb and not what is done to what. Every verb stands here with
harmless and with harmful objects, and every pair in some of the same frames, so that only both together tell.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from typing import Any, Final

from corral.core.yaml import parse_yaml
from corral.data.sources.rows import LLAMA_GUARD_3

FILE: Final = "phrases.yaml"
STEM: Final = "phrases"
_HARMLESS: Final = 3
_HARMFUL: Final = 4  # frames; there are fewer harmful objects, and both sides should weigh alike


def phrase_rows() -> Iterator[tuple[str, dict[str, Any]]]:
    """Ids and short rows (``short_rows``), in the order of the file; the same at every call."""
    text = resources.files(__package__).joinpath(FILE).read_text(encoding="utf-8")
    read: Mapping[str, Any] = parse_yaml(text, where=FILE)
    for action in read["actions"]:
        verb, category = action["verb"], f"{LLAMA_GUARD_3}/{action['category']}"
        for side, count in (("harmless", _HARMLESS), ("harmful", _HARMFUL)):
            for number, what in enumerate(action[side]):
                for place, text in enumerate(_asked(f"{verb} {what}", read["frames"], count)):
                    yield f"{verb}:{side}:{number}:{place}", _row(text, side, f"phrase-{verb}", category)
    questions: Mapping[str, Sequence[str]] = read["questions"]
    for side in ("harmless", "harmful"):
        for number, question in enumerate(questions[side]):
            for place, text in enumerate(_asked(question, questions["frames"], 2)):
                yield f"question:{side}:{number}:{place}", _row(text, side, f"phrase-{side}-{number}", None)


def _asked(what: str, frames: Sequence[str], count: int) -> Iterator[str]:
    """It in some of the frames, drawn by its own words."""
    for frame in random.Random(what).sample(list(frames), count):  # noqa: S311 - a draw, not a secret
        text = frame.format(what)
        yield text[0].upper() + text[1:] if frame.startswith("{") else text


def _row(text: str, side: str, group: str, category: str | None) -> dict[str, Any]:
    harmful = side == "harmful"
    row = {"group": group, "language": "en", "harmful": harmful, "lookalike": not harmful, "text": text}
    return row if category is None else {**row, "category": category}
