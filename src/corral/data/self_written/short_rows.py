"""Self-written rows in a short form: a text and what it is, expanded to a moderation example.

Keys: ``text``, ``language``, ``harmful``, and where they apply ``category`` (Llama Guard 3 code of the hazard that the
row is about, on harmless rows too), ``group`` (a contrast shares one over both sides and all languages), ``prompt``
(then the text is the reply that is judged) and ``refusal``. A row without ``prompt`` is a prompt and no attack. A
harmful row has its category and says nothing about the others; a harmless one has none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from corral.core.errors import DataError
from corral.data.examples import ModerationExample, example_from_json, prompt_key
from corral.data.sources.rows import BENIGN_CATEGORIES, LLAMA_GUARD_3, category_true
from corral.data.taxonomy import qualified


def example_from_short_row(value: Mapping[str, Any], *, where: str) -> ModerationExample:
    """The example, with ``category`` and ``lookalike`` (harmless, about a hazard) in ``raw`` for mixtures to select by.

    Raises:
        DataError: an unknown category, a harmful row without one, a missing key or a value of the wrong type.
    """
    row = dict(value)
    text, prompt, code = row.pop("text", None), row.pop("prompt", None), row.pop("category", None)
    harmful = row.get("harmful")
    if not isinstance(harmful, bool) or (harmful and code is None):
        raise DataError("a short row says whether it is harmful, and a harmful one its category", where=where)
    if code is not None and qualified(LLAMA_GUARD_3, code) not in BENIGN_CATEGORIES:
        raise DataError(f"unknown category `{code}`", where=where, hint="Use a Llama Guard 3 code, S1 to S14.")
    spoken = [("user", text)] if prompt is None else [("user", prompt), ("assistant", text)]
    expanded = {
        "group": prompt_key(str(prompt or text)),
        "attack": False if prompt is None else None,
        **row,
        "messages": [{"role": role, "content": content} for role, content in spoken],
        "target": "prompt" if prompt is None else "response",
        "categories": dict(category_true(code) if harmful else BENIGN_CATEGORIES),
        "taxonomy": LLAMA_GUARD_3,
    }
    example = example_from_json(expanded, where=where)
    return replace(example, raw={"category": code, "lookalike": code is not None and not harmful})
