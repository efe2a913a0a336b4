"""The per-sample cache: what a subject gave on an item is computed once.

A value is found by what it depends on: the subject's revision, the task and its version, the settings, and the content
of the item. The first four name a file, a row journal (``core/journal``) that a crash costs at most the batch at hand;
the last is the key of a row.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from corral.core.files import sha256_json
from corral.core.journal import Journal
from corral.models.embedded import cache_root

if TYPE_CHECKING:
    from corral.evals.tasks.task import Progress, Subject

Item = TypeVar("Item")

_DIGITS: Final = 32


def item_hash(content: Any) -> str:
    """Key of an item: a hash of everything that its value depends on beside subject, task and settings.

    Args:
        content: JSON values.
    """
    return sha256_json(content)[:_DIGITS]


def default_cache_folder() -> Path:
    """``CORRAL_CACHE``/samples, else ``~/.cache/corral/samples``."""
    return cache_root() / "samples"


class SampleCache:
    """A folder of values by content hash.

    Args:
        folder: where it is; made when needed.
        reuse: false forgets what earlier sessions of this object's folder computed, value by value as they are asked
            for again.
    """

    def __init__(self, folder: Path, *, reuse: bool = True) -> None:
        self.folder = folder
        self.reuse = reuse
        self._begun: set[Path] = set()

    def fill(
        self,
        subject: Subject,
        task: str,
        version: str,
        *,
        settings: Mapping[str, Any],
        items: Sequence[Item],
        keys: Sequence[str],
        compute: Callable[[Sequence[Item]], Sequence[Mapping[str, Any]]],
        batch_size: int,
        progress: Progress | None = None,
    ) -> list[dict[str, Any]]:
        """The value of each item, in order; only those that are not in the cache are computed.

        Args:
            subject: whose values they are.
            task: name of the task, or of the part of it that has values of its own.
            version: of the task.
            settings: JSON values that the values depend on.
            items: what to compute from.
            keys: ``item_hash`` of each; items with equal keys are computed once.
            compute: values of a batch, as JSON objects, same length and order; what it gave is kept after each batch.
            batch_size: items a call of ``compute``.
            progress: advanced by every item, cached or not.

        Raises:
            RunError: another process is filling the same file.
        """
        with self.open(subject, task, version, settings) as values:
            missing = {key: item for key, item in zip(keys, items, strict=True) if key not in values}
            if progress is not None:
                progress.advance(len(items) - len(missing))
            todo = list(missing)
            for start in range(0, len(todo), batch_size):
                batch = todo[start : start + batch_size]
                computed = compute([missing[key] for key in batch])
                for key, value in zip(batch, computed, strict=True):
                    values.put(key, value)
                values.flush()
                if progress is not None:
                    progress.advance(len(batch))
            return [values[key] for key in keys]

    @contextmanager
    def open(self, subject: Subject, task: str, version: str, settings: Mapping[str, Any]) -> Iterator[CachedValues]:
        """The values of one subject and task under these settings, to read and to add to. See ``fill``."""
        fingerprint = _fingerprint(subject, task, version, settings)
        path = self.folder / _plain(task) / f"{sha256_json(fingerprint)[:_DIGITS]}.jsonl"
        with Journal.open(path, key="key", fingerprint=fingerprint, resume=self.continues(path)) as journal:
            yield CachedValues(journal)

    def subfolder(self, subject: Subject, task: str, version: str, settings: Mapping[str, Any]) -> Path:
        """A folder for a task that keeps journals of its own; named by the same things as a file of values."""
        digest = sha256_json(_fingerprint(subject, task, version, settings))[:_DIGITS]
        return self.folder / _plain(task) / digest

    def continues(self, path: Path) -> bool:
        """Whether what an earlier session left at a path is kept; what this one began always is."""
        begun = path in self._begun
        self._begun.add(path)
        return self.reuse or begun


class CachedValues:
    """Open values of one subject and task."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._values: dict[str, dict[str, Any]] = {row["key"]: row["value"] for row in journal.entries()}

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def __getitem__(self, key: str) -> dict[str, Any]:
        return self._values[key]

    def put(self, key: str, value: Mapping[str, Any]) -> None:
        """Add a value, a JSON object; it survives this process after the next ``flush``."""
        self._journal.append({"key": key, "value": value})
        self._values[key] = dict(value)

    def flush(self) -> None:
        """Hand what was added to the disk."""
        self._journal.flush()


def _fingerprint(subject: Subject, task: str, version: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "subject": subject.revision or f"name:{subject.name}",
        "task": task,
        "version": version,
        "settings": dict(settings),
    }


def _plain(name: str) -> str:
    return re.sub(r"[^\w.-]+", "-", name)
