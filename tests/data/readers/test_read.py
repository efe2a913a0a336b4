"""Any source, row by row: formats, compression, rejects in their places, bounded memory."""

from __future__ import annotations

import gzip
import io
import json
import logging
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from corral.core.errors import DataError, NotFoundError
from corral.data.readers import RejectedRow, Row, read_items, read_rows

ROWS = [{"id": "a", "text": "one"}, {"id": "b", "text": "zwei, drei"}, {"id": "c", "text": "vier\nfünf"}]


def as_jsonl(rows: list[dict[str, str]]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


CONTENTS = {
    "rows.jsonl": as_jsonl(ROWS),
    "rows.ndjson": as_jsonl(ROWS),
    "rows.json": json.dumps(ROWS, indent=1).encode(),
    "keyed.json": json.dumps({row["id"]: {"text": row["text"]} for row in ROWS}).encode(),
    "rows.csv": 'id,text\r\na,one\r\nb,"zwei, drei"\r\nc,"vier\nfünf"\r\n'.encode(),
    "rows.tsv": 'id\ttext\na\tone\nb\tzwei, drei\nc\t"vier\nfünf"\n'.encode(),
}


@pytest.mark.parametrize("name", CONTENTS)
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
def test_every_format_gives_the_same_rows(tmp_path: Path, name: str, packed: bool, bom: bytes) -> None:
    data = bom + CONTENTS[name]
    path = tmp_path / (name + ".gz" if packed else name)
    path.write_bytes(gzip.compress(data) if packed else data)
    assert [row.value for row in read_rows(path, strict=True)] == ROWS


def test_compression_is_told_by_content_and_not_by_name(tmp_path: Path) -> None:
    packed, plain = tmp_path / "packed.jsonl", tmp_path / "plain.jsonl.gz"
    packed.write_bytes(gzip.compress(CONTENTS["rows.jsonl"]))
    plain.write_bytes(CONTENTS["rows.jsonl"])
    assert [row.value for row in read_rows(packed)] == [row.value for row in read_rows(plain)] == ROWS


def test_a_row_knows_its_path_and_line(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'\n{"text": "one"}\n\n  \r\n{"text": "two"}\r\n')
    rows = list(read_rows(str(path)))
    assert [row.where for row in rows] == [f"{path}:2", f"{path}:5"]


def test_rejects_stand_in_their_places(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"n": 1}\n{"n": \n{"n": 3}\n[4]\n{"n": 5}\n')
    kinds = [(type(item), item.line) for item in read_items(path)]
    assert kinds == [(Row, 1), (RejectedRow, 2), (Row, 3), (RejectedRow, 4), (Row, 5)]


def test_a_reject_is_handed_over_before_the_next_row(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"n": 1}\nbroken\n{"n": 3}\n')
    rejects: list[RejectedRow] = []
    rows = read_rows(path, on_reject=rejects.append)
    assert (next(rows).line, len(rejects)) == (1, 0)
    assert (next(rows).line, len(rejects)) == (3, 1)
    assert rejects[0].raw == "broken"


def test_strict_stops_at_the_first_reject_and_names_path_and_line(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"n": 1}\nbroken\n{"n": 3}\n')
    rows = read_rows(path, strict=True)
    assert next(rows).line == 1
    with pytest.raises(DataError, match="not JSON") as error:
        next(rows)
    assert error.value.where == f"{path}:2"


def test_rejects_that_nobody_takes_are_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"broken\n")
    with caplog.at_level(logging.WARNING):
        assert list(read_rows(path)) == []
    assert f"{path}:1: not JSON" in caplog.text


def test_a_file_with_one_percent_broken_lines_is_read_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    with path.open("wb") as file:
        for n in range(1, 1001):
            file.write(b'{"n": oops}\n' if n % 100 == 0 else b'{"n": %d}\n' % n)
    rejects: list[RejectedRow] = []
    rows = list(read_rows(path, on_reject=rejects.append))
    assert len(rows) == 990
    assert [reject.line for reject in rejects] == list(range(100, 1001, 100))


@pytest.mark.parametrize("name", ["empty.jsonl", "empty.json", "empty.csv", "empty.txt"])
@pytest.mark.parametrize("data", [b"", b"\n \r\n", b"\xef\xbb\xbf"])
def test_an_empty_file_has_no_rows_and_no_rejects(tmp_path: Path, name: str, data: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    assert list(read_items(path)) == []


@pytest.mark.parametrize("bom", [b"\xff\xfe", b"\xfe\xff"])
def test_utf_16_is_refused_as_a_whole(tmp_path: Path, bom: bytes) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(bom + "{}".encode("utf-16-le"))
    with pytest.raises(DataError, match="UTF-16"):
        next(read_rows(path))


def test_a_missing_file_and_a_folder_are_refused_before_reading(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no such file"):
        read_rows(tmp_path / "absent.jsonl")
    with pytest.raises(DataError, match="folder"):
        read_rows(tmp_path)


def test_an_untold_or_unknown_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.dat"
    path.write_bytes(CONTENTS["rows.jsonl"])
    with pytest.raises(DataError, match=r"suffix `\.dat`"):
        read_rows(path)
    with pytest.raises(DataError, match="no format is named `jsonlines`") as error:
        read_rows(path, format="jsonlines")
    assert error.value.hint is not None
    assert "`jsonl`" in error.value.hint
    assert len(list(read_rows(path, format="jsonl"))) == 3


def test_a_row_limit_below_one_byte_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"{}\n")
    with pytest.raises(DataError, match="max_row_bytes"):
        read_rows(path, max_row_bytes=0)


def test_compressed_data_that_breaks_off_ends_in_a_reject(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl.gz"
    rows = b"".join(b'{"n": "%d"}\n' % (n * 7919) for n in range(5000))
    path.write_bytes(gzip.compress(rows)[:-2000])
    items = list(read_items(path))
    assert len(items) > 100
    assert all(isinstance(item, Row) for item in items[:-1])
    last = items[-1]
    assert isinstance(last, RejectedRow)
    assert "compressed data is damaged" in last.reason
    assert last.line == len(items)


def test_an_open_stream_is_read_and_left_open() -> None:
    stream = io.BytesIO(CONTENTS["rows.jsonl"])
    rows = list(read_rows(stream, format="jsonl"))
    assert [row.value for row in rows] == ROWS
    assert rows[0].path == "<stream>"
    assert not stream.closed


@pytest.mark.parametrize("format", [None, "parquet"])
def test_a_stream_needs_a_format_that_streams(format: str | None) -> None:
    with pytest.raises(DataError, match="`jsonl`"):
        read_rows(io.BytesIO(b""), format=format)


def test_a_reader_that_is_left_early_closes_its_file(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(CONTENTS["rows.jsonl"])
    rows = read_items(path)
    next(rows)
    rows.close()  # type: ignore[attr-defined]  a ResourceWarning would fail the test


def generated_bytes(format: str, rows: int) -> Iterator[bytes]:
    body = "word " * 40
    if format == "csv":
        yield b"id,text\n"
        yield from (b'%d,"%s"\n' % (n, body.encode()) for n in range(rows))
    elif format == "json":
        yield b"["
        yield from (b'%s{"id": "%d", "text": "%s"}' % (b",\n" if n else b"", n, body.encode()) for n in range(rows))
        yield b"]"
    elif format == "text":
        yield from (b"%d %s\n" % (n, body.encode()) for n in range(rows))
    else:
        yield from (b'{"id": "%d", "text": "%s"}\n' % (n, body.encode()) for n in range(rows))


@pytest.mark.parametrize("format", ["jsonl", "json", "csv", "text"])
def test_memory_does_not_grow_with_the_number_of_rows(tmp_path: Path, format: str) -> None:
    peaks = []
    for rows in (500, 500, 2000):  # the first pass fills caches (regular expressions, codecs) and is not compared
        path = tmp_path / f"{rows}.{format}"
        path.write_bytes(b"".join(generated_bytes(format, rows)))
        tracemalloc.start()
        assert sum(1 for _ in read_rows(path, format=format, strict=True)) == rows
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[2] < peaks[1] + 100_000  # the file itself grew by more than 300,000 bytes
    assert peaks[2] < 1 << 20


@pytest.mark.parametrize("format", ["jsonl", "json", "csv", "text"])
def test_an_overlong_row_is_rejected_without_being_held(tmp_path: Path, format: str) -> None:
    path = tmp_path / f"rows.{format}"
    pieces, large = list(generated_bytes(format, 2)), b'"text' + b"x" * 5_000_000 + b'"'
    row = {"csv": b"1," + large + b"\n", "json": b',{"text": ' + large + b"}"}.get(format, large + b"\n")
    pieces.insert(2 if format in ("csv", "json") else 1, row)  # behind the header or bracket and one row
    path.write_bytes(b"".join(pieces))
    tracemalloc.start()
    items = list(read_items(path, format=format, max_row_bytes=10_000))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [type(item) for item in items] == [Row, RejectedRow, Row]
    reject = items[1]
    assert isinstance(reject, RejectedRow)
    assert reject.reason == "longer than 10,000 bytes"
    assert 0 < len(reject.raw) <= 1000
    assert peak < 1 << 20


@pytest.mark.parametrize("ending", [b"\n", b"\r\n", b""])
def test_the_limit_counts_the_line_without_its_end(tmp_path: Path, ending: bytes) -> None:
    path = tmp_path / "rows.txt"
    path.write_bytes(b"x" * 10 + ending)
    assert [type(item) for item in read_items(path, max_row_bytes=10)] == [Row]
    assert [type(item) for item in read_items(path, max_row_bytes=9)] == [RejectedRow]
