"""One JSON document cut into rows."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corral.data.readers import RejectedRow, Row
from corral.data.readers import json_members as module
from corral.data.readers.json_members import json_items

LIMIT = 10_000

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
objects = st.dictionaries(st.text(max_size=4), values, max_size=3)


def items(text: str | bytes, limit: int = LIMIT) -> list[Row | RejectedRow]:
    return list(json_items(io.BytesIO(text.encode() if isinstance(text, str) else text), "f", limit))


def outcome(text: str | bytes, limit: int = LIMIT) -> list[tuple[int, Any]]:
    """Line, and value or reason, of each item."""
    return [(item.line, item.value if isinstance(item, Row) else item.reason) for item in items(text, limit)]


@given(st.lists(objects, max_size=5), st.sampled_from([None, 1]), st.booleans(), st.integers(1, 40))
def test_a_list_of_rows_reads_as_the_json_module_reads_it(
    rows: list[dict[str, Any]], indent: int | None, escaped: bool, chunk: int
) -> None:
    data = json.dumps(rows, indent=indent, ensure_ascii=escaped)
    try:
        encoded = data.encode()
    except UnicodeEncodeError:
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_CHUNK_BYTES", chunk)
        found = [item.value for item in items(encoded) if isinstance(item, Row)]
    assert found == rows


@given(st.dictionaries(st.text(max_size=5), objects, min_size=1, max_size=5), st.integers(1, 40))
def test_an_object_of_rows_gives_each_its_key_as_id(rows: dict[str, dict[str, Any]], chunk: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_CHUNK_BYTES", chunk)
        found = [item.value for item in items(json.dumps(rows)) if isinstance(item, Row)]
    assert found == [{"id": key} | row for key, row in rows.items()]


def test_an_object_whose_first_value_is_no_object_is_one_row() -> None:
    row = {"messages": [{"role": "user", "content": "a, b"}], "meta": {"n": 1}}
    assert outcome(json.dumps(row, indent=2)) == [(2, row)]


def test_lines_are_those_of_the_rows_first_characters() -> None:
    assert outcome('\n[\n  {"a":\n 1},\n\n  {"a": 2}, {"a": 3}\n]\n') == [(3, {"a": 1}), (6, {"a": 2}), (6, {"a": 3})]


def test_a_malformed_row_costs_no_other_row() -> None:
    text = '[{"a": 1},\n{"a": tru},\n{"a": NaN},\n{"a": 1, "a": 2},\n5,\n{"a": 6}]'
    found = outcome(text)
    assert [line for line, _ in found] == [1, 2, 3, 4, 5, 6]
    assert found[0] == (1, {"a": 1})
    assert found[5] == (6, {"a": 6})
    assert found[3] == (4, "duplicate key `a`")


def test_invalid_utf_8_costs_one_row() -> None:
    found = outcome(b'[{"a": "caf\xe9"}, {"a": "caf\xc3\xa9"}]')
    assert found == [(1, "invalid UTF-8 at byte 11"), (1, {"a": "café"})]


@pytest.mark.parametrize(
    ("text", "rows", "fault"),
    [
        ('[{"a": 1}, {"a": 2', 1, "the file ends before the closing `]`"),
        ('[{"a": 1}', 0, "the file ends before the closing `]`"),
        ("[", 0, "the file ends before the closing `]`"),
        ('[{"a": 1}] x', 1, "text after the end of the document"),
        ("[] []", 0, "text after the end of the document"),
        ('{"a": "x"}\n{"a": "y"}', 0, "read it as `jsonl`"),
        ('{"messages": [], "id": "x', 0, "the file ends before the closing `}`"),
        ('[{"a": 1},]', 1, "nothing after the last comma"),
        ('[{"a": 1}}', 1, "`]` expected at the end, found `}`"),
        ('"text"', 0, "expected a list or an object of rows"),
    ],
)
def test_what_is_wrong_with_the_document_is_the_last_reject(text: str, rows: int, fault: str) -> None:
    found = items(text)
    assert [type(item) for item in found] == [Row] * rows + [RejectedRow]
    last = found[-1]
    assert isinstance(last, RejectedRow)
    assert fault in last.reason


def test_what_an_object_of_rows_holds_besides_rows_is_rejected() -> None:
    found = outcome('{"a": {"n": 1}, "b": [2], "c": {"n": 3}}')
    assert found == [
        (1, {"id": "a", "n": 1}),
        (1, "expected an object under key `b`, got a list"),
        (1, {"id": "c", "n": 3}),
    ]


def test_a_rows_own_id_wins_over_its_key() -> None:
    assert outcome('{"a": {"id": "own"}}') == [(1, {"id": "own"})]


@pytest.mark.parametrize("text", ["[]", " [ \n ] ", "{}", "{ }"])
def test_an_empty_document_has_no_rows(text: str) -> None:
    assert items(text) == []


def test_rows_of_exactly_the_limit_pass_and_longer_ones_are_rejected() -> None:
    row = '{"a": "%s"}'
    fits, over = row % "x" * 1, row % ("x" * 20)
    limit = len(fits)
    assert outcome(f"[{fits},  {over}  ,{fits}]", limit) == [
        (1, {"a": "x"}),
        (1, f"longer than {limit} bytes"),
        (1, {"a": "x"}),
    ]


def test_a_single_row_beyond_the_limit_is_rejected() -> None:
    assert outcome('{"text": "' + "x" * 50 + '", "id": "1"}', 40) == [(1, "longer than 40 bytes")]
    assert outcome('{"text": "' + "x" * 20 + '", "more": "' + "x" * 20 + '"}', 40) == [(1, "longer than 40 bytes")]


@given(st.text(alphabet='[]{},:"\\ \n1a', max_size=60), st.integers(1, 10))
def test_any_text_gives_rows_and_rejects_and_never_an_exception(text: str, chunk: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_CHUNK_BYTES", chunk)
        small = outcome(text)
    assert small == outcome(text)
