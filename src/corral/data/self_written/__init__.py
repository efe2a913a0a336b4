"""Moderation rows written for this project: one-sentence requests, benign look-alikes, replies and refusals.

Harmful requests name what is wanted, never how. Read with ``self_written_rows``; licence Apache-2.0.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib import resources
from typing import Final

from corral.core.errors import NotFoundError
from corral.data.examples import ModerationExample, example_from_json

PREFIX: Final = "self_written/"


def self_written_rows(name: str) -> Iterator[ModerationExample]:
    """The rows of the packaged file ``name`` (with or without ``self_written/``), in order.

    Raises:
        NotFoundError: no such file.
    """
    stem = name.removeprefix(PREFIX)
    file = resources.files(__name__) / f"{stem}.jsonl"
    if not file.is_file():
        raise NotFoundError(f"no self-written rows are called `{stem}`")
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        value = {"source": f"{PREFIX}{stem}", "licence": "Apache-2.0", "id": str(number), **json.loads(line)}
        yield example_from_json(value, where=f"{stem}.jsonl:{number}")
