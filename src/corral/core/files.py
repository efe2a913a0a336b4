"""Files that are either whole or absent.

Everything is written to a temporary name beside the target, flushed to disk, and renamed over it: a reader, or a run
after a crash or a power cut, sees the old content or the new, never a part. The price is one ``fsync`` a file and room
for both versions at once, so rows that arrive one by one go through ``core/journal`` instead.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from corral.core.errors import DataError, NotFoundError, RunError

TEMPORARY_PREFIX = ".partial-"


@contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path in the same folder that becomes ``path`` when the block ends without an error.

    The temporary name keeps the suffix, since some writers choose the format by it. Symbolic links are followed: the
    file they point to is replaced. Missing parent folders are made.

    Raises:
        RunError: the block wrote nothing.
    """
    target = _target(path)
    temporary = _temporary(target)
    try:
        yield temporary
        if not temporary.is_file():
            raise RunError("nothing was written", where=str(target))
        sync_path(temporary)
        temporary.replace(target)
        sync_path(target.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_directory(path: Path | str, *, replace: bool = False) -> Iterator[Path]:
    """Yield a temporary directory that becomes ``path`` when the block ends without an error.

    A directory cannot be swapped in one step. With ``replace`` the old one is moved away just before the new one takes
    its name, so a crash between the two leaves no directory of that name, and never a mixture.

    Raises:
        RunError: ``path`` exists and ``replace`` is false.
    """
    target = _target(path)
    if target.exists() and not replace:
        raise RunError("already exists", where=str(target), hint="Remove it or choose another folder.")
    temporary, old = _temporary(target), _temporary(target)
    temporary.mkdir()
    try:
        yield temporary
        for entry in sorted(temporary.rglob("*")):
            sync_path(entry)
        sync_path(temporary)
        if target.exists():
            target.replace(old)
        temporary.replace(target)
        sync_path(target.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def atomic_write_bytes(path: Path | str, data: bytes) -> None:
    """Write a whole file at once."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def atomic_write_text(path: Path | str, text: str) -> None:
    """Write a whole text file at once: UTF-8, line ends as given."""
    atomic_write_bytes(path, text.encode())


def atomic_write_json(path: Path | str, value: Any) -> None:
    """Write a JSON file at once, indented, keys in the order given.

    Raises:
        DataError: a value is not JSON; NaN and infinity are not.
    """
    try:
        text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
        data = f"{text}\n".encode()
    except (TypeError, ValueError) as error:
        raise DataError(f"cannot be written as JSON: {error}", where=str(path)) from error
    atomic_write_bytes(path, data)


def read_json(path: Path | str) -> Any:
    """The value in a JSON file.

    Raises:
        NotFoundError: there is no such file.
        DataError: it is not UTF-8 or not JSON; names the line.
    """
    try:
        return json.loads(Path(path).read_bytes().decode())
    except FileNotFoundError as error:
        raise NotFoundError("there is no such file", where=str(path)) from error
    except json.JSONDecodeError as error:
        raise DataError(f"not JSON: {error.msg}", where=f"{path}:{error.lineno}") from error
    except (UnicodeDecodeError, RecursionError) as error:
        raise DataError(f"not JSON: {error}", where=str(path)) from error


def sha256_file(path: Path | str) -> str:
    """SHA-256 of a file's bytes, in hex; reads in blocks."""
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def canonical_json(value: Any) -> str:
    """The one text of a JSON value: keys sorted, no blanks, ASCII only.

    Raises:
        DataError: a value is not JSON; NaN and infinity are not.
    """
    try:
        return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise DataError(f"cannot be written as JSON: {error}") from error


def sha256_json(value: Any) -> str:
    """SHA-256 of a value's canonical JSON, in hex: equal values give equal hashes whatever the order of their keys."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def sync_path(path: Path) -> None:
    """Wait until a file or a folder's list of names is on the disk: it survives a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _target(path: Path | str) -> Path:
    target = Path(path).resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    return target


def _temporary(target: Path) -> Path:
    # 200 leaves room for the prefix within the usual limit of 255 bytes a name
    return target.with_name(f"{TEMPORARY_PREFIX}{secrets.token_hex(6)}-{target.name[-200:]}")
