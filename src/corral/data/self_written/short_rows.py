"""Self-written rows in a short form: a text and what it is, expanded to a moderation example.

Keys: ``text``, ``language``, ``harmful``, ``group`` (a contrast shares one over both sides and all languages), and
where they apply ``category`` (qualified code of the hazard that the row is about, on harmless rows too), ``lookalike``
(a harmless text with the words, the form or the subject of a harmful one), ``prompt`` (then the text is the reply that
is judged) and ``refusal``. A row without ``prompt`` is a prompt and no attack. A harmful row has its category, if it
names one, and says nothing about the others; a harmless row has none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from corral.core.errors import DataError
from corral.data.examples import ModerationExample, example_from_json
from corral.data.sources.rows import BENIGN_CATEGORIES, LLAMA_GUARD_3


def example_from_short_row(value: Mapping[str, Any], *, where: str) -> ModerationExample:
    """The example, with ``category`` (null when there is none) and ``lookalike`` in ``raw``, for mixtures to select by.

    Raises:
        DataError: an unknown category, no label of harm, a harmful look-alike, an unknown key or a malformed value.
    """
    row = dict(value)
    text, prompt = row.pop("text", None), row.pop("prompt", None)
    category, lookalike = row.pop("category", None), row.pop("lookalike", False)
    harmful = row.get("harmful")
    if not isinstance(harmful, bool) or not isinstance(lookalike, bool):
        raise DataError("`harmful` and `lookalike` are true or false", where=where)
    if harmful and lookalike:
        raise DataError("a look-alike is harmless", where=where)
    if category is not None and category not in BENIGN_CATEGORIES:
        raise DataError(f"unknown category `{category}`", where=where, hint=f"Write `{LLAMA_GUARD_3}/S1` to `S14`.")
    categories = dict(BENIGN_CATEGORIES) if not harmful else {category: True} if category else {}
    spoken = [("user", text)] if prompt is None else [("user", prompt), ("assistant", text)]
    expanded = {
        "attack": False if prompt is None else None,
        **row,
        "messages": [{"role": role, "content": content} for role, content in spoken],
        "target": "prompt" if prompt is None else "response",
        "categories": categories,
        "taxonomy": LLAMA_GUARD_3 if categories else "",
    }
    return replace(example_from_json(expanded, where=where), raw={"category": category, "lookalike": lookalike})
