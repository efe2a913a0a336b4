import hashlib
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corral.core.errors import DataError, NotFoundError, RunError
from corral.core.files import (
    atomic_directory,
    atomic_path,
    atomic_write_bytes,
    atomic_write_json,
    atomic_write_text,
    canonical_json,
    read_json,
    sha256_file,
    sha256_json,
)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def test_a_write_that_fails_leaves_the_old_content_and_no_litter(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    atomic_write_text(path, "old")

    def fail_half_way() -> None:
        with atomic_path(path) as temporary:
            temporary.write_text("ne")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail_half_way()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_nothing_is_seen_under_the_name_before_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "weights.safetensors"
    with atomic_path(path) as temporary:
        temporary.write_bytes(b"x")
        assert not path.exists()
        assert temporary.suffix == ".safetensors"
    assert path.read_bytes() == b"x"


def test_a_block_that_writes_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="nothing was written"), atomic_path(tmp_path / "file"):
        pass


def test_a_symbolic_link_stays_one(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_text("old")
    link.symlink_to(target)
    atomic_write_text(link, "new")
    assert link.is_symlink()
    assert target.read_text() == "new"


def test_a_very_long_name_can_be_written(tmp_path: Path) -> None:
    path = tmp_path / ("n" * 250)
    atomic_write_bytes(path, b"x")
    assert path.read_bytes() == b"x"


def test_a_directory_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "model"

    def fail_half_way() -> None:
        with atomic_directory(path) as temporary:
            (temporary / "half").write_text("x")
            raise ValueError

    with pytest.raises(ValueError):
        fail_half_way()
    assert list(tmp_path.iterdir()) == []
    with atomic_directory(path) as temporary:
        (temporary / "inner").mkdir()
        (temporary / "inner" / "file").write_text("x")
    assert (path / "inner" / "file").read_text() == "x"
    assert list(tmp_path.iterdir()) == [path]


def test_a_directory_is_replaced_only_when_asked(tmp_path: Path) -> None:
    path = tmp_path / "model"
    path.mkdir()
    (path / "old").touch()
    with pytest.raises(RunError, match="already exists"), atomic_directory(path):
        pass
    with atomic_directory(path, replace=True) as temporary:
        (temporary / "new").touch()
    assert [entry.name for entry in path.iterdir()] == ["new"]
    assert list(tmp_path.iterdir()) == [path]


@given(JSON)
def test_json_files_read_back_equal(tmp_path_factory: pytest.TempPathFactory, value: object) -> None:
    path = tmp_path_factory.mktemp("json") / "value.json"
    atomic_write_json(path, value)
    assert read_json(path) == value
    assert path.read_bytes().endswith(b"\n")


@pytest.mark.parametrize("value", [float("nan"), {"a": float("inf")}, {1, 2}, "\ud800"])
def test_what_is_not_json_is_refused_and_nothing_is_written(tmp_path: Path, value: object) -> None:
    with pytest.raises(DataError, match="cannot be written as JSON"):
        atomic_write_json(tmp_path / "value.json", value)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_json_file_is_reported_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "value.json"
    path.write_text('{\n  "a": 1,\n}')
    with pytest.raises(DataError) as caught:
        read_json(path)
    assert caught.value.where == f"{path}:3"
    path.write_bytes(b'"\xff"')
    with pytest.raises(DataError, match="not JSON"):
        read_json(path)
    with pytest.raises(NotFoundError, match="no such file"):
        read_json(tmp_path / "absent.json")


@given(st.dictionaries(st.text(), st.integers(), min_size=2))
def test_the_hash_of_a_value_does_not_depend_on_key_order(value: dict[str, int]) -> None:
    reordered = dict(reversed(value.items()))
    assert sha256_json(value) == sha256_json(reordered)
    assert json.loads(canonical_json(value)) == value


def test_hashes_are_sha256(tmp_path: Path) -> None:
    atomic_write_bytes(tmp_path / "file", b"abc")
    assert sha256_file(tmp_path / "file") == hashlib.sha256(b"abc").hexdigest()
    assert sha256_json({"b": 1, "a": "é"}) == hashlib.sha256(b'{"a":"\\u00e9","b":1}').hexdigest()
    with pytest.raises(DataError, match="cannot be written as JSON"):
        sha256_json(float("nan"))
