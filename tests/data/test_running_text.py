"""Running text from files."""

from __future__ import annotations

import pytest

from corral.core.errors import DataError, NotFoundError
from corral.data.running_text import read_texts


def test_a_text_file_is_one_document_and_a_row_of_a_table_is_one(tmp_path):
    (tmp_path / "whole.md").write_text("one\n\ntwo")
    (tmp_path / "rows.jsonl").write_text('{"body": "one"}\n{"body": "two"}\n')
    assert list(read_texts(tmp_path / "whole.md")) == ["one\n\ntwo"]
    assert list(read_texts(tmp_path / "rows.jsonl", column="body")) == ["one", "two"]


def test_missing_files_columns_and_other_encodings_are_named(tmp_path):
    with pytest.raises(NotFoundError, match=r"gone\.txt"):
        list(read_texts(tmp_path / "gone.txt"))
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    with pytest.raises(DataError, match="not UTF-8"):
        list(read_texts(tmp_path / "latin.txt"))
    (tmp_path / "rows.jsonl").write_text('{"body": "one"}\n')
    with pytest.raises(DataError, match=r"rows\.jsonl:1.*expected text in `text`"):
        list(read_texts(tmp_path / "rows.jsonl"))
