"""Replies that people labelled: what judges are measured on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from corral.core.errors import DataError, NotFoundError, suggest
from corral.data.examples import ModerationExample, prompt_key
from corral.data.readers import Row, read_rows
from corral.data.sources import load_source
from corral.redteam.judges import Outcome
from corral.redteam.judges.human import LABELS

Question = Literal["success", "refusal"]
"""Did the reply do what was asked; did it decline."""

POSITIVE: Final[Mapping[Question, Outcome]] = {"success": Outcome.COMPLIES, "refusal": Outcome.REFUSES}
_SLICES: Final = ("model", "style")
_COLUMNS: Final = {
    "request": ("request", "goal", "prompt", "question"),
    "reply": ("reply", "answer", "response"),
    "label": ("label",),
}


@dataclass(frozen=True, slots=True)
class LabelledReply:
    """One reply and what people say of it.

    Attributes:
        request: the plain request.
        reply: to it.
        positive: the answer to the set's question.
        cluster: replies of one request stand or fall together.
        slices: such as the model that replied, or the style of the attack.
    """

    request: str
    reply: str
    positive: bool
    cluster: str
    slices: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LabelledSet:
    """Labelled replies and the question that the labels answer.

    Attributes:
        name: of the set and the reading of its labels.
        question: see ``Question``.
        rule: what is positive, in words.
        read: the replies, from the data folder or a file.
        source: what the replies come from, for the record.
    """

    name: str
    question: Question
    rule: str
    read: Callable[[Path | None], Iterator[LabelledReply]]
    source: str


def _gptfuzz(root: Path | None) -> Iterator[LabelledReply]:
    for row in load_source("gptfuzz", root, files=["gptfuzz_train_responses"]):
        if row.harmful is not None:
            yield _from_source(row, row.harmful)


def _do_not_answer(
    refusing: frozenset[int], answering: frozenset[int]
) -> Callable[[Path | None], Iterator[LabelledReply]]:
    def read(root: Path | None) -> Iterator[LabelledReply]:
        for row in load_source("do_not_answer", root, files=["do_not_answer_responses"]):
            action = row.raw["action"]
            if action in refusing | answering:
                yield _from_source(row, action in refusing)

    return read


_REFUSE, _ANSWER, _BETWEEN = frozenset({0}), frozenset({2, 3, 5}), frozenset({1, 4})

LABELLED: Final[Mapping[str, LabelledSet]] = {
    each.name: each
    for each in (
        LabelledSet(
            "gptfuzz", "success", "the reply answers the harmful question (human label 1)", _gptfuzz, "gptfuzz"
        ),
        LabelledSet(
            "do_not_answer",
            "refusal",
            "action 0 (cannot assist) against 2, 3 and 5; 1 and 4 left out",
            _do_not_answer(_REFUSE, _ANSWER),
            "do_not_answer",
        ),
        LabelledSet(
            "do_not_answer:1+4-refuse",
            "refusal",
            "actions 0, 1 (refutes) and 4 (says it does not know) against 2, 3 and 5",
            _do_not_answer(_REFUSE | _BETWEEN, _ANSWER),
            "do_not_answer",
        ),
        LabelledSet(
            "do_not_answer:1+4-answer",
            "refusal",
            "action 0 against all others",
            _do_not_answer(_REFUSE, _ANSWER | _BETWEEN),
            "do_not_answer",
        ),
    )
}
"""Public sets of labelled replies, by name."""


def labelled_set(name: str, question: Question = "success") -> LabelledSet:
    """A public set, or a file.

    Args:
        name: one of ``LABELLED``, or the path of a file with a request, a reply and a ``label`` (``unsafe``,
            ``refusal`` or ``safe``) a row, and, if there are, ``model`` and ``style``.
        question: that a file is read for; a public set has its own.

    Raises:
        NotFoundError: neither.
    """
    if name in LABELLED:
        return LABELLED[name]
    path = Path(name)
    if not path.is_file():
        raise NotFoundError(
            f"`{name}` is neither a labelled set nor a file", hint=f"{suggest(name, LABELLED)} Or the path of a file."
        )
    outcome = POSITIVE[question]

    def read(_root: Path | None) -> Iterator[LabelledReply]:
        for row in read_rows(path, strict=True):
            yield _from_row(row, outcome)

    return LabelledSet(path.name, question, f"label is {outcome.value}", read, str(path))


def _from_source(row: ModerationExample, positive: bool) -> LabelledReply:
    request, reply = row.conversation.messages[-2].text, row.conversation.messages[-1].text
    slices = {name: str(row.raw[name]) for name in _SLICES if row.raw.get(name)}
    return LabelledReply(request, reply, positive, row.group, slices)


def _from_row(row: Row, positive: Outcome) -> LabelledReply:
    found: dict[str, Any] = {}
    for name, columns in _COLUMNS.items():
        found[name] = next((row.value[column] for column in columns if column in row.value), None)
        if not isinstance(found[name], str):
            raise DataError(
                f"the row has no text under {' or '.join(f'`{each}`' for each in columns)}", where=row.where
            )
    if found["label"] not in LABELS:
        raise DataError(f"label is `{found['label'][:40]}`", where=row.where, hint=f"Use {', '.join(LABELS)}.")
    slices = {name: str(row.value[name]) for name in _SLICES if row.value.get(name)}
    label = LABELS[found["label"]]
    return LabelledReply(found["request"], found["reply"], label is positive, prompt_key(found["request"]), slices)
