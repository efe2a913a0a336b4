"""Reading a source from the data folder that the user names."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from corral.core.errors import DataError, NotFoundError
from corral.core.files import sha256_file
from corral.data.examples import ModerationExample
from corral.data.readers import read_rows
from corral.data.sources.catalogue import READERS, SOURCES
from corral.data.sources.record import Source
from corral.data.sources.rows import SourceRow


def data_root() -> Path:
    """The folder that holds one folder per set: ``CORRAL_DATA``, else ``../shared/data``."""
    return Path(os.environ.get("CORRAL_DATA") or Path("..", "shared", "data"))


def load_source(
    name: str, root: Path | None = None, *, files: Collection[str] | None = None, verify: bool = True
) -> Iterator[ModerationExample]:
    """Stream the examples of a source, in the order of its files and rows.

    Args:
        name: of a source in ``SOURCES``.
        root: the data folder; ``data_root()`` when not given.
        files: which files to read, named without folder and ending; all by default.
        verify: compare each file with the sha256 on record before reading it.

    Raises:
        NotFoundError: unknown source or file, or the data is not there; the hint names the public upstream.
        DataError: a file differs from the record, or (while iterating) a row is malformed; gives path and line.
    """
    source = SOURCES.get(name)
    mappers = READERS[name].mappers
    unknown = sorted(set(files or ()) - set(mappers))
    if unknown:
        raise NotFoundError(
            f"source `{name}` has no file `{unknown[0]}`", hint=f"It has {', '.join(f'`{file}`' for file in mappers)}."
        )
    paths = _located(source, root or data_root())
    if verify:
        _verify(source, paths)
    chosen = [file for file in mappers if files is None or file in files]
    return _examples(source, chosen, paths)


def _examples(source: Source, files: list[str], paths: Mapping[str, Path]) -> Iterator[ModerationExample]:
    @cache
    def lookup(file: str, column: str) -> Mapping[Any, SourceRow]:
        return {row.value[column]: row for row in rows(file)}

    def rows(file: str) -> Iterator[SourceRow]:
        for row in read_rows(paths[file], strict=True):
            yield SourceRow(source, file, row.line, row.where, row.value, lookup)

    mappers = READERS[source.name].mappers
    for file in files:
        for row in rows(file):
            yield from mappers[file](row)


def _located(source: Source, root: Path) -> dict[str, Path]:
    """Path of every file of the source, by its name without folder and ending."""
    paths = {}
    for relative in source.files:
        path = root / relative
        if not path.is_file():
            raise NotFoundError(
                f"source `{source.name}` is not in the data folder",
                where=str(path),
                hint=f"It is public: {source.upstream}. Put its files there, or set CORRAL_DATA to the folder that "
                f"holds `{source.folder}`.",
            )
        paths[path.name.split(".", 1)[0]] = path
    return paths


def _verify(source: Source, paths: Mapping[str, Path]) -> None:
    for relative, expected in source.files.items():
        path = paths[Path(relative).name.split(".", 1)[0]]
        found = sha256_file(path)
        if found != expected:
            raise DataError(
                f"sha256 is {found}, the record of source `{source.name}` says {expected}",
                where=str(path),
                hint="Fetch the file again; read a changed file on purpose with verify=False.",
            )
