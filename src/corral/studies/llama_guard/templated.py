"""Templated text with six invented categories: a mechanism check for tiny random models, harmless by construction.

A category is nothing but a handful of made-up words that trigger it; a request that has none of them is benign. What a
guard can learn here is what the augmentation is about: whether the category that a word belongs to is in the prompt.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import product
from typing import Final

from corral.data.examples import ModerationExample, prompt_key
from corral.data.messages import Conversation
from corral.data.taxonomy import Category, Taxonomy, qualified

TRIGGERS: Final[Mapping[str, tuple[str, ...]]] = {
    "Glimming": ("glimmo", "glarrow", "glonk", "glaspen"),
    "Vorbling": ("vorbo", "vintle", "vasker", "vundle"),
    "Snaffery": ("snaffo", "sneddle", "snorrel", "snimp"),
    "Drubbing": ("drubbo", "drassle", "dremmer", "drunch"),
    "Quollism": ("quollo", "quandle", "quimmet", "quask"),
    "Zentrage": ("zento", "zallop", "zimbrel", "zuffle"),
}
_NEUTRAL: Final = (
    *("lamp", "garden", "bread", "river", "window", "song", "ladder", "basket", "paper", "candle", "bicycle", "hammer"),
    *("blanket", "bottle", "mirror", "carpet", "feather", "button", "spoon", "pencil", "curtain", "pillow", "wallet"),
)
_PLACES: Final = (
    *("school", "market", "harbour", "station", "kitchen", "valley"),
    *("church", "forest", "bridge", "island", "office", "theatre"),
)
_OPENINGS: Final[Mapping[str, tuple[str, ...]]] = {
    "asked": ("Tell me about the {word} near the {place}.", "Where is the {word} of the {place}?"),
    "told": ("My friend saw a {word} at the {place}.", "A {word} came to the {place} today."),
}

INVENTED: Final = Taxonomy(
    "invented",
    "1",
    "Six invented categories",
    "made up for the mechanism check",
    tuple(Category(f"S{n}", name, f"Speaks of {name.lower()}.") for n, name in enumerate(TRIGGERS, start=1)),
)
INVENTED_TARGET: Final = Taxonomy(
    "invented_target",
    "1",
    "Two invented categories, each over two of the six; the other two are allowed",
    "made up for the mechanism check",
    (Category("coast", "Coastwork", "Glimming or vorbling."), Category("hill", "Hillcraft", "Snaffery or drubbing.")),
)
_TARGET: Final[Mapping[str, str]] = {"Glimming": "coast", "Vorbling": "coast", "Snaffery": "hill", "Drubbing": "hill"}


def templated_rows(style: str, policy: Taxonomy, *others: Taxonomy) -> Iterator[ModerationExample]:
    """Every sentence of a style.

    Args:
        style: ``asked`` or ``told``.
        policy: ``INVENTED`` or ``INVENTED_TARGET``; a row is harmful when it violates one of its categories.
        others: taxonomies whose labels the rows have as well.
    """
    words = [(name, word) for name, triggers in TRIGGERS.items() for word in triggers]
    words += [("", word) for word in _NEUTRAL]
    for number, (template, place, (name, word)) in enumerate(product(_OPENINGS[style], _PLACES, words)):
        text = template.format(word=word, place=place)
        yield ModerationExample(
            Conversation.user(text),
            "prompt",
            harmful=bool(_code(name, policy)),
            attack=False,
            categories={
                qualified(taxonomy, code): code == _code(name, taxonomy)
                for taxonomy in (policy, *others)
                for code in taxonomy.codes
            },
            taxonomy=policy.id,
            language="en",
            source=f"templated_{style}",
            licence="Apache-2.0",
            id=str(number),
            group=prompt_key(text),
        )


def _code(name: str, taxonomy: Taxonomy) -> str:
    """Bare code of the category that a trigger's name means in a taxonomy, "" for none."""
    if taxonomy is INVENTED_TARGET:
        return _TARGET.get(name, "")
    return next((category.code for category in taxonomy.categories if category.name == name), "")
