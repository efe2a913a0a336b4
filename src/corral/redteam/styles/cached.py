"""Attacks of public corpora, read from the user's data folder: their text is never packaged, and keeps its licence."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from corral.core.errors import NotFoundError
from corral.data.sources import SOURCES, load_source
from corral.redteam.styles.base import RuleStyle, Style
from corral.redteam.styles.prompt import CachedTemplate, Draft, Needs, NotApplicable, StyleContext
from corral.redteam.styles.templates import StyleFactory

_SLOTS: Final[Mapping[str, tuple[str, str]]] = {
    "gptfuzz": ("gptfuzz_templates", "[INSERT PROMPT HERE]"),
    "pyrit_jailbreak_templates": ("templates", "{{ prompt }}"),
}
"""Source to its file of templates and the slot that they have for a request."""


def load_templates(root: Path | None = None) -> tuple[CachedTemplate, ...]:
    """Templates with one slot of the corpora that are in the data folder; none where there are none."""
    return tuple(each for name in _SLOTS for each in _templates(name, root))


def jailbreak_chat() -> Style:
    """A template that people shared, drawn at random."""

    def rule(draft: Draft, rng: random.Random, context: StyleContext) -> Draft | NotApplicable:
        if not context.templates:
            return NotApplicable("no corpus of templates is in the data folder")
        drawn = rng.choice(context.templates)
        before, slot, after = drawn.template.partition(_SLOTS[drawn.source][1])
        if not slot:
            return NotApplicable(f"template `{drawn.id}` has no slot")
        text = f"{before}{draft.text}{after}"
        return draft.with_text(text).noting(template=drawn.id, source=drawn.source, licence=drawn.licence)

    return RuleStyle(
        "jailbreak_chat",
        "competing",
        "uses a template that people shared, from a public corpus in the data folder",
        rule,
        content=[SOURCES.get(name).revision for name in _SLOTS],
        needs=Needs(user_data=True),
    )


def _templates(name: str, root: Path | None) -> Iterator[CachedTemplate]:
    file, slot = _SLOTS[name]
    try:
        for row in load_source(name, root, files=[file]):
            if row.text.count(slot) == 1:
                yield CachedTemplate(row.id, row.text, name, row.licence)
    except NotFoundError:
        return


STYLES: Final[Mapping[str, StyleFactory]] = {"jailbreak_chat": jailbreak_chat}
