"""Rows of one JSON document, without holding the document: a list of rows, an object of rows, or a single row.

The document is cut at the commas of its outermost level by looking at brackets and strings alone; each piece is then
parsed by itself. So a document larger than memory streams through, and a malformed row costs that row and not the rest.
Brackets, quotes and commas are ASCII, which never occurs inside a longer UTF-8 character: the cutting is done on bytes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import chain
from typing import Any, Final, NamedTuple

from corral.data.readers.lines import ByteStream
from corral.data.readers.rows import (
    RAW_PREFIX_BYTES,
    Item,
    MalformedRowError,
    RejectedRow,
    Row,
    json_type,
    overlong,
    parse_object,
    raw_beginning,
    raw_row,
)

_CHUNK_BYTES: Final = 1 << 16
_BLANK: Final = b" \t\r\n"
_OUTSIDE_STRINGS: Final = re.compile(rb'["\[\]{},]')
_INSIDE_STRINGS: Final = re.compile(rb'["\\]')
_KEY_OF_OBJECT: Final = re.compile(rb'"(?:[^"\\]|\\.)*"\s*:\s*\{', re.DOTALL)


class Member(NamedTuple):
    """What stands between two outermost commas; ``complete`` is false when only its beginning was kept."""

    line: int
    data: bytes
    complete: bool


def json_items(stream: ByteStream, path: str, limit: int) -> Iterator[Item]:
    """Rows of ``[{...}, ...]`` or ``{"key": {...}, ...}``, or the one row that a file with another object is.

    In an object of rows the key becomes the row's ``id`` unless the row has one. Whether an object is one row or many
    is told by its first value: an object means many.
    """
    document = MemberReader(stream, limit)
    members = iter(document)
    first = next(members, None)
    if first is not None:
        if document.opener == b"[":
            yield from (_row(member, path, limit) for member in chain([first], members))
        elif _KEY_OF_OBJECT.match(first.data):
            yield from (_keyed_row(member, path, limit) for member in chain([first], members))
        else:
            whole = _whole(first, members, path, limit)
            if document.fault is None:
                yield whole
    if document.fault is not None:
        yield RejectedRow(path, document.line, document.fault, raw_beginning(document.tail))


class MemberReader:
    """Iterates over the outermost members of a JSON document.

    Attributes, meaningful once iteration has ended:
        opener: the document's first character.
        fault: what is wrong with the document as a whole, ``None`` when nothing is.
        line: line of the fault.
        tail: beginning of the member that the document breaks off in.
    """

    def __init__(self, stream: ByteStream, limit: int) -> None:
        self.opener = b""
        self.fault: str | None = None
        self.line = 1
        self.tail = b""
        self._stream = stream
        self._limit = limit
        self._kept: list[bytes] = []
        self._size = 0
        self._newlines = 0
        self._members = 0

    def __iter__(self) -> Iterator[Member]:
        chunk = self._open()
        if not chunk:
            return
        if self.opener in (b"[", b"{"):
            yield from self._cut(chunk)
        else:
            self.fault, self.tail = "expected a list or an object of rows", (self.opener + chunk)[:RAW_PREFIX_BYTES]

    def _open(self) -> bytes:
        """Pass over leading white space; returns what follows the opener in its chunk (a blank at least)."""
        while chunk := self._stream.read(_CHUNK_BYTES):
            rest = chunk.lstrip(_BLANK)
            self.line += chunk[: len(chunk) - len(rest)].count(b"\n")
            if rest:
                self.opener = rest[:1]
                return rest[1:] or b" "
        return b""

    def _cut(self, chunk: bytes) -> Iterator[Member]:
        depth, in_string, escaped = 1, False, 0
        while chunk:
            start, position = 0, escaped
            escaped = 0
            while found := (_INSIDE_STRINGS if in_string else _OUTSIDE_STRINGS).search(chunk, position):
                position, sign = found.end(), found[0]
                if sign == b'"':
                    in_string = not in_string
                elif sign == b"\\":
                    position += 1
                elif sign in (b"[", b"{"):
                    depth += 1
                elif sign != b",":
                    depth -= 1
                if depth == 0 or (depth == 1 and sign == b","):
                    self._add(chunk[start : found.start()])
                    start = position
                    if self._size or depth:
                        yield self._take()
                    elif self._members:
                        self.fault = "nothing after the last comma"
                if depth == 0:
                    self._close(sign, chunk[position:])
                    return
            self._add(chunk[start:])
            # A backslash may be the chunk's last byte: the character it escapes opens the next chunk.
            escaped = max(0, position - len(chunk))
            chunk = self._stream.read(_CHUNK_BYTES)
        self.fault = f"the file ends before the closing `{self._closer}`"
        self.tail = b"".join(self._kept)[:RAW_PREFIX_BYTES]

    def _add(self, piece: bytes) -> None:
        """Keep a piece of the current member, up to one byte over the limit."""
        if not self._size:
            stripped = piece.lstrip(_BLANK)
            self.line += piece[: len(piece) - len(stripped)].count(b"\n")
            piece = stripped
        self._newlines += piece.count(b"\n")
        room = self._limit + 1 - self._size
        if room > 0:
            self._kept.append(piece[:room])
        self._size += len(piece)

    def _take(self) -> Member:
        member = Member(self.line, b"".join(self._kept).rstrip(_BLANK), self._size <= self._limit)
        self.line += self._newlines
        self._kept, self._size, self._newlines = [], 0, 0
        self._members += 1
        return member

    def _close(self, sign: bytes, rest: bytes) -> None:
        """Check the closing bracket, and that only white space follows it."""
        following = chain([rest], iter(lambda: self._stream.read(_CHUNK_BYTES), b""))
        if sign != self._closer.encode():
            self.fault = f"`{self._closer}` expected at the end, found `{sign.decode()}`"
        elif self.fault is None and any(piece.strip(_BLANK) for piece in following):
            self.fault = "text after the end of the document; for one object a line, read it as `jsonl`"

    @property
    def _closer(self) -> str:
        return "]" if self.opener == b"[" else "}"


def _row(member: Member, path: str, limit: int) -> Item:
    if not member.complete:
        return overlong(path, member.line, member.data, limit)
    try:
        return Row(parse_object(member.data), path, member.line)
    except MalformedRowError as error:
        return RejectedRow(path, member.line, str(error), raw_row(member.data))


def _keyed_row(member: Member, path: str, limit: int) -> Item:
    if not member.complete:
        return overlong(path, member.line, member.data, limit)
    try:
        return Row(_with_key(parse_object(b"{" + member.data + b"}")), path, member.line)
    except MalformedRowError as error:
        return RejectedRow(path, member.line, str(error), raw_row(member.data))


def _with_key(pair: dict[str, Any]) -> dict[str, Any]:
    if len(pair) != 1:
        raise MalformedRowError("expected a key and a row")
    [(key, value)] = pair.items()
    if not isinstance(value, dict):
        raise MalformedRowError(f"expected an object under key `{key}`, got {json_type(value)}")
    return {"id": key} | value


def _whole(first: Member, rest: Iterator[Member], path: str, limit: int) -> Item:
    """Put the members of an object that is itself the row together again, within the limit."""
    parts, size, complete = [first.data], len(first.data), first.complete
    for member in rest:
        size += 1 + len(member.data)
        complete = complete and member.complete and size <= limit
        if complete:
            parts.append(member.data)
    return _row(Member(first.line, b"{" + b",".join(parts) + b"}", complete), path, limit)
