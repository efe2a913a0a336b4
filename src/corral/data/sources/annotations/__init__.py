"""Our own labels for rows whose source has none, keyed by row; no text of the rows is kept here.

One reader per row, one pass, by the rubric in ``docs/concepts/annotations.md``; a row that could not be decided is
``h`` and stays unknown. The upstream order (chosen, rejected) was visible while labelling ``hh_rlhf_harmless``.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from functools import cache
from importlib import resources
from types import MappingProxyType


@cache
def row_annotations(source: str) -> Mapping[str, Mapping[str, str]]:
    """Annotated columns of each row of ``source``, by the row's key (the first column)."""
    text = (resources.files(__name__) / f"{source}.csv").read_text(encoding="utf-8")
    rows = csv.DictReader(text.splitlines())
    key = (rows.fieldnames or [""])[0]
    return MappingProxyType({row[key]: MappingProxyType(row) for row in rows})


def as_label(value: str) -> bool | None:
    """``1`` and ``2`` are true, ``0`` is false, ``h`` (undecided) is unknown."""
    return {"0": False, "1": True, "2": True}.get(value)
