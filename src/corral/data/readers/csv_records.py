"""Records of CSV and TSV, whose quoted fields may span lines.

One stray quote opens a field that swallows the lines after it. So a record that turns out malformed costs only its
first line: reading starts again at the line below, and at most ``limit`` bytes of lines are held to make that possible.
"""

from __future__ import annotations

import csv
from collections import deque
from collections.abc import Iterator
from typing import Final

from corral.core.errors import DataError
from corral.data.readers.lines import ByteStream, Line, read_lines
from corral.data.readers.rows import Item, MalformedRowError, RejectedRow, Row, decode, overlong, raw_row

DELIMITERS: Final = {"csv": ",", "tsv": "\t"}


def csv_items(stream: ByteStream, path: str, limit: int, delimiter: str) -> Iterator[Item]:
    """Rows of a file whose first record names the columns; every value is text, blank lines are passed over.

    Raises:
        DataError: the header cannot be read or names a column twice, so that no row has a meaning.
    """
    # The module's own limit (131,072 characters) is global and below one long message; it is only ever raised.
    csv.field_size_limit(max(csv.field_size_limit(), limit))
    records = _Records(read_lines(stream, limit), limit, delimiter)
    header: list[str] | None = None
    while True:
        item: Item | None = None
        try:
            fields = records.take()
            if fields is None:
                return
            if fields and header is None:
                header = _columns(fields)
            elif fields and header is not None:
                item = Row(_value(header, fields), path, records.first.number)
        except MalformedRowError as error:
            if header is None:
                raise _no_header(path, records.first, str(error)) from None
            item = _rejected(records.first, path, limit, str(error))
            records.retry()
        if item is not None:
            yield item


class _Records:
    """Takes one record at a time off the lines, and can put back all lines of the last one but the first."""

    def __init__(self, lines: Iterator[Line], limit: int, delimiter: str) -> None:
        self._lines = lines
        self._limit = limit
        self._delimiter = delimiter
        self._waiting: deque[Line] = deque()
        self._taken: list[Line] = []

    @property
    def first(self) -> Line:
        """First line of the last record."""
        return self._taken[0]

    def take(self) -> list[str] | None:
        """Fields of the next record, none for a blank line; ``None`` at the end.

        Raises:
            MalformedRowError: a quote that does not close or closes in the middle of a field, a line that is not
                UTF-8, or more bytes than the limit.
        """
        self._taken = []
        try:
            fields = next(csv.reader(self._feed(), delimiter=self._delimiter, strict=True), None)
        except csv.Error as error:
            raise MalformedRowError(f"not a record: {error}") from None
        blank = fields is not None and len(fields) <= 1 and not any(field.strip() for field in fields)
        return [] if blank else fields

    def retry(self) -> None:
        """Read again from the second line of the last record."""
        self._waiting.extendleft(reversed(self._taken[1:]))

    def _feed(self) -> Iterator[str]:
        size = 0
        while (line := self._waiting.popleft() if self._waiting else next(self._lines, None)) is not None:
            self._taken.append(line)
            size += len(line.data)
            if not line.complete or size > self._limit:
                raise MalformedRowError(f"longer than {self._limit:,} bytes")
            yield decode(line.data) + "\n"


def _columns(fields: list[str]) -> list[str]:
    repeated = sorted({name for name in fields if fields.count(name) > 1})
    if repeated:
        raise MalformedRowError(f"column `{repeated[0]}` occurs twice")
    return fields


def _value(header: list[str], fields: list[str]) -> dict[str, str]:
    if len(fields) != len(header):
        raise MalformedRowError(f"the header has {len(header)} fields, the row has {len(fields)}")
    return dict(zip(header, fields, strict=True))


def _rejected(line: Line, path: str, limit: int, reason: str) -> RejectedRow:
    if not line.complete:
        return overlong(path, line.number, line.data, limit)
    return RejectedRow(path, line.number, reason, raw_row(line.data))


def _no_header(path: str, line: Line, reason: str) -> DataError:
    return DataError(
        f"cannot read the header: {reason}",
        where=f"{path}:{line.number}",
        hint="The first line names the columns, each once.",
    )
