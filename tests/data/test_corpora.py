"""Corpora are found through the index of the data folder and read as documents."""

from __future__ import annotations

import hashlib
import json

import pytest
import yaml

from corral.core.errors import DataError, NotFoundError
from corral.data.corpora import corpora, read_corpus


@pytest.fixture
def folder(tmp_path):
    """An index with a corpus of two documents, lines of one text, and sets that are neither."""
    texts = {
        "corpus_own": [{"id": 0, "text": "first\n\ndocument"}, {"id": 1, "text": "second"}],
        "wikitext2_valid": [{"line": 0, "text": " = Title = "}, {"line": 1, "text": " words"}],
        "dict_own": [{"word": "a"}],
        "prompts_own": [{"text": "a prompt"}],
    }
    uses = {"corpus_own": "corpus", "wikitext2_valid": "evaluate_only", "dict_own": "corpus", "prompts_own": "train"}
    sets = []
    for name, rows in texts.items():
        data = "".join(json.dumps(row) + "\n" for row in rows).encode()
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.jsonl").write_bytes(data)
        file = {"path": f"{name}/{name}.jsonl", "sha256": hashlib.sha256(data).hexdigest(), "columns": list(rows[0])}
        about = {"name": name, "use": uses[name], "language": "en", "licence": "CC0", "upstream": f"own/{name}"}
        sets.append({**about, "files": [file]})
    (tmp_path / "index.yaml").write_text(yaml.safe_dump({"version": 1, "sets": sets}), encoding="utf-8")
    return tmp_path


def test_running_text_is_told_from_other_sets(folder):
    assert list(corpora(folder)) == ["corpus_own", "wikitext2_valid"]


def test_rows_are_documents_and_lines_are_one_text(folder):
    documents = list(read_corpus("corpus_own", folder))
    assert [document.text for document in documents] == ["first\n\ndocument", "second"]
    assert documents[0].licence == "CC0"
    (text,) = read_corpus("wikitext2_valid", folder)
    assert text.text == " = Title = \n words"


def test_a_changed_file_is_refused_before_reading(folder):
    path = folder / "corpus_own" / "corpus_own.jsonl"
    path.write_text('{"text": 3}\n', encoding="utf-8")
    with pytest.raises(DataError, match="sha256"):
        read_corpus("corpus_own", folder)
    with pytest.raises(DataError, match="expected text"):
        list(read_corpus("corpus_own", folder, verify=False))
    path.unlink()
    with pytest.raises(NotFoundError, match="own/corpus_own"):
        read_corpus("corpus_own", folder)


def test_unknown_names_and_a_folder_without_an_index_are_named(folder, tmp_path):
    with pytest.raises(NotFoundError, match="corpus_own"):
        read_corpus("corpus_ow", folder)
    with pytest.raises(NotFoundError, match="no index"):
        corpora(tmp_path / "elsewhere")
    (folder / "index.yaml").write_text("[1, 2]", encoding="utf-8")
    with pytest.raises(DataError, match="not an index"):
        corpora(folder)
