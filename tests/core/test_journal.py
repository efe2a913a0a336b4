import base64
import contextlib
import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corral.core.errors import DataError, RunError, UserError
from corral.core.files import read_json
from corral.core.journal import Journal


@pytest.fixture(autouse=True, scope="module")
def no_waiting_for_the_disk() -> Iterator[None]:
    """Killed processes are tested here, which lose nothing that was written; the order of syncs has its own test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        yield


def rows_in(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]


def rejects_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.rejects.jsonl")


def sidecar_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.journal.json")


def answer(journal: Journal, items: list[int | str], *, batch: int = 1) -> None:
    """What moderate does: every item from ``position`` on gives a row (a number) or a reject (text)."""
    for number in range(journal.position, len(items)):
        item = items[number]
        if isinstance(item, int):
            journal.append({"id": number, "value": item})
        else:
            journal.reject("input.jsonl", number + 1, "not a number", item)
        if (number + 1) % batch == 0:
            journal.flush()


class Killed(BaseException):
    """Stands for SIGKILL: nothing after it is written."""


class DyingDisk:
    """Lets a number of bytes through, then kills the writer in the middle of a write."""

    def __init__(self, allowance: int) -> None:
        self.left = allowance

    def pwrite(self, descriptor: int, data: bytes, offset: int) -> int:
        size = min(self.left, len(data))
        written = PWRITE(descriptor, data[:size], offset)
        self.left -= size
        if size < len(data):
            raise Killed
        return written


PWRITE = os.pwrite
ITEMS = st.lists(st.integers(0, 9) | st.sampled_from(["bad", "worse\nstill", "\ud800"]), max_size=12)


def session_killed_after(path: Path, items: list[int | str], *, allowance: int, batch: int) -> None:
    journal = Journal.open(path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "pwrite", DyingDisk(allowance).pwrite)
        with contextlib.suppress(Killed):
            answer(journal, items, batch=batch)
    for file in (journal._rows, journal._rejects):  # as the kernel does: close without flushing
        if file is not None:
            file.close()


@settings(max_examples=100)
@given(
    items=ITEMS,
    sessions=st.lists(st.tuples(st.integers(0, 300), st.integers(1, 5)), max_size=4),
    batch=st.integers(1, 5),
)
def test_any_number_of_kills_at_any_byte_gives_the_file_of_one_session(
    tmp_path_factory: pytest.TempPathFactory, items: list[int | str], sessions: list[tuple[int, int]], batch: int
) -> None:
    folder = tmp_path_factory.mktemp("journal")
    broken, whole = folder / "broken.jsonl", folder / "whole.jsonl"
    for allowance, session_batch in sessions:
        session_killed_after(broken, items, allowance=allowance, batch=session_batch)
    with Journal.open(broken) as journal:
        answer(journal, items, batch=batch)
    with Journal.open(whole) as journal:
        answer(journal, items)
    assert broken.read_bytes() == whole.read_bytes()
    assert rejects_of(broken).exists() == rejects_of(whole).exists()
    if rejects_of(whole).exists():
        assert rejects_of(broken).read_bytes() == rejects_of(whole).read_bytes()


@given(items=ITEMS, cuts=st.lists(st.integers(0, 12)))
def test_any_split_of_the_items_over_sessions_gives_the_file_of_one_session(
    tmp_path_factory: pytest.TempPathFactory, items: list[int | str], cuts: list[int]
) -> None:
    path = tmp_path_factory.mktemp("journal") / "out.jsonl"
    for cut in [*sorted(cuts), len(items)]:
        with Journal.open(path) as journal:
            before = journal.position
            assert journal.resumed == before
            answer(journal, items[:cut])
            assert journal.position == max(before, min(cut, len(items)))
    numbers = [item for item in items if isinstance(item, int)]
    texts = [item for item in items if isinstance(item, str)]
    assert [row["value"] for row in rows_in(path)] == numbers
    assert (journal.rows, journal.rejects) == (len(numbers), len(texts))
    if texts:
        assert [entry["raw"] for entry in rows_in(rejects_of(path))] == texts
        assert [items[entry["index"]] for entry in rows_in(rejects_of(path))] == texts


WRITER = textwrap.dedent(
    """
    import sys
    from corral.core.journal import Journal

    with Journal.open(sys.argv[1], key="id") as journal:
        for number in range(int(sys.argv[2])):
            if f"item {number}" in journal:
                continue
            if number % 7 == 3:
                journal.reject("input", number + 1, "broken", "{", key=f"item {number}")
            else:
                journal.append({"id": f"item {number}", "text": "x" * 50})
            journal.flush()
            print(number, flush=True)
    """
)


def start_writer(path: Path, items: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", WRITER, str(path), str(items)], stdout=subprocess.PIPE)


def test_a_process_killed_between_writes_loses_and_doubles_nothing(tmp_path: Path) -> None:
    path, items = tmp_path / "out.jsonl", 400
    for seen in (5, 40):
        writer = start_writer(path, items)
        assert writer.stdout is not None
        for _ in range(seen):
            assert writer.stdout.readline()
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        writer.stdout.close()
    with path.open("ab") as torn:
        torn.write(b'{"id": "item 1')
    writer = start_writer(path, items)
    writer.communicate()
    assert writer.returncode == 0
    answered = [f"item {n}" for n in range(items) if n % 7 != 3]
    rejected = [f"item {n}" for n in range(items) if n % 7 == 3]
    assert [row["id"] for row in rows_in(path)] == answered
    assert [entry["key"] for entry in rows_in(rejects_of(path))] == rejected


def test_two_processes_cannot_write_one_journal(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    writer = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys, time; from corral.core.journal import Journal\n"
            "journal = Journal.open(sys.argv[1]); print(1, flush=True); time.sleep(60)",
            str(path),
        ],
        stdout=subprocess.PIPE,
    )
    assert writer.stdout is not None
    with writer.stdout:
        writer.stdout.readline()
        with pytest.raises(RunError, match="another process is writing here"):
            Journal.open(path)
        writer.kill()
        writer.wait()
    with Journal.open(path) as journal:
        assert journal.position == 0


def test_rejects_are_on_the_disk_before_rows_that_came_after_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[tuple[str, str]] = []

    def name(descriptor: int) -> str:
        return Path(f"/proc/self/fd/{descriptor}").readlink().name

    def pwrite(descriptor: int, data: bytes, offset: int) -> int:
        events.append(("write", name(descriptor)))
        return PWRITE(descriptor, data, offset)

    with Journal.open(tmp_path / "out.jsonl") as journal:
        monkeypatch.setattr(os, "pwrite", pwrite)
        monkeypatch.setattr(os, "fsync", lambda descriptor: events.append(("sync", name(descriptor))))
        answer(journal, [1, "bad", 2], batch=3)
        rejects = "out.jsonl.rejects.jsonl"
        assert [e for e in events if e[1] != tmp_path.name] == [
            ("write", rejects),
            ("sync", rejects),
            ("write", "out.jsonl"),
        ]


def test_an_exception_keeps_the_rows_before_it(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    with pytest.raises(KeyboardInterrupt), Journal.open(path) as journal:
        journal.append({"id": 1})
        raise KeyboardInterrupt
    assert rows_in(path) == [{"id": 1}]


def test_rows_read_back_in_order_from_all_sessions(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    with Journal.open(path) as journal:
        journal.append({"text": "line one\nline two\u2028still", "n": 1})
    with Journal.open(path) as journal:
        journal.append({"text": "\ud800", "n": 2})
        assert [row["n"] for row in journal.entries()] == [1, 2]
    assert rows_in(path)[0]["text"] == "line one\nline two\u2028still"
    path.read_bytes().decode()  # the file stays UTF-8


def test_a_journal_is_not_continued_under_other_settings(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    with Journal.open(path, fingerprint={"guard": "a", "input": "1"}) as journal:
        journal.append({"id": 1})
    with pytest.raises(UserError, match="other settings: `guard`") as caught:
        Journal.open(path, fingerprint={"guard": "b", "input": "1"})
    assert "remove this one to start over" in (caught.value.hint or "")
    with pytest.raises(UserError, match="other settings: `key`"):
        Journal.open(path, key="id", fingerprint={"guard": "a", "input": "1"})
    with Journal.open(path, fingerprint={"input": "1", "guard": "a"}) as journal:
        assert journal.rows == 1


def test_nothing_is_added_to_a_file_of_another_origin(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text('{"a": 1}\n')
    for resume in (True, False):
        with pytest.raises(UserError, match="not a journal of Corral's"):
            Journal.open(path, resume=resume)
    assert path.read_text() == '{"a": 1}\n'
    assert list(tmp_path.iterdir()) == [path]


def test_starting_over_removes_rows_and_rejects(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    with Journal.open(path, fingerprint={"guard": "a"}) as journal:
        answer(journal, [1, "bad", 2])
    with Journal.open(path, fingerprint={"guard": "b"}, resume=False) as journal:
        assert journal.position == 0
        answer(journal, [3])
    assert [row["value"] for row in rows_in(path)] == [3]
    assert not rejects_of(path).exists()


@pytest.mark.parametrize("gone", [lambda path: path.unlink(), lambda path: path.write_bytes(b"")])
def test_removing_or_emptying_the_rows_starts_over_even_under_other_settings(tmp_path: Path, gone: Any) -> None:
    path = tmp_path / "out.jsonl"
    with Journal.open(path, fingerprint={"guard": "a"}) as journal:
        answer(journal, ["bad", 1])
    gone(path)
    with Journal.open(path, fingerprint={"guard": "b"}) as journal:
        assert journal.position == 0
        answer(journal, [5])
    assert read_json(sidecar_of(path))["fingerprint"] == {"guard": "b"}
    assert not rejects_of(path).exists()


def test_a_journal_of_rejects_only_is_continued(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    with Journal.open(path) as journal:
        answer(journal, ["bad", "worse"])
    with Journal.open(path) as journal:
        assert journal.position == 2


def test_rows_or_rejects_that_someone_removed_are_noticed(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    with Journal.open(path) as journal:
        answer(journal, [1, "bad", 2])
    kept = rejects_of(path).read_bytes()
    rejects_of(path).unlink()
    with pytest.raises(RunError, match="2 rows and 0 rejects are left of the 2 and 1"):
        Journal.open(path)
    rejects_of(path).write_bytes(kept)
    path.write_bytes(path.read_bytes().partition(b"\n")[0] + b"\n")
    with pytest.raises(RunError, match="1 rows and 1 rejects are left"):
        Journal.open(path)


def test_a_key_is_claimed_once_by_row_or_reject(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    with Journal.open(path, key="id") as journal:
        journal.append({"id": "a"})
        journal.reject("input", 2, "broken", "{", key="b")
        for add in (lambda: journal.append({"id": "a"}), lambda: journal.append({"id": "b"})):
            with pytest.raises(DataError, match="in the journal already"):
                add()
        with pytest.raises(DataError, match="no text under `id`"):
            journal.append({"id": 3})
    with Journal.open(path, key="id") as journal:
        assert ("a" in journal, "b" in journal, "c" in journal) == (True, True, False)
        assert journal.position == 2


def test_a_journal_without_a_key_is_not_asked_for_one(tmp_path: Path) -> None:
    with Journal.open(tmp_path / "out.jsonl") as journal, pytest.raises(ValueError, match="without a key"):
        assert "a" in journal


def test_a_row_that_is_not_json_is_refused_and_not_counted(tmp_path: Path) -> None:
    with Journal.open(tmp_path / "out.jsonl") as journal:
        for row in ({"p": float("nan")}, {"p": object()}):
            with pytest.raises(DataError, match="cannot be written as JSON"):
                journal.append(row)
        assert journal.rows == 0


def test_a_damaged_line_is_named_when_rows_are_read(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    with Journal.open(path, key="id") as journal:
        journal.append({"id": "a"})
        journal.append({"id": "b"})
    path.write_bytes(path.read_bytes().replace(b'"b"', b"\0\0\0"))
    with pytest.raises(RunError, match="damaged") as caught:
        Journal.open(path, key="id")
    assert caught.value.where == f"{path}:2"
    path.write_bytes(b'{"id": "a"}\n{"id": "b"}\n')
    Journal.open(path, key="id").close()  # the failed open let go of its lock


def test_many_rows_reach_the_disk_without_a_flush_by_the_caller(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    with Journal.open(path) as journal:
        for _ in range(3):
            journal.append({"text": "x" * (1 << 19)})
        assert path.stat().st_size > 1 << 20


def test_a_rejected_item_that_is_not_text_is_kept_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    with Journal.open(path) as journal:
        journal.reject("input", 1, "broken", "caf\\xe9")
        journal.reject("input", 2, "not UTF-8", b"caf\xe9\x00")
    text, binary = rows_in(rejects_of(path))
    assert (text["encoding"], text["raw"]) == ("text", "caf\\xe9")
    assert binary["encoding"] == "base64"
    assert base64.b64decode(binary["raw"]) == b"caf\xe9\x00"
