"""What an evaluation set is: which rows, which question, what counts as positive, and what it may be compared with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from corral.core.files import sha256_file, sha256_json
from corral.data.examples import ModerationExample
from corral.data.messages import Target
from corral.data.sources import SOURCES

Head = Literal["harm", "attack", "refusal"]
"""The question: is the judged message harmful, is the prompt an attack, does the response refuse."""

Kind = Literal["mixed", "positives", "negatives"]
"""Which truths occur. Without negatives recall is the figure, without positives the false-positive rate."""

Relation = Literal["same", "subset", "no"]
"""How a published column stands to ours: same set, split, label rule and metric; the same but for rows that our copy
lacks; or not comparable."""

Truth = Callable[[ModerationExample], bool | None]


@dataclass(frozen=True, slots=True)
class PublishedColumn:
    """A column of a published table that was measured on this set, or on one that could be taken for it.

    Attributes:
        table: ``T1`` to ``T11``.
        column: key of the table's columns.
        relation: whether its figures may stand beside ours.
        reason: what our copy lacks (``subset``) or why not (``no``); "" for ``same``.
    """

    table: str
    column: str
    relation: Relation = "same"
    reason: str = ""

    def __post_init__(self) -> None:
        if (self.relation == "same") == bool(self.reason):
            raise ValueError(f"{self.table}/{self.column}: a reason is given exactly when the relation is not `same`")


@dataclass(frozen=True, slots=True)
class EvalSet:
    """One set of the moderation task.

    Attributes:
        name: of the set.
        source: of the rows, a name in ``SOURCES``; with ``file``, one in ``PUBLIC_COLUMNS``.
        target: the message that the guard judges.
        head: the question.
        kind: which truths occur.
        rule: what is positive, in words; printed beside every figure.
        truth: the answer to the question for a row, ``None`` for rows that are left out.
        files: of the source, without folder and ending; all when empty.
        where: conditions that a row must meet, as in ``data.mixture.matches``.
        published: columns of published tables that belong to this set.
        caveat: what a reader of the figures must know, "" when nothing.
        slices: upstream columns, or ``category``, ``language`` or ``split``, by which rates are broken down.
        family: sets of one family are one set in several languages.
        pair: upstream column, or ``group``, that joins the languages of a family, "" when they are not aligned.
        headline: one of the sets that every guard is measured on first.
        file: a file of the user's that holds the rows.
        given: the rows themselves, where they are of no one source.
        style: attack style that the prompts are asked in, "" for as they are.
    """

    name: str
    source: str
    target: Target
    head: Head
    kind: Kind
    rule: str
    truth: Truth
    files: tuple[str, ...] = ()
    where: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    published: tuple[PublishedColumn, ...] = ()
    caveat: str = ""
    slices: tuple[str, ...] = ()
    family: str = ""
    pair: str = ""
    headline: bool = False
    file: Path | None = None
    given: tuple[ModerationExample, ...] | None = None
    style: str = ""

    def __post_init__(self) -> None:
        if self.head == ("attack" if self.target == "response" else "refusal"):
            raise ValueError(f"{self.name}: no guard answers `{self.head}` about a {self.target}")

    @property
    def checksums(self) -> Mapping[str, str]:
        """SHA-256 of the files that the rows are in, by name; of rows that are given, under ``rows``."""
        if self.given is not None:
            return {"rows": sha256_json([[row.id, row.text] for row in self.given])}
        if self.file is None:
            return SOURCES.get(self.source).files
        return {self.file.name: sha256_file(self.file)}


def harmful(example: ModerationExample) -> bool | None:
    """The source's own harm label."""
    return example.harmful


def attack(example: ModerationExample) -> bool | None:
    """The source's own attack label."""
    return example.attack


def refusal(example: ModerationExample) -> bool | None:
    """The source's own refusal label."""
    return example.refusal


def by_column(column: str, meanings: Mapping[Any, bool]) -> Truth:
    """The truth that the values of an upstream column mean; other values leave the row out."""

    def truth(example: ModerationExample) -> bool | None:
        return meanings.get(example.raw.get(column))

    return truth
