"""What ``corral moderate`` is given: a text, a file, or standard input, as conversations or rejected rows in order."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final, cast

from corral.core.errors import DataError, NotFoundError, UserError
from corral.core.files import sha256_file
from corral.data.conversations import conversation_items
from corral.data.media.kinds import MEDIA_SUFFIXES
from corral.data.messages import Conversation
from corral.data.readers import Item, RejectedRow, Row, read_items

STDIN: Final = "-"
_DATA_SUFFIXES: Final = (".csv", ".gz", ".json", ".jsonl", ".ndjson", ".parquet", ".tsv", ".txt")
_SNIFFED_BYTES: Final = 4096


@dataclass(frozen=True, slots=True)
class Given:
    """One item of the input: where it stands, and its conversation or why there is none."""

    path: str
    line: int
    content: Conversation | RejectedRow

    @property
    def where(self) -> str:
        """``path:line``."""
        return f"{self.path}:{self.line}"


def choose_input(text: str | None, file: Path | None) -> Conversation | Path | IO[bytes]:
    """What was given: a single text, a file, or standard input (``-``, or nothing while something is piped in).

    An argument that is the path of something that exists is that; any other is a text.

    Raises:
        UserError: nothing or two things were given, an empty text, or bytes that are not UTF-8.
        NotFoundError: the argument reads like the name of a data file that is not there.
    """
    if text is not None and file is not None:
        raise UserError("a text and --file were both given", hint="Give one of them.")
    if file is not None:
        return file if str(file) != STDIN else _standard_input()
    if text is None:
        if sys.stdin is None or sys.stdin.isatty():
            raise UserError(
                "nothing to moderate was given",
                hint='Give a text (`corral moderate "How do I bake bread?"`), a file, or `-` for standard input.',
            )
        return _standard_input()
    if text == STDIN:
        return _standard_input()
    if text.strip() and _exists(text):
        return Path(text)
    return Conversation.user(_checked(text))


def read_given(source: Path | IO[bytes], format: str | None) -> Iterator[Given]:
    """The items of a file or stream in order.

    A file is read by its ending; one without a known ending, a pipe and a stream, as JSONL when it begins with ``{``
    and as plain lines when not.

    Raises:
        NotFoundError: no such file.
        DataError: an unknown format, or a source that cannot be opened or read at all.
    """
    for item in _items(source, format):
        for content in conversation_items([item]):
            yield Given(item.path, item.line, content)


def fingerprint(source: Path | IO[bytes]) -> str | None:
    """SHA-256 of a file, by which a rerun knows that it has the same input; ``None`` for a stream."""
    return sha256_file(source) if isinstance(source, Path) and source.is_file() else None


def _items(source: Path | IO[bytes], format: str | None) -> Iterator[Item]:
    if not isinstance(source, Path):
        stream = source if isinstance(source, io.BufferedReader) else io.BufferedReader(cast("io.RawIOBase", source))
        return _named(read_items(stream, format=format or _sniffed(stream)))
    untold = format is None and not source.name.lower().endswith(_DATA_SUFFIXES)
    if not untold or not source.exists() or source.is_dir():
        return read_items(source, format=format)
    if not source.is_file():  # a pipe, as `<(command)` makes, or a device: what was read to tell the format is gone
        return _opened_items(source)
    with _opened(source) as stream:
        format = _sniffed(stream)
    return read_items(source, format=format)


def _opened_items(path: Path) -> Iterator[Item]:
    with _opened(path) as stream:
        yield from read_items(stream, format=_sniffed(stream))


def _opened(path: Path) -> io.BufferedReader:
    try:
        return path.open("rb")
    except OSError as error:
        raise DataError(f"cannot be opened: {error.strerror}", where=str(path)) from error


def _named(items: Iterator[Item]) -> Iterator[Item]:
    """Items of standard input under the name that was given for it."""
    for item in items:
        if isinstance(item, Row):
            yield Row(item.value, STDIN, item.line)
        else:
            yield RejectedRow(STDIN, item.line, item.reason, item.raw)


def _sniffed(stream: io.BufferedReader) -> str:
    head = stream.peek(_SNIFFED_BYTES).removeprefix(b"\xef\xbb\xbf").lstrip()
    return "jsonl" if head.startswith(b"{") else "text"


def _standard_input() -> IO[bytes]:
    if sys.stdin is None:
        raise UserError("standard input is closed", hint="Give a text or a file.")
    return sys.stdin.buffer


def _exists(text: str) -> bool:
    try:
        if Path(text).exists():
            return True
    except (OSError, ValueError):  # longer than a path can be, or with characters that none has
        return False
    if text.lower().endswith(_DATA_SUFFIXES + MEDIA_SUFFIXES) and not any(character.isspace() for character in text):
        raise NotFoundError(
            "there is no such file",
            where=text,
            hint=f"To judge these words as a text: `echo {text} | corral moderate -`.",
        )
    return False


def _checked(text: str) -> str:
    if not text.strip():
        raise UserError("the text is empty", hint="Give a text, a file, or `-` for standard input.")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            "the text is not valid UTF-8", hint="Check the terminal's encoding, or put the text in a UTF-8 file."
        ) from error
    return text
