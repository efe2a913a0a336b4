"""What text a model is measured on: sets of documents, and how each set is cut.

``documents`` scores each document by itself, after the model's beginning-of-sequence token, so that every token counts
and models with different vocabularies read the same samples. ``windows`` is the protocol of published quantization
tables: all documents as one text, in windows that do not overlap.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Final, Literal

from corral.core.errors import DataError
from corral.core.files import sha256_json
from corral.data.corpora import read_corpus
from corral.data.running_text import read_texts

Cut = Literal["documents", "windows"]

PACKAGED: Final = ("prose", "instructions", "code", "languages")
"""Kinds of packaged text, written for this project."""

_BETWEEN: Final = "\n\n"


@dataclass(frozen=True, slots=True)
class Document:
    """A text and its id, unique within its set."""

    id: str
    text: str


@dataclass(frozen=True, slots=True)
class TextSet:
    """Documents that one perplexity is taken over.

    Attributes:
        name: of the set; the group of its samples.
        documents: none blank.
        cut: see the module.

    Raises:
        DataError: no document at all, a blank one, or two with one id.
    """

    name: str
    documents: tuple[Document, ...]
    cut: Cut = "windows"

    def __post_init__(self) -> None:
        if not self.documents:
            raise DataError("there is no text", where=self.name)
        seen = set()
        for document in self.documents:
            if not document.text.strip():
                raise DataError("the text is blank", where=f"{self.name}/{document.id}")
            if document.id in seen:
                raise DataError("the id occurs twice", where=f"{self.name}/{document.id}")
            seen.add(document.id)

    @property
    def whole(self) -> str:
        """All documents as one text, an empty line between each two, as the published loaders join WikiText-2."""
        return _BETWEEN.join(document.text for document in self.documents)

    @property
    def content_hash(self) -> str:
        """Hash of texts and cut."""
        return sha256_json({"cut": self.cut, "texts": [document.text for document in self.documents]})


def packaged_texts() -> tuple[TextSet, ...]:
    """The packaged sample, one set a kind, cut by document. Self-written; licence Apache-2.0."""
    return tuple(TextSet(name, tuple(_packaged(name)), cut="documents") for name in PACKAGED)


def corpus_text(name: str, root: Path | None = None) -> TextSet:
    """A corpus of the data folder, cut into windows; see ``data.corpora`` for errors."""
    return TextSet(name, _numbered(document.text for document in read_corpus(name, root)))


def user_text(path: Path, *, column: str = "text", cut: Cut = "windows") -> TextSet:
    """A user's text: a ``.txt`` or ``.md`` file as one document, or one document a row of any readable table.

    Args:
        path: the file; its stem names the set.
        column: of a table, which holds the text.
        cut: see the module.

    Raises:
        NotFoundError: there is no such file.
        DataError: it cannot be read, a row has no such column, or there is no text.
    """
    return TextSet(path.stem.split(".")[0], _numbered(read_texts(path, column=column)), cut=cut)


def _packaged(name: str) -> Iterator[Document]:
    file = resources.files("corral.evals.tasks.local") / "texts" / f"{name}.jsonl"
    for line in file.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        yield Document(row["id"], row["text"])


def _numbered(texts: Iterable[str]) -> tuple[Document, ...]:
    """Documents without the blank ones, numbered as they stand."""
    return tuple(Document(str(number), text) for number, text in enumerate(texts) if text.strip())
