"""The row journal: a JSON Lines file that a long job appends to and a rerun continues.

Three files stand side by side:

- ``out.jsonl``: one row for each answered item, in input order;
- ``out.jsonl.rejects.jsonl``: the items that could not be answered, each with the number of items before it;
- ``out.jsonl.journal.json``: what the rows depend on (inputs, settings), so that a rerun under others is refused.

What is on disk always stands for a prefix of the items. Rejects reach the disk before any row that came after them, so
a crash leaves at most a torn last line, which the next open cuts off, and rejects that are ahead of the rows, which
their numbers tell and which are dropped to be met again. One process writes at a time (an advisory lock).
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from corral.core.errors import DataError, RunError, UserError
from corral.core.files import atomic_write_json, canonical_json, read_json
from corral.core.key_set import KeySet
from corral.core.line_file import LineFile
from corral.core.locks import lock_descriptor

_VERSION: Final = 1
_FLUSH_BYTES: Final = 1 << 20
_SYNC_EVERY_S: Final = 1.0


class Journal:
    """An open journal; made by ``Journal.open`` and used as a context manager.

    A job whose every item gives one row or one reject, in input order, skips ``position`` items on a rerun. A job
    whose items finish in any order names a ``key`` and skips the items whose key is ``in`` the journal. Not for use by
    several threads.

    Attributes:
        path: the file of rows.
        resumed: ``position`` when this session opened the journal: what earlier sessions left.
    """

    def __init__(
        self, rows: LineFile, rejects: LineFile | None, keys: KeySet | None, key: str | None, settings: dict[str, Any]
    ) -> None:
        self.path = rows.path
        self.resumed = rows.count + (rejects.count if rejects else 0)
        self._rows = rows
        self._rejects = rejects
        self._keys = keys
        self._key = key
        self._settings = settings
        self._synced_at = time.monotonic()

    @classmethod
    def open(
        cls,
        path: Path | str,
        *,
        key: str | None = None,
        fingerprint: Mapping[str, Any] | None = None,
        resume: bool = True,
    ) -> Self:
        """Open a journal for writing and continue what is there.

        Args:
            path: the file of rows.
            key: the text field that names a row; needed for ``in``. Costs 16 bytes of memory a row.
            fingerprint: JSON values that the rows depend on. A journal written under others is not continued.
            resume: false starts over and removes what earlier sessions wrote.

        Raises:
            UserError: the file was not written by a journal, or under another fingerprint or key.
            RunError: another process is writing it, or its files were shortened or damaged.
        """
        path = Path(path)
        settings = {"schema_version": _VERSION, "key": key, "fingerprint": dict(fingerprint or {})}
        rows, rejects = LineFile(path), None
        try:
            lock_descriptor(rows.descriptor, path)
            if _starts_over(rows, settings, resume):
                rows.truncate(0, 0)
                rejects_path(path).unlink(missing_ok=True)
                _write_sidecar(path, settings, rows=0, rejects=0)
            else:
                rows.recover()
                rejects = _recovered_rejects(rejects_path(path), rows.count)
                _require_whole(path, rows.count, rejects.count if rejects else 0)
            keys = None if key is None else KeySet(_keys_on_disk(key, rows, rejects))
        except BaseException:
            rows.close()
            if rejects:
                rejects.close()
            raise
        return cls(rows, rejects, keys, key, settings)

    @property
    def rows(self) -> int:
        """Rows so far, those of earlier sessions included."""
        return self._rows.count

    @property
    def rejects(self) -> int:
        """Rejected items so far, those of earlier sessions included."""
        return self._rejects.count if self._rejects else 0

    @property
    def position(self) -> int:
        """Rows and rejects so far."""
        return self.rows + self.rejects

    def __contains__(self, key: str) -> bool:
        if self._keys is None:
            raise ValueError("a journal opened without a key does not know its rows by name")
        return key in self._keys

    def append(self, row: Mapping[str, Any]) -> None:
        """Add a row; it is on its way to the disk after the next ``flush``.

        Raises:
            DataError: the row is not JSON (NaN is not), has no text under the journal's key, or has a key taken.
        """
        line = _encoded(row, self.path)
        if self._keys is not None:
            name = row.get(self._key or "")
            if not isinstance(name, str):
                raise DataError(f"the row has no text under `{self._key}`", where=str(self.path))
            self._claim(name)
        self._rows.append(line)
        self._flush_when_large()

    def reject(self, where: str, line: int | None, reason: str, raw: str | bytes, *, key: str | None = None) -> None:
        """Record an item that has no row.

        Args:
            where: the file it came from.
            line: its 1-based line there.
            reason: what is wrong with it.
            raw: its text, or its bytes where they are not text, so that it can be mended and given again. Under
                ``encoding`` the entry says how it is written: ``text`` as it is, or ``base64`` for bytes.
            key: what the item would be asked for by; a rerun then finds it ``in`` the journal.

        Raises:
            DataError: the key is taken.
        """
        if key is not None and self._keys is not None:
            self._claim(key)
        if self._rejects is None:
            self._rejects = LineFile(rejects_path(self.path))
        encoding, text = ("text", raw) if isinstance(raw, str) else ("base64", base64.b64encode(raw).decode())
        entry = {
            "index": self.position,
            "where": where,
            "line": line,
            "reason": reason,
            "encoding": encoding,
            "raw": text,
        }
        self._rejects.append(_encoded(entry if key is None else entry | {"key": key}, self.path))
        self._flush_when_large()

    def flush(self) -> None:
        """Make what was added survive the end of this process; call it after each batch.

        A power cut may cost the last second.

        Raises:
            RunError: the disk is full or gone; a rerun continues.
        """
        if self._rejects and self._rejects.pending_bytes:
            self._rejects.flush()
            self._rejects.sync()  # before the rows: see the head of this file
        self._rows.flush()
        if time.monotonic() - self._synced_at > _SYNC_EVERY_S:
            self._rows.sync()
            self._synced_at = time.monotonic()

    def entries(self) -> Iterator[dict[str, Any]]:
        """Every row so far, in order, read back from the file."""
        self.flush()
        for number, line in enumerate(self._rows.lines(), start=1):
            yield _decoded(line, self.path, number)

    def rejected(self) -> Iterator[dict[str, Any]]:
        """Every reject so far, in order, read back from its file, with the fields that ``reject`` was given."""
        self.flush()
        if self._rejects:
            for number, line in enumerate(self._rejects.lines(), start=1):
                yield _decoded(line, self._rejects.path, number)

    def close(self) -> None:
        """Flush, note how much there is, and let other processes in."""
        try:
            self.flush()
            self._rows.sync()
            _write_sidecar(self.path, self._settings, rows=self.rows, rejects=self.rejects)
        finally:
            self._rows.close()
            if self._rejects:
                self._rejects.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _claim(self, name: str) -> None:
        if name in self:
            raise DataError(f"`{name}` is in the journal already", where=str(self.path))
        if self._keys is not None:
            self._keys.add(name)

    def _flush_when_large(self) -> None:
        if self._rows.pending_bytes + (self._rejects.pending_bytes if self._rejects else 0) > _FLUSH_BYTES:
            self.flush()


def rejects_path(path: Path) -> Path:
    """Where the rejects of a journal are."""
    return path.with_name(f"{path.name}.rejects.jsonl")


def _sidecar_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.journal.json")


def _write_sidecar(path: Path, settings: Mapping[str, Any], *, rows: int, rejects: int) -> None:
    """Settings, and counts that the files can only exceed, which tells when someone shortened one."""
    atomic_write_json(_sidecar_path(path), {**settings, "rows": rows, "rejects": rejects})


def _starts_over(rows: LineFile, settings: dict[str, Any], resume: bool) -> bool:
    """Whether to begin an empty journal; refuses files of another origin.

    A file of rows that is gone or emptied means that the user wants a fresh start. One that is empty because every
    item so far was rejected is continued: its sidecar counted no rows.
    """
    sidecar = _sidecar_path(rows.path)
    if not sidecar.exists():
        if rows.size:
            raise UserError(
                "exists and is not a journal of Corral's, so nothing is added to it",
                where=str(rows.path),
                hint="Choose another file.",
            )
        return True
    if rows.created or not resume:
        return True
    found = read_json(sidecar)
    differing = _differing(found, settings)
    if rows.size == 0:
        return bool(differing or found.get("rows"))
    if differing:
        raise UserError(
            f"was written under other settings: {', '.join(f'`{name}`' for name in differing)}",
            where=str(rows.path),
            hint="Choose another file, or remove this one to start over.",
        )
    return False


def _differing(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Names of the settings in which a sidecar differs; a fingerprint is looked at one level deep."""
    names = [name for name in ("schema_version", "key") if found.get(name) != wanted[name]]
    before, now = found.get("fingerprint") or {}, wanted["fingerprint"]
    fields = sorted(before.keys() | now.keys())
    return names + [name for name in fields if canonical_json(before.get(name)) != canonical_json(now.get(name))]


def _recovered_rejects(path: Path, rows: int) -> LineFile | None:
    """The rejects that stand before or right after the last row on disk; later ones will be met again."""
    if not path.exists():
        return None
    rejects = LineFile(path)
    rejects.recover()
    end = count = 0
    for line in rejects.lines():
        if _decoded(line, path, count + 1).get("index", 0) - count > rows:
            break
        end += len(line) + 1
        count += 1
    rejects.truncate(end, count)
    return rejects


def _require_whole(path: Path, rows: int, rejects: int) -> None:
    noted = read_json(_sidecar_path(path))
    if rows < noted.get("rows", 0) or rejects < noted.get("rejects", 0):
        raise RunError(
            f"{rows} rows and {rejects} rejects are left of the {noted.get('rows')} and {noted.get('rejects')} that an "
            "earlier session wrote",
            where=str(path),
            hint=f"Restore `{path}` and `{rejects_path(path)}`, or remove `{path}` to start over.",
        )


def _keys_on_disk(key: str, rows: LineFile, rejects: LineFile | None) -> Iterator[str]:
    for number, line in enumerate(rows.lines(), start=1):
        yield str(_decoded(line, rows.path, number).get(key))
    for number, line in enumerate(rejects.lines() if rejects else (), start=1):
        entry = _decoded(line, rejects_path(rows.path), number)
        if "key" in entry:
            yield entry["key"]


def _encoded(row: Mapping[str, Any], path: Path) -> bytes:
    try:
        text = json.dumps(row, ensure_ascii=False, allow_nan=False, separators=(", ", ": "))
    except (TypeError, ValueError) as error:
        raise DataError(f"the row cannot be written as JSON: {error}", where=str(path)) from error
    try:
        return text.encode()
    except UnicodeEncodeError:  # lone surrogates, which UTF-8 cannot hold and JSON can escape
        return json.dumps(row).encode()


def _decoded(line: bytes, path: Path, number: int) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError:
        row = None
    if not isinstance(row, dict):
        raise RunError(
            "is damaged: not a JSON object",
            where=f"{path}:{number}",
            hint="Restore the file, or remove it and its `.journal.json` to start over.",
        )
    return row
