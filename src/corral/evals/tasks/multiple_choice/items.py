"""What a multiple-choice item is: for each choice a context and the continuation that a model scores after it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from corral.core.errors import DataError
from corral.core.files import sha256_json

_FEWEST_CHOICES: Final = 2


@dataclass(frozen=True, slots=True)
class ChoiceItem:
    """One question.

    Attributes:
        id: unique within its set.
        requests: for each choice, (context, continuation); the continuation begins with its blank.
        choices: the text of each choice, whose length ``acc_norm`` divides by.
        answer: index of the right one.
        topic: kind of question within the set.

    Raises:
        DataError: fewer than two choices, an empty one, or an answer that is none of them.
    """

    id: str
    requests: tuple[tuple[str, str], ...]
    choices: tuple[str, ...]
    answer: int
    topic: str = ""

    def __post_init__(self) -> None:
        if not _FEWEST_CHOICES <= len(self.choices) == len(self.requests):
            raise DataError(f"expected at least two choices, got {len(self.choices)}", where=self.id)
        if not all(choice.strip() for choice in self.choices):
            raise DataError("a choice is empty", where=self.id)
        if not 0 <= self.answer < len(self.choices):
            raise DataError(f"the answer is choice {self.answer} of {len(self.choices)}", where=self.id)

    @classmethod
    def question(cls, id: str, context: str, choices: Sequence[str], answer: int, *, topic: str = "") -> ChoiceItem:
        """One context and several continuations, each after a blank."""
        return cls(id, tuple((context, f" {choice}") for choice in choices), tuple(choices), answer, topic)

    @classmethod
    def partial(cls, id: str, beginnings: Sequence[str], ending: str, answer: int, *, topic: str = "") -> ChoiceItem:
        """Several contexts and the one ending that is scored after each: partial evaluation, as for WinoGrande.

        Source: Trinh and Le, A Simple Method for Commonsense Reasoning, arXiv 1806.02847, section 3.
        """
        return cls(id, tuple((beginning, f" {ending}") for beginning in beginnings), tuple(beginnings), answer, topic)


@dataclass(frozen=True, slots=True)
class ChoiceSet:
    """Items that one accuracy is taken over.

    Attributes:
        name: of the set; the group of its samples.
        items: with different ids.
        normalised: the accuracy that counts for the set is the one by length; else the plain one.
        by_length: accuracy by length means something here: the choices are the continuations.
        caveat: what a reader must know; "" for nothing.

    Raises:
        DataError: no items, or an id that occurs twice.
    """

    name: str
    items: tuple[ChoiceItem, ...]
    normalised: bool = False
    by_length: bool = True
    caveat: str = ""

    def __post_init__(self) -> None:
        ids = [item.id for item in self.items]
        if not ids:
            raise DataError("there are no items", where=self.name)
        if len(set(ids)) < len(ids):
            twice = next(each for each in ids if ids.count(each) > 1)
            raise DataError(f"item `{twice}` occurs twice", where=self.name)

    @property
    def chance(self) -> float:
        """Expected accuracy of guessing."""
        return sum(1 / len(item.choices) for item in self.items) / len(self.items)

    @property
    def content_hash(self) -> str:
        """Hash of what is scored and how."""
        items = [[item.id, item.requests, item.choices, item.answer] for item in self.items]
        return sha256_json({"items": items, "normalised": self.normalised, "by_length": self.by_length})
