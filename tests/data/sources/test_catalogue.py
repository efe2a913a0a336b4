from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from corral.data.sources import SOURCES
from corral.data.sources.catalogue import READERS
from corral.data.sources.record import packaged_metadata
from corral.data.sources.rows import BENIGN_CATEGORIES, LLAMA_GUARD_3
from corral.data.taxonomy import load_taxonomy, qualified

# Running text, dictionaries, code and word lists: no labelled prompt or response in them.
NOT_MODERATION = ("corpus_", "dict_freedict", "wikitext2", "quixbugs", "mined_", "wordlist_")


def test_every_recorded_source_has_a_reader_and_the_reverse() -> None:
    assert {entry["name"] for entry in packaged_metadata()} == set(READERS) == set(SOURCES.names())


@pytest.mark.parametrize("name", SOURCES.names())
def test_record_is_complete(name: str) -> None:
    source = SOURCES.get(name)
    stems = {Path(path).name.split(".", 1)[0] for path in source.files}
    assert len(stems) == len(source.files)
    assert set(READERS[name].mappers) <= stems
    assert all(len(digest) == 64 for digest in source.files.values())
    assert source.note
    assert source.licence
    assert source.upstream
    assert source.languages


def test_benign_rows_deny_exactly_the_categories_of_the_taxonomy() -> None:
    codes = {qualified(LLAMA_GUARD_3, code) for code in load_taxonomy(LLAMA_GUARD_3).codes}
    assert set(BENIGN_CATEGORIES) == codes


def test_only_sources_whose_weights_may_ship_are_trainable() -> None:
    assert SOURCES.get("davidson").trainable
    assert not SOURCES.get("openai_moderation").trainable
    assert not SOURCES.get("openai_moderation_de").trainable


def test_metadata_equals_the_index(index: list[dict[str, Any]]) -> None:
    moderation = {entry["name"]: entry for entry in index if not entry["name"].startswith(NOT_MODERATION)}
    digests = {file["path"]: file["sha256"] for entry in index for file in entry["files"]}
    assert {SOURCES.get(name).folder for name in SOURCES} == set(moderation)
    for name in SOURCES:
        source = SOURCES.get(name)
        entry = moderation[source.folder]
        assert source.use == entry["use"]
        assert source.upstream == entry["upstream"]
        assert source.licence == entry["licence"] or source.folder == "translated_benchmarks"
        assert dict(source.files) == {path: digests[path] for path in source.files}
    read = {path for name in SOURCES for path in SOURCES.get(name).files}
    assert read == {file["path"] for entry in moderation.values() for file in entry["files"]}
