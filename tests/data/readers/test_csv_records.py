"""CSV and TSV records."""

from __future__ import annotations

import csv
import io
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corral.core.errors import DataError
from corral.data.readers import Row
from corral.data.readers.csv_records import csv_items

LIMIT = 10_000

# NUL cannot be read as text, and the csv writer leaves half a surrogate pair to the encoder.
cells = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12)


def outcome(text: str | bytes, limit: int = LIMIT) -> list[tuple[int, Any]]:
    """Line, and value or reason, of each item."""
    data = text.encode() if isinstance(text, str) else text
    return [
        (item.line, item.value if isinstance(item, Row) else item.reason)
        for item in csv_items(io.BytesIO(data), "f", limit, ",")
    ]


@given(st.lists(st.tuples(cells, cells), max_size=6), st.sampled_from(["\n", "\r\n"]))
def test_what_the_csv_module_writes_is_read_back(rows: list[tuple[str, str]], ending: str) -> None:
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator=ending, quoting=csv.QUOTE_ALL)
    writer.writerows([("a", "b"), *rows])
    assert [value for _, value in outcome(out.getvalue())] == [{"a": a, "b": b} for a, b in rows]


def test_a_record_over_several_lines_carries_its_first_line() -> None:
    assert outcome('a,b\n1,"x\n\ny"\n\n2,z\n') == [(2, {"a": "1", "b": "x\n\ny"}), (6, {"a": "2", "b": "z"})]


def test_a_stray_quote_costs_one_line() -> None:
    found = outcome('a,b\n1,x\n2,"y\n3,z\n4,w\n')
    assert [line for line, _ in found] == [2, 3, 4, 5]
    assert "unexpected end of data" in found[1][1]
    assert [value["a"] for line, value in found if line != 3] == ["1", "3", "4"]


def test_a_stray_quote_that_a_later_quote_closes_costs_one_line() -> None:
    found = outcome('a,b\n1,"x\n2,"y"\n3,"z"\n')
    assert [line for line, _ in found] == [2, 3, 4]
    assert isinstance(found[0][1], str)
    assert found[1:] == [(3, {"a": "2", "b": "y"}), (4, {"a": "3", "b": "z"})]


def test_a_stray_quote_in_a_long_file_holds_no_more_than_the_limit() -> None:
    found = outcome('a\n"x\n' + "y" * 50 + "\n" + "z\n" * 50, limit=60)
    assert found[0] == (2, "longer than 60 bytes")
    assert found[1] == (3, {"a": "y" * 50})
    assert len(found) == 52


def test_rows_with_other_than_the_headers_number_of_fields_are_rejected() -> None:
    assert outcome("a,b\n1\n1,2,3\n4,5\n") == [
        (2, "the header has 2 fields, the row has 1"),
        (3, "the header has 2 fields, the row has 3"),
        (4, {"a": "4", "b": "5"}),
    ]


@pytest.mark.parametrize(("cell", "reason"), [(b"caf\xe9", "invalid UTF-8"), (b"a\0b", "NUL byte")])
def test_a_line_that_is_not_text_is_rejected(cell: bytes, reason: str) -> None:
    found = outcome(b"a,b\n1," + cell + b"\n2,ok\n")
    assert reason in found[0][1]
    assert found[1:] == [(3, {"a": "2", "b": "ok"})]


def test_blank_lines_are_passed_over_and_empty_fields_are_not() -> None:
    assert outcome("\na,b\n\n,\n \n1,2\n") == [(4, {"a": "", "b": ""}), (6, {"a": "1", "b": "2"})]


@pytest.mark.parametrize(
    ("header", "reason"), [(b"a,a", "column `a` occurs twice"), (b'"a,b', "unexpected end"), (b"\xff", "UTF-8")]
)
def test_a_header_that_cannot_be_read_ends_the_reading(header: bytes, reason: str) -> None:
    with pytest.raises(DataError, match=reason) as error:
        outcome(header)
    assert error.value.where == "f:1"


def test_fields_longer_than_the_csv_modules_own_limit_are_read() -> None:
    text = "x" * 200_000
    assert outcome(f"a,b\n1,{text}\n", limit=300_000) == [(2, {"a": "1", "b": text})]


@given(st.text(alphabet='",\n\ra ', max_size=60), st.integers(1, 30))
def test_any_text_after_a_header_gives_rows_and_rejects_and_never_an_exception(text: str, limit: int) -> None:
    numbers = [line for line, _ in outcome("h\n" + text, limit)]
    assert numbers == sorted(set(numbers))
