"""Running text from a user's files: whole files, or a column of a table."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from corral.core.errors import DataError, NotFoundError
from corral.data.readers import read_rows

_WHOLE_FILES: Final = frozenset({".txt", ".md"})


def read_texts(path: Path, *, column: str = "text") -> Iterator[str]:
    """The documents of a file: a ``.txt`` or ``.md`` file is one, of any readable table each row is one.

    Args:
        path: the file.
        column: of a table, which holds the text.

    Raises:
        NotFoundError: there is no such file.
        DataError: it cannot be read, or a row has no such column.
    """
    if path.suffix.lower() not in _WHOLE_FILES:
        yield from _column(path, column)
        return
    try:
        yield path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError as error:
        raise NotFoundError("there is no such file", where=str(path)) from error
    except UnicodeDecodeError as error:
        raise DataError(f"not UTF-8: {error}", where=str(path)) from error


def _column(path: Path, column: str) -> Iterator[str]:
    for row in read_rows(path, strict=True):
        text = row.value.get(column)
        if not isinstance(text, str):
            raise DataError(f"expected text in `{column}`", where=row.where)
        yield text
