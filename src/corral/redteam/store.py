"""The journals of a red-team run: every answer, judgement and verdict once, whoever asks for it again.

Three kinds stand under the output folder, each named by a hash of what its rows depend on, so that other targets,
judges and guards share the folder and never each other's rows::

    answers-HASH.jsonl               target, revision, generation settings      holds texts
    judgements-JUDGE-HASH.jsonl      those, and the judge's revision
    verdicts-GUARD-HASH.jsonl        those of the answers, and the guard's revision

A killed run leaves whole rows; the next one goes on after them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from corral.core.files import sha256_json
from corral.core.journal import Journal
from corral.core.progress import progress

Row = Mapping[str, Any]

KEY: Final = "key"
_HASH_DIGITS: Final = 12


@dataclass(frozen=True)
class Store:
    """Journals under a folder.

    Attributes:
        folder: where they are.
        batch_size: rows that are computed at a time; they reach the disk after each batch.
        resume: false forgets what earlier sessions wrote.
    """

    folder: Path
    batch_size: int
    resume: bool = True

    @contextmanager
    def open(self, name: str, fingerprint: Row) -> Iterator[Journal]:
        """The journal of that name and fingerprint."""
        plain = re.sub(r"[^A-Za-z0-9_.-]", "_", name)
        path = self.folder / f"{plain}-{sha256_json(fingerprint)[:_HASH_DIGITS]}.jsonl"
        with Journal.open(path, key=KEY, fingerprint=fingerprint, resume=self.resume) as journal:
            yield journal

    def rows(
        self, name: str, fingerprint: Row, keys: Iterable[str], compute: Callable[[Sequence[str]], Iterable[Row]]
    ) -> dict[str, Row]:
        """Rows by key: those of the journal, and computed in batches those that it lacks.

        Args:
            name: of the journal.
            fingerprint: what its rows depend on.
            keys: of the rows that are wanted.
            compute: the rows of some keys; a key that it leaves out is asked for again by the next session.
        """
        wanted = list(dict.fromkeys(keys))
        with self.open(name, fingerprint) as journal:
            missing = [key for key in wanted if key not in journal]
            with progress(len(missing), name) as bar:
                for start in range(0, len(missing), self.batch_size):
                    some = missing[start : start + self.batch_size]
                    for row in compute(some):
                        journal.append(row)
                    journal.flush()
                    bar.advance(len(some))
            asked = set(wanted)
            return {row[KEY]: row for row in journal.entries() if row[KEY] in asked}
