"""Which new rows repeat an earlier one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from corral.data.examples import prompt_key
from corral.synth.rows import Row


class Deduplicator(Protocol):
    """Remembers the rows that were kept; used for one file, from its first row on."""

    def admit(self, row: Row) -> str | None:
        """Remember a new row, or give the id of the earlier row that it repeats."""


class SameText:
    """Rows whose texts under some fields are equal but for case, punctuation and blanks.

    Args:
        fields: whose texts are compared together; a missing one counts as empty.
        known: rows of other files that must not be repeated either.
    """

    def __init__(self, *fields: str, known: Iterable[Row] = ()) -> None:
        self._fields = fields
        self._ids: dict[tuple[str, ...], str] = {}
        for row in known:
            self.admit(row)

    def admit(self, row: Row) -> str | None:
        """Remember a new row, or give the id of the earlier row that it repeats."""
        key = tuple(prompt_key(str(row.get(field, ""))) for field in self._fields)
        earlier = self._ids.setdefault(key, str(row["id"]))
        return None if earlier == row["id"] else earlier
