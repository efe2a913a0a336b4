"""Training rows from a user's file, under TRL's column names.

A row with ``chosen`` and ``rejected`` is a preference example, one with ``completion`` a prompt and its completion; the
prompt is in ``prompt``, as text or as messages in OpenAI's shapes. A row with ``messages`` alone is a prompt and its
completion too, when its last message is the assistant's. ``complete``, or ``chosen_complete`` and
``rejected_complete``, are false of an answer that was cut off, whose end is no end of a turn. ``kind``, where a row has
it, says ``preference`` (or ``triple``) or ``completion`` (or ``help``), and must fit the columns. Others are left
alone.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Literal

from corral.core.errors import DataError, suggest
from corral.data.examples import PreferenceExample, PromptCompletionExample
from corral.data.messages import Conversation
from corral.data.readers import Item, OnReject, RejectedRow, Row, as_json, read_items

Form = Literal["completion", "preference"]
TrainingExample = PreferenceExample | PromptCompletionExample

_KINDS: Final[Mapping[str, Form]] = {
    "completion": "completion",
    "help": "completion",
    "preference": "preference",
    "triple": "preference",
}


def read_training_rows(
    path: Path | str,
    forms: Collection[Form],
    *,
    on_reject: OnReject | None = None,
) -> Iterator[tuple[str, TrainingExample]]:
    """The examples of a file, each with where it is (``path:line``).

    Args:
        path: JSON Lines, JSON, CSV or Parquet.
        forms: which forms of rows may stand in it.
        on_reject: is told of each row that cannot be read; without it, the first one raises.

    Raises:
        NotFoundError: no such file.
        DataError: a file that cannot be read, or, without ``on_reject``, a malformed row; names path, line and column.
    """
    for item in read_items(path):
        found = _item(item, forms)
        if not isinstance(found, RejectedRow):
            yield found
        elif on_reject is not None:
            on_reject(found)
        else:
            hint = "Mend the row, or set such rows aside with `--keep-going`."
            raise DataError(found.reason, where=found.where, hint=hint)


def _item(item: Item, forms: Collection[Form]) -> tuple[str, TrainingExample] | RejectedRow:
    if isinstance(item, RejectedRow):
        return item
    try:
        return item.where, training_example(item, forms)
    except DataError as error:
        reason = f"{error.where}: {error.message}" if error.where else error.message
        return RejectedRow(item.path, item.line, reason, as_json(item.value))


def training_example(row: Row, forms: Collection[Form]) -> TrainingExample:
    """The example that a row holds.

    Raises:
        DataError: a missing column, a value of the wrong type, an unknown kind, or a form that is not asked for;
            ``where`` names the column.
    """
    form = _form(row.value)
    if form not in forms:
        raise DataError(f"the row is a {form} row; {' and '.join(sorted(forms))} rows are trained on here")
    if form == "preference":
        return PreferenceExample(
            _prompt(row.value),
            chosen=_answer(row.value, "chosen"),
            rejected=_answer(row.value, "rejected"),
            chosen_complete=_flag(row.value, "chosen_complete"),
            rejected_complete=_flag(row.value, "rejected_complete"),
        )
    if row.value.get("prompt") is None:
        return _dialogue(row.value)
    return PromptCompletionExample(
        _prompt(row.value), _answer(row.value, "completion"), complete=_flag(row.value, "complete")
    )


def _form(value: Mapping[str, Any]) -> Form:
    named = value.get("kind")
    if named is not None:
        if not isinstance(named, str):
            raise DataError(f"expected text, not {type(named).__name__}", where="kind")
        if named not in _KINDS:
            raise DataError(f"unknown kind `{named}`", where="kind", hint=suggest(named, _KINDS))
        return _KINDS[named]
    if any(value.get(column) is not None for column in ("chosen", "rejected")):
        return "preference"
    if any(value.get(column) is not None for column in ("completion", "messages")):
        return "completion"
    columns = ", ".join(f"`{column}`" for column in value)
    raise DataError(f"neither `completion`, `messages`, nor `chosen` and `rejected` is filled; the row has {columns}")


def _prompt(value: Mapping[str, Any]) -> Conversation:
    prompt = value.get("prompt")
    if prompt is None:
        raise DataError("the row has none", where="prompt")
    if isinstance(prompt, str):
        if not prompt.strip():
            raise DataError("is empty", where="prompt")
        return Conversation.user(prompt)
    return Conversation.from_openai(prompt, where="prompt")


def _answer(value: Mapping[str, Any], column: str) -> str:
    """An answer as text, or as TRL's list of one assistant message."""
    answer = value.get(column)
    if answer is None:
        raise DataError("the row has none", where=column)
    if isinstance(answer, str):
        return answer
    messages = Conversation.from_openai(answer, where=column).messages
    if len(messages) != 1 or messages[0].role != "assistant":
        raise DataError("expected text or one message of the assistant", where=column)
    return messages[0].text


def _flag(value: Mapping[str, Any], column: str) -> bool:
    """Whether an answer came to its end; true where the row does not say."""
    flag = value.get(column)
    if isinstance(flag, str):  # of CSV
        flag = {"true": True, "false": False, "": None}.get(flag.casefold(), flag)
    if not isinstance(flag, bool | None):
        raise DataError("expected true or false", where=column)
    return flag is not False


def _dialogue(value: Mapping[str, Any]) -> PromptCompletionExample:
    messages = Conversation.from_openai(value.get("messages"), where="messages").messages
    if len(messages) < 2 or messages[-1].role != "assistant":
        raise DataError("does not end with an answer of the assistant to something", where="messages")
    return PromptCompletionExample(Conversation(messages[:-1]), messages[-1].text, complete=_flag(value, "complete"))
