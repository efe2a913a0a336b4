from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from corral.data.examples import ModerationExample
from corral.data.sources import SOURCES, load_source

Rows = Sequence[Mapping[str, Any] | bytes]
WriteSource = Callable[[str, Mapping[str, Rows]], Path]
ReadRows = Callable[..., list[ModerationExample]]


@pytest.fixture(scope="session")
def data_folder(pytestconfig: pytest.Config) -> Path:
    """The real data sets. The suite hides CORRAL_DATA from all other tests, so this one has a variable of its own."""
    root = Path(os.environ.get("CORRAL_TEST_DATA") or pytestconfig.rootpath / ".." / "shared" / "data")
    if not (root / "index.yaml").is_file():
        pytest.skip(f"no data sets in {root}; set CORRAL_TEST_DATA to the folder that holds them")
    return root


@pytest.fixture(scope="session")
def index(data_folder: Path) -> list[dict[str, Any]]:
    """The entries of the index of the real data sets."""
    return yaml.safe_load((data_folder / "index.yaml").read_text(encoding="utf-8"))["sets"]


@pytest.fixture
def write_source(tmp_path: Path) -> WriteSource:
    """Write stand-in files for a source: rows by file name; files that are not given are empty."""

    def write(name: str, rows: Mapping[str, Rows]) -> Path:
        for relative in SOURCES.get(name).files:
            path = tmp_path / relative
            path.parent.mkdir(parents=True, exist_ok=True)
            given = rows.get(path.name.split(".", 1)[0], ())
            lines = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in given]
            data = b"".join(line + b"\n" for line in lines)
            path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
        return tmp_path

    return write


@pytest.fixture
def read(write_source: WriteSource) -> ReadRows:
    """Examples of a source whose files hold the given stand-in rows."""

    def examples(name: str, **rows: Rows) -> list[ModerationExample]:
        return list(load_source(name, write_source(name, rows), verify=False))

    return examples
