"""Lines of bounded length, and the two formats that are one row a line: JSONL and plain text.

Lines end at ``\\n`` alone: U+2028, form feeds and lone carriage returns are characters of a text, and treating them as
line ends would shift every later line number.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, NamedTuple, Protocol

from corral.data.readers.rows import (
    Item,
    MalformedRowError,
    RejectedRow,
    Row,
    decode,
    overlong,
    parse_object,
    raw_row,
)

_SKIP_BYTES: Final = 1 << 16


class ByteStream(Protocol):
    """What the readers need of an open binary file."""

    def read(self, size: int = -1, /) -> bytes:
        """At most ``size`` bytes, none at the end."""

    def readline(self, size: int | None = -1, /) -> bytes:
        """Bytes up to and with the next ``\\n``, at most ``size`` of them."""


class Line(NamedTuple):
    """A line without its ``\\n``; ``complete`` is false when only its beginning was kept."""

    number: int
    data: bytes
    complete: bool


def read_lines(stream: ByteStream, limit: int) -> Iterator[Line]:
    """Yield lines of at most ``limit`` bytes; the rest of a longer one is passed over, never held."""
    number = 0
    # Two more than the limit leaves room for "\r\n" after a line of exactly `limit` bytes.
    while data := stream.readline(limit + 2):
        number += 1
        ended = data.endswith(b"\n")
        body = data[:-1] if ended else data
        complete = len(body.removesuffix(b"\r")) <= limit
        yield Line(number, body if complete else body[:limit], complete)
        if not ended:
            _skip_to_line_end(stream)


def jsonl_items(stream: ByteStream, path: str, limit: int) -> Iterator[Item]:
    """One JSON object a line; blank lines are passed over."""
    return _items(stream, path, limit, text=False)


def text_items(stream: ByteStream, path: str, limit: int) -> Iterator[Item]:
    """One text a line, as ``{"text": line}``; blank lines are passed over."""
    return _items(stream, path, limit, text=True)


def _items(stream: ByteStream, path: str, limit: int, *, text: bool) -> Iterator[Item]:
    parse = _parse_text if text else parse_object
    for line in read_lines(stream, limit):
        if not line.complete:
            yield overlong(path, line.number, line.data, limit)
        elif line.data.strip():
            try:
                yield Row(parse(line.data), path, line.number)
            except MalformedRowError as error:
                yield RejectedRow(path, line.number, str(error), raw_row(line.data))


def _parse_text(data: bytes) -> dict[str, Any]:
    return {"text": decode(data.removesuffix(b"\r"))}


def _skip_to_line_end(stream: ByteStream) -> None:
    while data := stream.readline(_SKIP_BYTES):
        if data.endswith(b"\n"):
            return
