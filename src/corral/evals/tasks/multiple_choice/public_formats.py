"""Readers of public multiple-choice sets, from the files as they are published.

Prompts are those of EleutherAI's lm-evaluation-harness (arc_easy and arc_challenge 1.0, piqa 1.0, hellaswag 1.0,
winogrande 1.0, mmlu 1.0), zero-shot. Files are JSONL, Parquet, or CSV where a set is published so. Nothing is fetched.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from corral.core.errors import DataError, NotFoundError, suggest
from corral.data.readers import Row, read_rows
from corral.evals.tasks.multiple_choice.items import ChoiceItem, ChoiceSet

_LETTERS: Final = "ABCD"
_MMLU_FIELDS: Final = 6
_SPLIT: Final = re.compile(r"_(test|dev|val)$")
_BRACKETED: Final = re.compile(r"\[.*?\]")


@dataclass(frozen=True, slots=True)
class PublicFormat:
    """How a public set is read.

    Attributes:
        read: items of one file; the second path holds labels, where a set keeps them apart.
        normalised: the set is usually reported by ``acc_norm``.
        by_length: ``acc_norm`` is defined.
        source: the paper.
    """

    read: Callable[[Path, Path | None], Iterator[ChoiceItem]]
    normalised: bool
    by_length: bool
    source: str


def public_set(format: str, path: Path, *, labels: Path | None = None, name: str = "") -> ChoiceSet:
    """Read a public set from a user's file.

    Args:
        format: one of ``PUBLIC_FORMATS``.
        path: the file; for MMLU also a folder of ``SUBJECT_test.csv`` files.
        labels: PIQA's file of labels, one a line, where the rows have none.
        name: of the set; the format's own by default.

    Raises:
        NotFoundError: unknown format, or there is no such file.
        DataError: a row that is not of the format; gives path and line.
    """
    if format not in PUBLIC_FORMATS:
        raise NotFoundError(f"no multiple-choice format is named `{format}`", hint=suggest(format, PUBLIC_FORMATS))
    if not path.exists():
        raise NotFoundError("there is no such file", where=str(path))
    if labels is not None and format != "piqa":
        raise DataError(f"`{format}` has its labels in its rows", where=str(labels), hint="Leave the labels out.")
    known = PUBLIC_FORMATS[format]
    items = tuple(known.read(path, labels))
    return ChoiceSet(name or format, items, normalised=known.normalised, by_length=known.by_length)


def _arc(path: Path, _labels: Path | None) -> Iterator[ChoiceItem]:
    """AI2's JSONL (``question.stem``, ``question.choices`` a list) and the table form (``choices.text``)."""
    for row, get in _rows(path):
        question, choices = get("question"), row.value.get("choices")
        if isinstance(question, Mapping):
            stem, entries = question["stem"], question["choices"]
            texts, marks = [entry["text"] for entry in entries], [entry["label"] for entry in entries]
        elif isinstance(choices, Mapping):
            stem, texts, marks = question, list(choices["text"]), list(choices["label"])
        else:
            raise DataError("expected choices with `text` and `label`", where=row.where)
        answer = _index(marks, get("answerKey"), row)
        with _located(row):
            item = ChoiceItem.question(str(get("id")), _question(stem), texts, answer)
        yield item


def _piqa(path: Path, labels: Path | None) -> Iterator[ChoiceItem]:
    """``goal``, ``sol1``, ``sol2``; ``label`` in the row or in a file of its own, a line a row."""
    apart = None if labels is None else labels.read_text(encoding="utf-8").split()
    for number, (row, get) in enumerate(_rows(path)):
        if apart is not None and number >= len(apart):
            raise DataError(f"{len(apart)} labels for more rows", where=str(labels))
        answer = _index([0, 1], _integer(get("label") if apart is None else apart[number], row), row)
        context, choices = _question(get("goal")), [get("sol1"), get("sol2")]
        with _located(row):
            item = ChoiceItem.question(str(number), context, choices, answer)
        yield item
    if apart is not None and len(apart) != number + 1:
        raise DataError(f"{len(apart)} labels for {number + 1} rows", where=str(labels))


def _hellaswag(path: Path, _labels: Path | None) -> Iterator[ChoiceItem]:
    """``activity_label``, ``ctx_a``, ``ctx_b``, ``endings``, ``label``; preprocessed as in the harness."""
    for number, (row, get) in enumerate(_rows(path)):
        context = hellaswag_text(f"{get('activity_label')}: {get('ctx_a')} {get('ctx_b').capitalize()}")
        endings = [hellaswag_text(ending) for ending in get("endings")]
        answer = _index(range(len(endings)), _integer(get("label"), row), row)
        with _located(row):
            item = ChoiceItem.question(str(row.value.get("ind", number)), context, endings, answer)
        yield item


def hellaswag_text(text: str) -> str:
    """WikiHow's markup taken out: ``[title]`` becomes a full stop, other brackets and double blanks go."""
    return _BRACKETED.sub("", text.strip().replace(" [title]", ". ")).replace("  ", " ")


def _winogrande(path: Path, _labels: Path | None) -> Iterator[ChoiceItem]:
    """``sentence`` with a blank ``_``, ``option1``, ``option2``, ``answer`` "1" or "2"; partial evaluation."""
    for number, (row, get) in enumerate(_rows(path)):
        before, blank, after = get("sentence").partition("_")
        if not blank or not after.strip():
            raise DataError("expected a blank `_` with text after it in `sentence`", where=row.where)
        answer = _index(["1", "2"], str(get("answer")), row)
        beginnings = [before + get("option1"), before + get("option2")]
        key = str(row.value.get("qID", number))
        with _located(row):
            item = ChoiceItem.partial(key, beginnings, after.strip(), answer)
        yield item


def _mmlu(path: Path, _labels: Path | None) -> Iterator[ChoiceItem]:
    """CSV without a header (question, four choices, letter), a file a subject; or a table with a ``subject`` column."""
    for file in sorted(path.glob("*_test.csv")) if path.is_dir() else [path]:
        yield from _mmlu_csv(file) if file.suffix.lower() == ".csv" else _mmlu_table(file)


def _mmlu_csv(path: Path) -> Iterator[ChoiceItem]:
    subject = _SPLIT.sub("", path.stem)
    with path.open(encoding="utf-8", newline="") as file:
        for number, fields in enumerate(csv.reader(file)):
            where = f"{path}:{number + 1}"
            if len(fields) != _MMLU_FIELDS or fields[-1] not in _LETTERS:
                raise DataError(
                    f"expected a question, four choices and a letter, got {len(fields)} fields", where=where
                )
            yield _mmlu_item(f"{subject}/{number}", subject, fields[0], fields[1:5], _LETTERS.index(fields[-1]))


def _mmlu_table(path: Path) -> Iterator[ChoiceItem]:
    for number, (row, get) in enumerate(_rows(path)):
        choices = list(get("choices"))
        if len(choices) != len(_LETTERS):
            raise DataError(f"expected four choices, got {len(choices)}", where=row.where)
        given = get("answer")
        answer = (
            _index(_LETTERS, given, row) if given in tuple(_LETTERS) else _index(range(4), _integer(given, row), row)
        )
        yield _mmlu_item(f"{get('subject')}/{number}", get("subject"), get("question"), choices, answer)


def _mmlu_item(id: str, subject: str, question: str, choices: Sequence[str], answer: int) -> ChoiceItem:
    lines = "\n".join(f"{letter}. {choice}" for letter, choice in zip(_LETTERS, choices, strict=True))
    about = subject.replace("_", " ")
    context = (
        f"The following are multiple choice questions (with answers) about {about}.\n\n"
        f"{question.strip()}\n{lines}\nAnswer:"
    )
    return ChoiceItem.question(id, context, _LETTERS, answer, topic=subject)


PUBLIC_FORMATS: Final[Mapping[str, PublicFormat]] = {
    "arc": PublicFormat(_arc, normalised=True, by_length=True, source="arXiv 1803.05457"),
    "hellaswag": PublicFormat(_hellaswag, normalised=True, by_length=True, source="arXiv 1905.07830"),
    "mmlu": PublicFormat(_mmlu, normalised=False, by_length=False, source="arXiv 2009.03300"),
    "piqa": PublicFormat(_piqa, normalised=True, by_length=True, source="arXiv 1911.11641"),
    "winogrande": PublicFormat(_winogrande, normalised=False, by_length=False, source="arXiv 1907.10641"),
}
"""Format to its reader."""


def _rows(path: Path) -> Iterator[tuple[Row, Callable[[str], Any]]]:
    """Rows with a getter that names the column and the line when something is missing."""
    for row in read_rows(path, strict=True):

        def get(column: str, row: Row = row) -> Any:
            value = row.value.get(column)
            if value is None:
                raise DataError(f"no `{column}`", where=row.where, hint="Columns are expected as published.")
            return value

        yield row, get


def _question(text: str) -> str:
    return f"Question: {text}\nAnswer:"


def _integer(value: Any, row: Row) -> int:
    try:
        return int(value)
    except (TypeError, ValueError):
        raise DataError(f"expected a number for the label, got `{value}`", where=row.where) from None


def _index(known: Sequence[Any], value: Any, row: Row) -> int:
    if value not in known:
        raise DataError(f"the answer `{value}` is none of `{list(known)}`", where=row.where)
    return known.index(value)


@contextmanager
def _located(row: Row) -> Iterator[None]:
    """Name the row in an error about its item."""
    try:
        yield
    except DataError as error:
        error.where = row.where
        raise
