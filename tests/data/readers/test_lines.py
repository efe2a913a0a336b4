"""Lines, and the two formats of one row a line."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corral.data.readers import RejectedRow, Row
from corral.data.readers.lines import Line, jsonl_items, read_lines, text_items

LIMIT = 1000


def jsonl(data: bytes) -> list[Row | RejectedRow]:
    return list(jsonl_items(io.BytesIO(data), "f", LIMIT))


def reason(data: bytes) -> str:
    [item] = jsonl(data)
    assert isinstance(item, RejectedRow)
    return item.reason


@given(st.binary(max_size=200))
def test_lines_are_what_stands_between_newlines(data: bytes) -> None:
    pieces = data.split(b"\n")
    expected = pieces[:-1] if pieces[-1] == b"" else pieces
    assert [line.data for line in read_lines(io.BytesIO(data), LIMIT)] == expected


@given(st.lists(st.integers(0, 40), max_size=8), st.integers(1, 20))
def test_overlong_lines_shift_no_line_number(lengths: list[int], limit: int) -> None:
    data = b"".join(b"x" * length + b"\n" for length in lengths)
    lines = list(read_lines(io.BytesIO(data), limit))
    assert lines == [Line(n, b"x" * min(length, limit), length <= limit) for n, length in enumerate(lengths, start=1)]


def test_only_newlines_end_a_line() -> None:
    text = "a\u2028b\x0bc\x0cd\x85e\rf"
    [item] = text_items(io.BytesIO(text.encode()), "f", LIMIT)
    assert item == Row({"text": text}, "f", 1)


def test_plain_lines_lose_their_line_end_and_nothing_else() -> None:
    items = list(text_items(io.BytesIO(b" one \r\n\n\t\ntwo"), "f", LIMIT))
    assert items == [Row({"text": " one "}, "f", 1), Row({"text": "two"}, "f", 4)]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b'{"text": "caf\xe9"}', "invalid UTF-8 at byte 14"),
        (b'{"text": "a\0b"}', "NUL byte at byte 12"),
        (b'{"a": 1, "b": 2, "a": 3}', "duplicate key `a`"),
        (b'{"a": {"b": 1, "b": 2}}', "duplicate key `b`"),
        (b'{"a": NaN}', "`NaN` is not a JSON number"),
        (b'{"a": -Infinity}', "`-Infinity` is not a JSON number"),
        (b'{"a": 1e999}', "the number `1e999` is too large"),
        (b'{"a": ' + b"9" * 5000 + b"}", "too many digits"),
        (b'{"a": "\\ud800"}', "half of a surrogate pair"),
        (b'{"a": 1', "not JSON: Expecting ',' delimiter at character 8"),
        (b'{"a": 1} {"b": 2}', "not JSON: Extra data"),
        (b"[1, 2]", "expected an object, got a list"),
        (b'"text"', "expected an object, got text"),
        (b"null", "expected an object, got null"),
        (b"true", "expected an object, got true or false"),
        (b"7", "expected an object, got a number"),
    ],
)
def test_a_malformed_line_is_rejected_with_its_reason(data: bytes, expected: str) -> None:
    items = list(jsonl_items(io.BytesIO(data + b"\n" + b'{"ok": 1}'), "f", 10_000))
    first, second = items
    assert isinstance(first, RejectedRow)
    assert expected in first.reason
    assert second == Row({"ok": 1}, "f", 2)


def test_nesting_beyond_the_recursion_limit_is_a_reject_and_not_a_crash() -> None:
    depth = 100_000
    data = b'{"a": ' + b"[" * depth + b"]" * depth + b"}\n"
    [item] = jsonl_items(io.BytesIO(data), "f", len(data))
    assert isinstance(item, RejectedRow)
    assert item.reason == "nested too deeply"


def test_escaped_pairs_and_newlines_are_ordinary_text() -> None:
    [item] = jsonl(b'{"text": "\\ud83d\\ude00 a\\nb \\u0000"}')
    assert item == Row({"text": "😀 a\nb \0"}, "f", 1)


def test_a_reject_keeps_bytes_that_are_not_text_as_they_are() -> None:
    [item] = jsonl(b'{"text": "caf\xe9"}')
    assert isinstance(item, RejectedRow)
    assert item.raw == b'{"text": "caf\xe9"}'


def test_the_beginning_of_an_overlong_row_is_cut_between_characters() -> None:
    [item] = jsonl(b"x" + "é".encode() * LIMIT)
    assert isinstance(item, RejectedRow)
    assert item.raw == "x" + "é" * 499  # 999 bytes: the thousandth is half of a character


@given(st.binary(max_size=300))
def test_any_bytes_give_rows_and_rejects_and_never_an_exception(data: bytes) -> None:
    lines = [line for line in data.split(b"\n") if line.strip()]
    assert len(jsonl(data)) == len(lines)
    assert len(list(text_items(io.BytesIO(data), "f", LIMIT))) == len(lines)
