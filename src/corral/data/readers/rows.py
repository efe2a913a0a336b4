"""What a reader yields: a row, or the reason why there is none; and the strict JSON that both JSON readers share."""

from __future__ import annotations

import codecs
import json
import logging
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final, NoReturn, TypeVar

from corral.core.errors import DataError

_log = logging.getLogger(__name__)

RAW_PREFIX_BYTES: Final = 1_000
_TOO_DEEP: Final = "nested too deeply"
_SURROGATE_ESCAPE: Final = re.compile(r"\\u[dD][89a-fA-F]")


@dataclass(frozen=True, slots=True)
class Row:
    """One row and where it begins.

    Attributes:
        value: column name to value; always a text column ``text`` for plain lines, always text values for CSV.
        path: the file, ``datasets:NAME``, or the name given for a stream.
        line: line number of the row's first character from 1; in Parquet and data sets, which have no lines, the
            number of the row.
    """

    value: dict[str, Any]
    path: str
    line: int

    @property
    def where(self) -> str:
        """``path:line``."""
        return f"{self.path}:{self.line}"


@dataclass(frozen=True, slots=True)
class RejectedRow:
    """A row that could not be read: where it is, why, and what stood there.

    ``raw`` is the row's text, or its bytes where they are not UTF-8; of an over-long row, and of a document that breaks
    off, only the beginning. A row that had been parsed is there as JSON; "" stands where the source has no text.
    """

    path: str
    line: int
    reason: str
    raw: str | bytes = ""

    @property
    def where(self) -> str:
        """``path:line``."""
        return f"{self.path}:{self.line}"


Item = Row | RejectedRow
OnReject = Callable[[RejectedRow], None]
T = TypeVar("T")


class MalformedRowError(ValueError):
    """Why one row cannot be read; caught by the reader, which turns it into a ``RejectedRow``."""


def accepted(items: Iterable[T | RejectedRow], *, strict: bool, on_reject: OnReject | None) -> Iterator[T]:
    """Yield what is not a reject; each reject is raised, handed over before the next item, or logged as a warning.

    Raises:
        DataError: a reject, with ``strict``; names path and line.
    """
    for item in items:
        if not isinstance(item, RejectedRow):
            yield item
        elif strict:
            hint = "Mend the row, or read without `strict` to set such rows aside."
            raise DataError(item.reason, where=item.where, hint=hint)
        elif on_reject is not None:
            on_reject(item)
        else:
            _log.warning("%s: %s", item.where, item.reason)


def raw_row(data: bytes) -> str | bytes:
    """What a rejected row held: its text, or the bytes as they are when they are not UTF-8."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data


def raw_beginning(data: bytes) -> str | bytes:
    """As ``raw_row``, of the first ``RAW_PREFIX_BYTES``; a character that this cuts through is left out."""
    prefix = data[:RAW_PREFIX_BYTES]
    try:
        return codecs.getincrementaldecoder("utf-8")().decode(prefix)
    except UnicodeDecodeError:
        return prefix


def as_json(value: object) -> str:
    """A row as text, for a reject file; what JSON lacks (dates, bytes) is written as Python shows it."""
    try:
        return json.dumps(value, default=repr)
    except RecursionError:
        return "(nested too deeply to be written)"


def overlong(path: str, line: int, prefix: bytes, limit: int) -> RejectedRow:
    """The rejection of a row of more than ``limit`` bytes, of which only the beginning was kept."""
    return RejectedRow(path, line, f"longer than {limit:,} bytes", raw_beginning(prefix))


def decode(data: bytes) -> str:
    """UTF-8 text without NUL.

    Raises:
        MalformedRowError: other bytes; the reason gives the position.
    """
    position = data.find(b"\0")
    if position >= 0:
        raise MalformedRowError(f"NUL byte at byte {position + 1}: not text")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise MalformedRowError(f"invalid UTF-8 at byte {error.start + 1}") from None


def parse_object(data: bytes) -> dict[str, Any]:
    """Read one JSON object, refusing what JSON libraries disagree about.

    Raises:
        MalformedRowError: not UTF-8, not JSON, not an object, a key that occurs twice, NaN or infinity, an escape that
            is half a surrogate pair, or nesting beyond Python's recursion limit.
    """
    text = decode(data)
    try:
        value = _DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise MalformedRowError(f"not JSON: {error.msg} at character {error.pos + 1}") from None
    except RecursionError:
        raise MalformedRowError(_TOO_DEEP) from None
    except MalformedRowError:
        raise
    except ValueError:
        raise MalformedRowError("an integer has too many digits") from None
    if not isinstance(value, dict):
        raise MalformedRowError(f"expected an object, got {json_type(value)}")
    if _SURROGATE_ESCAPE.search(text):
        _refuse_lone_surrogates(value)
    return value


def json_type(value: object) -> str:
    """The JSON name of a parsed value's type, with its article."""
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number" if isinstance(value, int | float) else type(value).__name__)


def _refuse_lone_surrogates(value: dict[str, Any]) -> None:
    """Half a pair cannot be encoded: it would crash the tokenizer, or the writing of the results, much later."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise MalformedRowError("a \\u escape is half of a surrogate pair") from None
    except RecursionError:
        raise MalformedRowError(_TOO_DEEP) from None


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        [(repeated, _)] = Counter(key for key, _ in pairs).most_common(1)
        raise MalformedRowError(f"duplicate key `{repeated}`")
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise MalformedRowError(f"`{name}` is not a JSON number")


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise MalformedRowError(f"the number `{digits[:40]}` is too large")
    return value


_DECODER: Final = json.JSONDecoder(object_pairs_hook=_unique_keys, parse_constant=_refuse_constant, parse_float=_finite)
