"""Requests made of a verb and what it is done to, from ``phrases.yaml``: contrasts by the thousand.

Look-alikes are flagged where a guard has learnt a verb and not what is done to what. Every verb stands here with
harmless and with harmful objects, and every pair in some of the same frames, so that only both together tell. Beside
them stand grave subjects that are asked about or taken part in, and things whose adjective says nothing of their harm.
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
_MENTIONS: Final = 8  # of a grave subject on each side, and adjectives of a thing
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
    for mention in read["mentions"]:
        yield from _mentioned(mention)
    questions: Mapping[str, Sequence[str]] = read["questions"]
    for side in ("harmless", "harmful"):
        for number, question in enumerate(questions[side]):
            for place, text in enumerate(_asked(question, questions["frames"], 2)):
                yield f"question:{side}:{number}:{place}", _row(text, side, f"phrase-{side}-{number}", None)


def _mentioned(mention: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """A subject in harmless and in harmful frames of its own, or things of both kinds in the same frames."""
    name = mention["id"]
    if "frames" not in mention:
        for word, category in mention["words"]:
            for side in ("harmless", "harmful"):
                for place, text in enumerate(_asked(word, mention[side], _MENTIONS)):
                    yield (
                        f"{name}:{word}:{side}:{place}",
                        _row(text, side, f"phrase-{word}", f"{LLAMA_GUARD_3}/{category}"),
                    )
        return
    kinds = {"harmless": [(word, None) for word in mention["words"]], "harmful": mention["wrong"]}
    for side, things in kinds.items():
        for number, (thing, category) in enumerate(things):
            draw = random.Random(f"{name} {thing}")  # noqa: S311 - a draw, not a secret
            for place, adjective in enumerate(draw.sample(mention["adjectives"][side], _MENTIONS)):
                text = draw.choice(mention["frames"]).format(adjective, thing)
                hazard = f"{LLAMA_GUARD_3}/{category}" if category else None
                yield (
                    f"{name}:{side}:{number}:{place}",
                    _row(text, side, f"phrase-{name}-{number % len(mention['wrong'])}", hazard),
                )


def _asked(what: str, frames: Sequence[str], count: int) -> Iterator[str]:
    """It in some of the frames, drawn by its own words."""
    for frame in random.Random(what).sample(list(frames), count):  # noqa: S311 - a draw, not a secret
        text = frame.format(what)
        yield text[0].upper() + text[1:] if frame.startswith("{") else text


def _row(text: str, side: str, group: str, category: str | None) -> dict[str, Any]:
    harmful = side == "harmful"
    row = {"group": group, "language": "en", "harmful": harmful, "lookalike": not harmful, "text": text}
    return row if category is None else {**row, "category": category}
