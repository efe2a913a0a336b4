from pathlib import Path

import pytest

from corral.core.checkpoints import (
    MARKER,
    all_complete,
    checkpoint_directory,
    is_complete,
    latest_complete,
    mark_complete,
    problems,
)
from corral.core.errors import RunError


def checkpoint(path: Path, *, complete: bool = True) -> Path:
    path.mkdir(parents=True)
    (path / "weights").write_bytes(b"weights")
    (path / "state").mkdir()
    (path / "state" / "step").write_text("7")
    if complete:
        mark_complete(path)
    return path


def test_the_newest_complete_checkpoint_counts_by_number_not_by_name(tmp_path: Path) -> None:
    checkpoint(tmp_path / "checkpoint-9")
    expected = checkpoint(tmp_path / "checkpoint-10")
    checkpoint(tmp_path / "checkpoint-11", complete=False)
    checkpoint(tmp_path / "other-12")
    checkpoint(tmp_path / "checkpoint-x")
    (tmp_path / "checkpoint-99").write_text("a file")
    assert latest_complete(tmp_path) == expected
    assert latest_complete(tmp_path, prefix="other-") == tmp_path / "other-12"
    assert all_complete(tmp_path) == [(9, tmp_path / "checkpoint-9"), (10, expected)]


@pytest.mark.parametrize("folder", ["absent", "."])
def test_without_a_complete_checkpoint_there_is_none(tmp_path: Path, folder: str) -> None:
    assert latest_complete(tmp_path / folder) is None
    assert all_complete(tmp_path / folder) == []


def test_a_checkpoint_that_changed_or_lost_a_file_does_not_count(tmp_path: Path) -> None:
    older = checkpoint(tmp_path / "checkpoint-1")
    newer = checkpoint(tmp_path / "checkpoint-2")
    (newer / "weights").write_bytes(b"WEIGHTS")  # same size, other content
    assert problems(newer) == ["`weights` is missing or differs from its marker"]
    assert latest_complete(tmp_path) == older
    (older / "state" / "step").unlink()
    assert not is_complete(older)
    assert latest_complete(tmp_path) is None


@pytest.mark.parametrize("marker", ["", "[]", "{}", '{"files": {"weights": 1}}'])
def test_a_damaged_marker_does_not_count(tmp_path: Path, marker: str) -> None:
    path = checkpoint(tmp_path / "checkpoint-1", complete=False)
    (path / MARKER).write_text(marker)
    assert not is_complete(path)


def test_files_added_after_the_marker_do_not_matter(tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "checkpoint-1")
    (path / "notes").write_text("x")
    assert is_complete(path)


def test_an_empty_directory_cannot_be_marked(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="nothing to mark"):
        mark_complete(tmp_path)


def test_a_checkpoint_written_at_once_replaces_only_an_incomplete_one(tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "checkpoint-1", complete=False)
    with checkpoint_directory(path) as temporary:
        (temporary / "weights").write_bytes(b"new")
    assert is_complete(path)
    assert sorted(entry.name for entry in path.iterdir()) == [MARKER, "weights"]
    with pytest.raises(RunError, match="already exists"), checkpoint_directory(path):
        pass


def test_a_crash_while_writing_leaves_no_checkpoint(tmp_path: Path) -> None:
    def crash() -> None:
        with checkpoint_directory(tmp_path / "checkpoint-1") as temporary:
            (temporary / "weights").write_bytes(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        crash()
    assert list(tmp_path.iterdir()) == []
