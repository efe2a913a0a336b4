"""Parquet, and data sets of the ``datasets`` package."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from corral.core.errors import DataError, MissingDependencyError
from corral.data.readers import RejectedRow, Row, read_items, read_rows

ROWS: list[dict[str, Any]] = [
    {"id": n, "messages": [{"role": "user", "content": f"text {n}"}], "score": None} for n in range(200)
]


def test_parquet_rows_are_plain_values_numbered_from_one(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.Table.from_pylist(ROWS), path)
    rows = list(read_rows(path))
    assert [row.value for row in rows] == ROWS
    assert [row.line for row in rows] == list(range(1, 201))


def test_one_large_row_group_is_read_a_few_rows_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    table = pa.table({"text": [f"{n} " * 500 for n in range(5000)]})
    pq.write_table(table, path, row_group_size=5000, compression="none", use_dictionary=False)
    before = pa.total_allocated_bytes()
    rows = read_rows(path)
    next(rows)
    assert path.stat().st_size > 10_000_000
    assert pa.total_allocated_bytes() - before < 4_000_000


def test_parquet_text_that_is_not_utf_8_costs_one_row(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    broken = pa.array([b"one", b"caf\xe9", b"three"], pa.binary()).view(pa.string())
    pq.write_table(pa.table({"text": broken}), path)
    items = list(read_items(path))
    assert items == [
        Row({"text": "one"}, str(path), 1),
        RejectedRow(str(path), 2, "invalid UTF-8"),
        Row({"text": "three"}, str(path), 3),
    ]


def test_a_file_that_is_not_parquet_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    path.write_bytes(b"not a parquet file")
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        next(read_rows(path))


def test_parquet_that_is_damaged_inside_ends_in_a_reject(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"n": list(range(1000))}), path, row_group_size=100, compression="gzip")
    data = bytearray(path.read_bytes())
    offset = pq.ParquetFile(path).metadata.row_group(5).column(0).dictionary_page_offset
    data[offset : offset + 60] = b"\xff" * 60
    path.write_bytes(bytes(data))
    *rows, last = read_items(path)
    assert all(isinstance(row, Row) for row in rows)
    assert isinstance(last, RejectedRow)
    assert "damaged from here on" in last.reason


def test_rows_at_hand_are_read_as_they_are() -> None:
    items = list(read_items([{"text": "one"}, "two", {"text": "three"}]))  # type: ignore[list-item]
    assert items == [
        Row({"text": "one"}, "<list>", 1),
        RejectedRow("<list>", 2, "expected a mapping, got str", '"two"'),
        Row({"text": "three"}, "<list>", 3),
    ]


def test_a_dataset_and_a_streamed_dataset_give_the_same_rows() -> None:
    datasets = pytest.importorskip("datasets")
    dataset = datasets.Dataset.from_list(ROWS[:3])
    stored = [row.value for row in read_rows(dataset)]
    assert stored == [row.value for row in read_rows(dataset.to_iterable_dataset())] == ROWS[:3]


@pytest.mark.parametrize(
    ("name", "asked"),
    [
        ("datasets:imdb", ("imdb", None, None, "train")),
        ("datasets:owner/name:test", ("owner/name", None, None, "test")),
        ("datasets:owner/name/config@v1.0:dev", ("owner/name", "config", "v1.0", "dev")),
    ],
)
def test_a_named_dataset_is_streamed(monkeypatch: pytest.MonkeyPatch, name: str, asked: tuple[str | None, ...]) -> None:
    calls = []

    def load_dataset(
        path: str, config: str | None, *, revision: str | None, split: str, streaming: bool
    ) -> list[dict[str, str]]:
        calls.append((path, config, revision, split))
        assert streaming
        return [{"text": "one"}]

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    assert list(read_rows(name)) == [Row({"text": "one"}, name, 1)]
    assert calls == [asked]


def test_without_the_datasets_package_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingDependencyError, match=r'pip install "corral\[train\]"'):
        read_rows("datasets:owner/name")


def test_a_dataset_that_cannot_be_loaded_or_read_further_is_an_error_of_the_user(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def missing(*_: object, **__: object) -> None:
        raise FileNotFoundError("no such data set")

    def broken(*_: object, **__: object) -> Any:
        yield {"text": "one"}
        raise ConnectionError("gone")

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=missing))
    with pytest.raises(DataError, match="cannot be loaded: no such data set"):
        read_rows("datasets:owner/name")
    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=broken))
    rows = read_rows("datasets:owner/name")
    next(rows)
    with pytest.raises(DataError, match="cannot be read further: gone"):
        next(rows)


def test_a_malformed_dataset_name_is_refused() -> None:
    with pytest.raises(DataError, match="does not name a data set"):
        read_rows("datasets:a/b/c/d")
