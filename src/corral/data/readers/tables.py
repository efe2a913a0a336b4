"""Rows that a library reads for us: Parquet by pyarrow, and anything that ``datasets`` can load, streamed."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from corral.core.errors import DataError, MissingDependencyError
from corral.data.readers.rows import Item, RejectedRow, Row, as_json

DATASETS_PREFIX: Final = "datasets:"

_BATCH_ROWS: Final = 64
_COLUMN_BUFFER_BYTES: Final = 1 << 20
_DATASET: Final = re.compile(
    r"datasets:(?P<name>[\w.-]+(?:/[\w.-]+)?)(?:/(?P<config>[\w.-]+))?(?:@(?P<revision>[\w.-]+))?(?::(?P<split>[\w.-]+))?"
)


def parquet_items(path: Path) -> Iterator[Item]:
    """Rows of a Parquet file, a few at a time whatever the size of its row groups.

    Raises:
        DataError: not a Parquet file.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path, pre_buffer=False, buffer_size=_COLUMN_BUFFER_BYTES)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"cannot be read as Parquet: {error}", where=str(path)) from error
    number = 0
    with file:
        try:
            for batch in file.iter_batches(batch_size=_BATCH_ROWS, use_threads=False):
                for value in _values(batch):
                    number += 1
                    yield (
                        RejectedRow(str(path), number, "invalid UTF-8")
                        if value is None
                        else Row(value, str(path), number)
                    )
        except (pa.ArrowException, OSError) as error:
            yield RejectedRow(str(path), number + 1, f"the file is damaged from here on: {error}")


def mapping_items(rows: Iterable[object], path: str) -> Iterator[Item]:
    """Rows of a ``Dataset``, an ``IterableDataset`` or any other iterable of mappings."""
    for number, value in enumerate(_until_broken(rows, path), start=1):
        if isinstance(value, Mapping):
            yield Row(dict(value), path, number)
        else:
            yield RejectedRow(path, number, f"expected a mapping, got {type(value).__name__}", as_json(value))


def open_dataset(name: str) -> Iterable[object]:
    """Stream ``datasets:[OWNER/]NAME[/CONFIG][@REVISION][:SPLIT]`` (a config needs the owner; the split is ``train``).

    Raises:
        MissingDependencyError: the package ``datasets`` is not installed.
        DataError: a malformed name, or one that ``datasets`` cannot load.
    """
    parts = _DATASET.fullmatch(name)
    if parts is None:
        raise DataError(f"`{name}` does not name a data set", hint="Write it as `datasets:OWNER/NAME:SPLIT`.")
    try:
        import datasets
    except ImportError:
        raise MissingDependencyError(
            "the package `datasets` is not installed", where=name, hint='Run `pip install "corral[train]"`.'
        ) from None
    try:
        rows: Iterable[object] = datasets.load_dataset(
            parts["name"],
            parts["config"],
            revision=parts["revision"],
            split=parts["split"] or "train",
            streaming=True,
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise DataError(f"cannot be loaded: {error}", where=name) from error
    return rows


def _values(batch: Any) -> list[dict[str, Any] | None]:
    """Rows of a batch as plain values; ``None`` stands for one whose text is not UTF-8, which costs no other row."""
    try:
        return list(batch.to_pylist())
    except UnicodeDecodeError:
        if batch.num_rows == 1:
            return [None]
        return [value for index in range(batch.num_rows) for value in _values(batch.slice(index, 1))]


def _until_broken(rows: Iterable[object], path: str) -> Iterator[object]:
    """The rows, with a lost connection as an error of ours."""
    try:
        yield from rows
    except OSError as error:
        raise DataError(f"cannot be read further: {error}", where=path) from error
