"""What generation steps pass on: rows with a history, the tasks that will become rows, and what came of each task.

A row is a JSON object with a text ``id``, unique in its file, and ``provenance``: one record a step it went through.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from corral.core.errors import DataError
from corral.models.engines.base import Prompt

Row = Mapping[str, Any]

_SEED_BYTES: Final = 6  # servers take seeds below 2 ** 63, JSON readers keep integers below 2 ** 53


class Unusable(Exception):  # noqa: N818  not an error: the usual end of part of the answers
    """Why an answer gives no row; raised by the function that reads it.

    Attributes:
        code: one word, counted in the report: ``unparseable``, ``cut_off``, ``refused``, ``filtered`` and so on.
        detail: what exactly; "" when the code says it all.
        retry: another sample may do better.
    """

    def __init__(self, code: str, detail: str = "", *, retry: bool = True) -> None:
        super().__init__(code, detail)
        self.code = code
        self.detail = detail
        self.retry = retry

    @property
    def reason(self) -> str:
        """``code: detail``, as reject files have it."""
        return f"{self.code}: {self.detail}" if self.detail else self.code


@dataclass(frozen=True, slots=True)
class Task:
    """One row to be made from a row.

    Attributes:
        id: of the row to be made.
        row: the row it is made from; its fields are carried over.
        template: which wording, kind or rule is used; for the history.
        prompt: what an engine is asked; "" for steps without one.
        fields: what the new row holds besides the answer.
        use: what the new row may be used for, when that is restricted; for the history.
    """

    id: str
    row: Row
    template: str = ""
    prompt: Prompt = ""
    fields: Mapping[str, Any] = field(default_factory=dict)
    use: str = ""


@dataclass(frozen=True, slots=True)
class Origin:
    """How an answer came about.

    Attributes:
        engine: name of the engine, "" when none was asked.
        seed: of the call that gave the answer.
        place: the prompt's index in that call; seed and place together fix what is sampled.
        attempts: calls it took.
        tokens: read and written, over all attempts.
        finish: why the last answer ended, "" when no engine was asked.
    """

    engine: str = ""
    seed: int = 0
    place: int = 0
    attempts: int = 0
    tokens: int = 0
    finish: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a task: the fields of a new row, or why there is none.

    Attributes:
        result: the new row's own fields, or the reason.
        origin: how the answer came about.
        answer: the last answer in full, kept with a reject.
    """

    result: Mapping[str, Any] | Unusable
    origin: Origin = Origin()
    answer: str = ""


def made_row(step: str, task: Task, fields: Mapping[str, Any], origin: Origin) -> dict[str, Any]:
    """The new row: the old row's fields, the task's, the answer's, and a history that is one record longer."""
    record = {"step": step, "template": task.template, "parent": task.row["id"], **asdict(origin)}
    if task.use:
        record["use"] = task.use
    history = [*task.row.get("provenance", ()), record]
    return {**task.row, **task.fields, **fields, "id": task.id, "provenance": history}


def row_text(row: Row, name: str) -> str:
    """A field that must be text.

    Raises:
        DataError: it is missing, empty or something else; names the row.
    """
    value = row.get(name)
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"has no text under `{name}`", where=f"row `{row.get('id')}`")
    return value


def derived_seed(*parts: object) -> int:
    """A seed that depends on all of the parts, whose texts must not hold ``/`` between them."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:_SEED_BYTES])
