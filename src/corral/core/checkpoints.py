"""Checkpoints that a crash cannot fake: a directory counts only with its marker, which is written last.

The marker lists every file with its size and SHA-256, so a checkpoint that lost or changed a file afterwards does not
count either, and a resume falls back to the one before.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from corral.core.errors import CorralError, RunError
from corral.core.files import (
    TEMPORARY_PREFIX,
    atomic_directory,
    atomic_write_json,
    read_json,
    sha256_file,
    sync_path,
)

MARKER: Final = "COMPLETE.json"
_VERSION: Final = 1


@contextmanager
def checkpoint_directory(path: Path | str) -> Iterator[Path]:
    """Yield a temporary directory that becomes the complete checkpoint ``path`` when the block ends without an error.

    A directory of that name that is not complete, left by a crash, is replaced.

    Raises:
        RunError: a complete checkpoint of that name exists.
    """
    path = Path(path)
    with atomic_directory(path, replace=not is_complete(path)) as temporary:
        yield temporary
    mark_complete(path)


def mark_complete(path: Path | str) -> None:
    """Write the marker of a checkpoint whose files are all there.

    Raises:
        RunError: there is no such directory, or it is empty.
    """
    path = Path(path)
    files = _files(path)
    if not files:
        raise RunError("there is nothing to mark as complete", where=str(path))
    for file in files:
        sync_path(file)
    listed = {
        file.relative_to(path).as_posix(): {"sha256": sha256_file(file), "bytes": file.stat().st_size} for file in files
    }
    atomic_write_json(path / MARKER, {"schema_version": _VERSION, "files": listed})


def problems(path: Path | str) -> list[str]:
    """What keeps a directory from being a complete checkpoint; empty when it is one."""
    path = Path(path)
    try:
        marker = read_json(path / MARKER)
        listed = {str(name): (entry["sha256"], entry["bytes"]) for name, entry in marker["files"].items()}
    except CorralError as error:
        return [f"no marker: {error.message}"]
    except (AttributeError, KeyError, TypeError):
        return [f"`{MARKER}` is not a marker"]
    return [
        f"`{name}` is missing or differs from its marker"
        for name, (sha256, size) in listed.items()
        if not _matches(path / name, sha256, size)
    ]


def is_complete(path: Path | str) -> bool:
    """Whether a directory is a complete checkpoint; reads its files."""
    return not problems(path)


def latest_complete(root: Path | str, prefix: str = "checkpoint-") -> Path | None:
    """The complete checkpoint ``<prefix><number>`` with the highest number below ``root``, or ``None``."""
    return next((entry for _, entry in reversed(_numbered(root, prefix)) if is_complete(entry)), None)


def all_complete(root: Path | str, prefix: str = "checkpoint-") -> list[tuple[int, Path]]:
    """Number and path of every complete checkpoint ``<prefix><number>`` below ``root``, the lowest first."""
    return [(number, entry) for number, entry in _numbered(root, prefix) if is_complete(entry)]


def _numbered(root: Path | str, prefix: str) -> list[tuple[int, Path]]:
    """Number and path of what may be checkpoints, the lowest first."""
    root = Path(root)
    if not root.is_dir():
        return []
    return sorted(
        (int(match[1]), entry)
        for entry in root.iterdir()
        if (match := re.fullmatch(re.escape(prefix) + r"(\d+)", entry.name)) and entry.is_dir()
    )


def _files(path: Path) -> list[Path]:
    return sorted(
        file
        for file in path.rglob("*")
        if file.is_file() and file != path / MARKER and not file.name.startswith(TEMPORARY_PREFIX)
    )


def _matches(file: Path, sha256: str, size: int) -> bool:
    return file.is_file() and file.stat().st_size == size and sha256_file(file) == sha256
