"""What a user writes names one model, or gets a clear refusal."""

from __future__ import annotations

import pytest

from corral.core.errors import NotFoundError
from corral.models.reference import ModelRef


@pytest.mark.parametrize(
    ("text", "kind", "name", "revision"),
    [
        ("embedded:smollm2-135m-instruct", "embedded", "smollm2-135m-instruct", None),
        ("owner/name", "hub", "owner/name", None),
        ("owner/name.v1@main", "hub", "owner/name.v1", "main"),
        ("gpt2", "hub", "gpt2", None),
    ],
)
def test_names_are_told_apart(text, kind, name, revision):
    ref = ModelRef.parse(text)
    assert (ref.kind, ref.name, ref.revision) == (kind, name, revision)
    assert str(ref) == text
    assert ModelRef.parse(ref) is ref


def test_existing_paths_are_folders_and_gguf_files(tmp_path, monkeypatch):
    (tmp_path / "owner" / "name").mkdir(parents=True)
    (tmp_path / "model.gguf").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    assert ModelRef.parse(tmp_path).kind == "folder"
    assert ModelRef.parse("owner/name").kind == "folder"
    assert ModelRef.parse("model.gguf").kind == "gguf"


@pytest.mark.parametrize("text", ["./nowhere", "/no/such/folder", "a/b/c", "missing.gguf", "two words", "", "../x"])
def test_paths_that_do_not_exist_are_refused_with_the_choices(text):
    with pytest.raises(NotFoundError) as caught:
        ModelRef.parse(text)
    assert "embedded:smollm2-135m-instruct" in str(caught.value)


def test_an_unknown_embedded_model_is_refused_with_the_known_ones():
    with pytest.raises(NotFoundError, match="embedded:smollm2-135m-instruct"):
        ModelRef.parse("embedded:smolm2")
