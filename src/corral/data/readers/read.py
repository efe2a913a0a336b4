"""Reads rows from any source, one at a time, in bounded memory.

``read_items`` yields rows and rejects in the order of the input, for jobs that must answer every item; ``read_rows``
yields the rows and hands the rejects over, or stops at the first one. A malformed row never ends the stream. What makes
the whole source unreadable (no such file, UTF-16, a header that names a column twice) is raised at once.
"""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final, cast

from corral.core.errors import DataError, NotFoundError, suggest
from corral.data.readers.csv_records import DELIMITERS, csv_items
from corral.data.readers.json_members import json_items
from corral.data.readers.lines import ByteStream, jsonl_items, text_items
from corral.data.readers.rows import Item, OnReject, RejectedRow, Row, accepted
from corral.data.readers.tables import DATASETS_PREFIX, mapping_items, open_dataset, parquet_items

Source = str | Path | IO[bytes] | Iterable[Mapping[str, Any]]
"""A path, ``datasets:NAME``, an open binary stream, or rows already at hand (a ``Dataset`` among them)."""

FORMATS: Final = ("csv", "json", "jsonl", "parquet", "text", "tsv")
MAX_ROW_BYTES: Final = 64 << 20

_SUFFIXES: Final = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    ".txt": "text",
}
_GZIP_MAGIC: Final = b"\x1f\x8b"
_UTF8_BOM: Final = b"\xef\xbb\xbf"
_UTF16_BOMS: Final = (b"\xff\xfe", b"\xfe\xff")


def read_rows(
    source: Source,
    *,
    format: str | None = None,
    strict: bool = False,
    on_reject: OnReject | None = None,
    max_row_bytes: int = MAX_ROW_BYTES,
) -> Iterator[Row]:
    """Yield the rows of a source that can be read.

    Args:
        source: see ``Source``; a gzipped file is recognised by its first bytes.
        format: one of ``FORMATS``; ``None`` tells it by the file's name.
        strict: raise at the first malformed row.
        on_reject: called with each malformed row, before the next row is yielded; without it, each is logged as a
            warning.
        max_row_bytes: longer rows are rejected and only their beginning is ever held (Parquet and data sets excepted,
            whose libraries hold whole rows).

    Raises:
        NotFoundError: no such file or data set.
        DataError: an unknown or untold format, a source that cannot be read at all, or, with ``strict``, a malformed
            row; names path and line.
        MissingDependencyError: ``datasets:NAME`` without the package ``datasets``.
    """
    items = read_items(source, format=format, max_row_bytes=max_row_bytes)
    return accepted(items, strict=strict, on_reject=on_reject)


def read_items(source: Source, *, format: str | None = None, max_row_bytes: int = MAX_ROW_BYTES) -> Iterator[Item]:
    """Yield the rows of a source and, in their places, the rejects; arguments and errors as ``read_rows``."""
    if format is not None and format not in FORMATS:
        raise DataError(f"no format is named `{format}`", hint=suggest(format, FORMATS))
    if max_row_bytes < 1:
        raise DataError(f"max_row_bytes is `{max_row_bytes}`", hint="Allow a row at least one byte.")
    if isinstance(source, str) and source.startswith(DATASETS_PREFIX):
        return mapping_items(open_dataset(source), source)
    if isinstance(source, str | Path):
        return _file_items(Path(source), format, max_row_bytes)
    if hasattr(source, "readline"):
        stream = cast("IO[bytes]", source)
        return _stream_items(stream, format, max_row_bytes)
    return mapping_items(cast("Iterable[object]", source), f"<{type(source).__name__}>")


def _file_items(path: Path, format: str | None, limit: int) -> Iterator[Item]:
    if not path.exists():
        raise NotFoundError("there is no such file", where=str(path))
    if path.is_dir():
        raise DataError("is a folder", where=str(path), hint="Name one file.")
    name = format or _format_of(path)
    return parquet_items(path) if name == "parquet" else _path_items(path, name, limit)


def _format_of(path: Path) -> str:
    suffix = Path(path.name.lower().removesuffix(".gz")).suffix
    if suffix not in _SUFFIXES:
        raise DataError(
            f"the file's name does not tell its format (suffix `{suffix}`)",
            where=str(path),
            hint=f"Name the format: {', '.join(f'`{name}`' for name in FORMATS)}.",
        )
    return _SUFFIXES[suffix]


def _path_items(path: Path, format: str, limit: int) -> Iterator[Item]:
    with _opened(path) as stream:
        if stream.peek(2)[:2] == _GZIP_MAGIC:
            with gzip.GzipFile(fileobj=stream) as unpacked:
                yield from _decoded_items(unpacked, str(path), format, limit)
        else:
            yield from _decoded_items(stream, str(path), format, limit)


def _opened(path: Path) -> io.BufferedReader[Any]:
    try:
        return path.open("rb")
    except OSError as error:
        raise DataError(f"cannot be opened: {error.strerror}", where=str(path)) from error


def _stream_items(stream: IO[bytes], format: str | None, limit: int) -> Iterator[Item]:
    name = str(getattr(stream, "name", "<stream>"))
    if format is None or format == "parquet":
        raise DataError(
            "a stream can be read as " + ", ".join(f"`{known}`" for known in FORMATS if known != "parquet"),
            where=name,
            hint="Name one of these as the format.",
        )
    return _decoded_items(stream, name, format, limit)


def _decoded_items(stream: IO[bytes] | gzip.GzipFile, path: str, format: str, limit: int) -> Iterator[Item]:
    """Items of a byte stream; compressed data that breaks off becomes the last reject."""
    line = 0
    try:
        with _buffered(stream) as text:
            _skip_bom(text, path)
            for item in _parsed_items(text, path, format, limit):
                line = item.line
                yield item
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        yield RejectedRow(path, line + 1, f"the compressed data is damaged from here on: {error}")
    except OSError as error:
        raise DataError(f"cannot be read: {error}", where=path) from error


def _parsed_items(stream: ByteStream, path: str, format: str, limit: int) -> Iterator[Item]:
    match format:
        case "jsonl":
            return jsonl_items(stream, path, limit)
        case "json":
            return json_items(stream, path, limit)
        case "text":
            return text_items(stream, path, limit)
        case _:
            return csv_items(stream, path, limit, DELIMITERS[format])


@contextmanager
def _buffered(stream: IO[bytes] | gzip.GzipFile) -> Iterator[io.BufferedReader[Any]]:
    """The stream with ``peek``; one that the caller opened stays open."""
    if isinstance(stream, io.BufferedReader):
        yield stream
        return
    buffered = io.BufferedReader(cast("io.RawIOBase", stream))
    try:
        yield buffered
    finally:
        buffered.detach()


def _skip_bom(stream: io.BufferedReader[Any], path: str) -> None:
    head = stream.peek(3)[:3]
    if head[:2] in _UTF16_BOMS:
        raise DataError("is UTF-16 text", where=path, hint="Convert it to UTF-8, for example with `iconv`.")
    if head == _UTF8_BOM:
        stream.read(3)
