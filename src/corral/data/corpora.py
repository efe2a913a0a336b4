"""Running text from the data folder: the sets that its index marks as corpora, and WikiText.

The index (``index.yaml`` in the data folder) lists every set with its licence, files and sha256. A corpus has one
document a row, in a column ``text``; WikiText has one line of one file a row. Sets without that column, such as
dictionaries, are not running text.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from corral.core.errors import DataError, NotFoundError, suggest
from corral.core.files import sha256_file
from corral.data.examples import LanguageModelingExample
from corral.data.readers import read_rows
from corral.data.sources.loading import data_root

INDEX: Final = "index.yaml"
LINE_CORPORA: Final = frozenset({"wikitext2_valid"})
"""Sets whose rows are the lines of one text. Not marked as corpora, since they may only be evaluated on."""


@dataclass(frozen=True, slots=True)
class Corpus:
    """What the index says about a corpus.

    Attributes:
        name: of its set.
        language: ISO 639-1.
        licence: of the text.
        upstream: where it is public.
        files: path from the data folder to sha256.
    """

    name: str
    language: str
    licence: str
    upstream: str
    files: Mapping[str, str]


def corpora(root: Path | None = None) -> dict[str, Corpus]:
    """Name to corpus, in the order of the index.

    Args:
        root: the data folder; ``data_root()`` when not given.

    Raises:
        NotFoundError: there is no index.
        DataError: it is not one.
    """
    path = (root or data_root()) / INDEX
    if not path.is_file():
        raise NotFoundError(
            "there is no index of the data folder",
            where=str(path),
            hint="Set CORRAL_DATA to the folder that holds it, or give files of your own.",
        )
    try:
        entries = yaml.safe_load(path.read_text(encoding="utf-8"))["sets"]
        found = [_corpus(entry) for entry in entries if _is_running_text(entry)]
    except (yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"not an index of sets: {error}", where=str(path)) from error
    return {corpus.name: corpus for corpus in found}


def read_corpus(name: str, root: Path | None = None, *, verify: bool = True) -> Iterator[LanguageModelingExample]:
    """The documents of a corpus, in order.

    Args:
        name: of a set in ``corpora``.
        root: the data folder; ``data_root()`` when not given.
        verify: compare each file with the sha256 of the index before reading it.

    Raises:
        NotFoundError: unknown name, or its files are not there.
        DataError: a file differs from the index, or (while iterating) a row is malformed; gives path and line.
    """
    folder = root or data_root()
    known = corpora(folder)
    if name not in known:
        raise NotFoundError(f"no corpus is named `{name}`", hint=suggest(name, known))
    corpus = known[name]
    paths = [folder / relative for relative in corpus.files]
    for path, expected in zip(paths, corpus.files.values(), strict=True):
        if not path.is_file():
            raise NotFoundError(f"corpus `{name}` is not in the data folder", where=str(path), hint=_public(corpus))
        if verify and (found := sha256_file(path)) != expected:
            raise DataError(f"sha256 is {found}, the index says {expected}", where=str(path))
    return _documents(corpus, paths)


def _documents(corpus: Corpus, paths: list[Path]) -> Iterator[LanguageModelingExample]:
    for path in paths:
        texts = _texts(path)
        for text in ["\n".join(texts)] if corpus.name in LINE_CORPORA else texts:
            yield LanguageModelingExample(text, source=corpus.name, licence=corpus.licence)


def _texts(path: Path) -> Iterator[str]:
    for row in read_rows(path, strict=True):
        text = row.value.get("text")
        if not isinstance(text, str):
            raise DataError("expected text in `text`", where=row.where)
        yield text


def _is_running_text(entry: Mapping[str, Any]) -> bool:
    chosen = entry.get("use") == "corpus" or entry["name"] in LINE_CORPORA
    return chosen and all("text" in file["columns"] for file in entry["files"])


def _corpus(entry: Mapping[str, Any]) -> Corpus:
    return Corpus(
        name=entry["name"],
        language=entry["language"],
        licence=entry["licence"],
        upstream=entry["upstream"],
        files={file["path"]: file["sha256"] for file in entry["files"]},
    )


def _public(corpus: Corpus) -> str:
    return f"It is public: {corpus.upstream}."
