import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corral.core.errors import RunError, UserError
from corral.core.line_file import LineFile

LINES = st.lists(st.binary(max_size=5).filter(lambda line: b"\n" not in line))


@given(LINES, st.data())
def test_any_tear_of_the_file_keeps_the_whole_lines_before_it(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes], data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("lines") / "file"
    content = b"".join(line + b"\n" for line in lines)
    torn_at = data.draw(st.integers(0, len(content)))
    path.write_bytes(content[:torn_at])
    file = LineFile(path)
    file.recover()
    kept = content[:torn_at].count(b"\n")
    assert list(file.lines()) == lines[:kept]
    assert file.count == kept
    file.append(b"more")
    file.flush()
    file.close()
    assert path.read_bytes() == b"".join(line + b"\n" for line in [*lines[:kept], b"more"])


def test_a_line_longer_than_the_reading_block_is_counted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("corral.core.line_file._BLOCK", 4)
    path = tmp_path / "file"
    path.write_bytes(b"0123456789\nab\ntorn")
    file = LineFile(path)
    file.recover()
    file.close()
    assert (file.count, path.read_bytes()) == (2, b"0123456789\nab\n")


def test_a_flush_that_stopped_half_way_writes_the_same_bytes_to_the_same_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = LineFile(tmp_path / "file")
    file.append(b"first")
    file.append(b"second")

    def interrupted(descriptor: int, data: bytes, offset: int) -> int:
        pwrite(descriptor, data[:8], offset)
        raise KeyboardInterrupt

    pwrite = os.pwrite
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", interrupted)
        with pytest.raises(KeyboardInterrupt):
            file.flush()
    file.append(b"third")
    file.flush()
    file.close()
    assert (tmp_path / "file").read_bytes() == b"first\nsecond\nthird\n"


def test_a_full_disk_is_reported_and_loses_nothing_that_is_pending(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = LineFile(tmp_path / "file")
    file.append(b"row")

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        with pytest.raises(RunError, match="No space left on device"):
            file.flush()
    file.flush()
    file.close()
    assert (tmp_path / "file").read_bytes() == b"row\n"


def test_only_an_ordinary_file_can_be_appended_to(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a file that can be continued"):
        LineFile(tmp_path)
    with pytest.raises(UserError, match="not a file that can be continued"):
        LineFile(Path(os.devnull))
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UserError, match="cannot be opened"):
        LineFile(tmp_path / "dangling")
