"""The requests of the win rate: packaged ones, or a user's, which may bring the answers to beat."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from corral.core.errors import DataError
from corral.data.readers import read_rows


@dataclass(frozen=True, slots=True)
class ComparisonPrompt:
    """A request.

    Attributes:
        id: unique among the requests.
        text: what the user says.
        reference: the answer to beat, where no other model gives it.
    """

    id: str
    text: str
    reference: str | None = None


def packaged_prompts() -> tuple[ComparisonPrompt, ...]:
    """Harmless everyday requests, self-written; licence Apache-2.0."""
    file = resources.files("corral.evals.tasks.local") / "requests.jsonl"
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return tuple(ComparisonPrompt(row["id"], row["prompt"]) for row in rows)


def user_prompts(path: Path) -> tuple[ComparisonPrompt, ...]:
    """Rows of any readable table with a column ``prompt``, and optionally ``reference`` and ``id``.

    Raises:
        NotFoundError: there is no such file.
        DataError: it cannot be read, or a row has no prompt.
    """
    return tuple(_rows(path))


def _rows(path: Path) -> Iterator[ComparisonPrompt]:
    for number, row in enumerate(read_rows(path, strict=True)):
        text, reference = row.value.get("prompt"), row.value.get("reference")
        if not isinstance(text, str) or not text.strip():
            raise DataError("expected text in `prompt`", where=row.where)
        if not isinstance(reference, str | None):
            raise DataError("expected text in `reference`", where=row.where)
        yield ComparisonPrompt(str(row.value.get("id", number)), text, reference)
