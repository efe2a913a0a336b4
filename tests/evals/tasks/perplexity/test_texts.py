"""Text comes from the package, the data folder or a user's file, whole and in order."""

from __future__ import annotations

import pytest

from corral.core.errors import DataError, NotFoundError
from corral.evals.tasks.perplexity.texts import PACKAGED, Document, TextSet, packaged_texts, user_text


def test_the_packaged_sample_has_every_kind_and_documents_enough_for_an_interval():
    sets = packaged_texts()
    assert tuple(texts.name for texts in sets) == PACKAGED
    for texts in sets:
        assert len(texts.documents) >= 10
        assert texts.cut == "documents"


def test_a_text_file_is_one_document_and_a_table_one_a_row(tmp_path):
    (tmp_path / "own.txt").write_text("one\n\ntwo\n", encoding="utf-8")
    (tmp_path / "rows.jsonl").write_text('{"body": "a"}\n{"body": " "}\n{"body": "b"}\n', encoding="utf-8")
    assert user_text(tmp_path / "own.txt") == TextSet("own", (Document("0", "one\n\ntwo\n"),))
    rows = user_text(tmp_path / "rows.jsonl", column="body", cut="documents")
    assert [(each.id, each.text) for each in rows.documents] == [("0", "a"), ("2", "b")]
    assert rows.whole == "a\n\nb"


def test_what_cannot_be_read_is_named(tmp_path):
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    (tmp_path / "empty.md").write_text(" \n", encoding="utf-8")
    (tmp_path / "rows.jsonl").write_text('{"text": 3}\n', encoding="utf-8")
    with pytest.raises(NotFoundError, match="no such file"):
        user_text(tmp_path / "missing.txt")
    with pytest.raises(DataError, match="not UTF-8"):
        user_text(tmp_path / "latin.txt")
    with pytest.raises(DataError, match="no text"):
        user_text(tmp_path / "empty.md")
    with pytest.raises(DataError, match=r"rows\.jsonl:1"):
        user_text(tmp_path / "rows.jsonl")


def test_the_content_hash_follows_texts_and_cut():
    one = TextSet("a", (Document("0", "text"),))
    assert one.content_hash == TextSet("b", (Document("x", "text"),)).content_hash
    assert one.content_hash != TextSet("a", (Document("0", "text"),), cut="documents").content_hash
    assert one.content_hash != TextSet("a", (Document("0", "texts"),)).content_hash


def test_blank_documents_and_repeated_ids_are_refused():
    with pytest.raises(DataError, match="blank"):
        TextSet("a", (Document("0", " "),))
    with pytest.raises(DataError, match="twice"):
        TextSet("a", (Document("0", "x"), Document("0", "y")))
