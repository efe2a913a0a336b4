"""Training rows for a WildGuard: three answers in one, each line in the loss only where its label is known.

The paper trains on items with all three labels (arXiv 2406.18495, section 3). Here any set of examples will do:

- examples of one conversation (same source, same turns up to the request) are merged: a reply's row takes the harm of
  the request from the request's own example, which then gives no row of its own;
- a request without a reply answers ``n/a`` on the lines about replies, and these are in the loss;
- lines after the last known one are left out, and the end of the answer with them;
- an unknown line before a known one has to be written, since the known one comes after it. It says yes or no by a coin
  that the text alone decides, so that nothing can be learned from it and later lines follow both;
- a task that is not selected counts as unknown.

The newline after a known line is in the loss with it, unless the answer stops there.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Final

from corral.core.errors import ConfigError, DataError, suggest
from corral.data.examples import ModerationExample
from corral.data.messages import Message
from corral.guards.prompted.exchanges import Exchange, exchange_of
from corral.guards.prompted.framing import FrameName, framed
from corral.guards.wildguard.answers import FIELDS, NOT_APPLICABLE, FieldName, Label, format_line, label
from corral.guards.wildguard.prompts import render
from corral.train.guard.prompted_rows import FormattedRows, PromptedRow

_POLICY: Final = "wildguard"
_RequestKey = tuple[str, tuple[Message, ...]]


@dataclass(frozen=True, slots=True)
class _Item:
    """An exchange with the label of each line; ``None`` is unknown."""

    exchange: Exchange
    labels: tuple[Label | None, ...]


def wildguard_rows(
    rows: Sequence[ModerationExample], *, tasks: Collection[FieldName] = FIELDS, frame: FrameName = "chat"
) -> FormattedRows:
    """Training rows for one or several of the three tasks; the same arguments give the same rows.

    Args:
        rows: labelled examples of requests and replies.
        tasks: which lines are learned; one alone is a single-task guard.
        frame: chat format around prompts; ``chat`` leaves it to the tokenizer's template.

    Returns:
        The rows, in the order of ``rows``, with a report: examples read, merged, left out by reason, and for each line
        how often it is yes, no, n/a and unknown.

    Raises:
        ConfigError: no task, or one that there is not.
    """
    _check_tasks(tasks)
    harm = _request_harm(rows)
    replied = {_request_key(row) for row in rows if row.target == "response" and row.text.strip()}
    skipped: Counter[str] = Counter()
    merged = 0
    written: list[PromptedRow] = []
    counts: dict[str, Counter[str]] = {task: Counter() for task in FIELDS}
    for row in rows:
        key = _request_key(row)
        if row.target == "prompt" and key in replied:
            merged += 1
            continue
        item = _item(row, harm.get(key), tasks, skipped)
        if item is None:
            continue
        written.append(_row(item, frame))
        for task, known in zip(FIELDS, item.labels, strict=True):
            counts[task][known or "unknown"] += 1
    report: dict[str, Any] = {"read": len(rows), "merged": merged, "left_out": dict(skipped), "written": len(written)}
    return FormattedRows(written, report | {"lines": {task: dict(count) for task, count in counts.items()}})


def _check_tasks(tasks: Collection[str]) -> None:
    if unknown := [task for task in tasks if task not in FIELDS]:
        raise ConfigError(f"there is no task `{unknown[0]}`", where="tasks", hint=suggest(unknown[0], FIELDS))
    if not tasks:
        raise ConfigError("there is no task to train", where="tasks", hint=f"Give some of {', '.join(FIELDS)}.")


def _request_key(row: ModerationExample) -> _RequestKey:
    """Source and turns up to the request that the row is about."""
    index = row.conversation.judged_index("prompt")
    return row.source, row.conversation.messages[: 0 if index is None else index + 1]


def _request_harm(rows: Sequence[ModerationExample]) -> dict[_RequestKey, bool | None]:
    """Harm of each request that has an example of its own; ``None`` where such examples disagree."""
    said: dict[_RequestKey, set[bool]] = {}
    for row in rows:
        if row.target == "prompt" and row.harmful is not None:
            said.setdefault(_request_key(row), set()).add(row.harmful)
    return {key: next(iter(labels)) if len(labels) == 1 else None for key, labels in said.items()}


def _item(
    row: ModerationExample, request_harm: bool | None, tasks: Collection[str], skipped: Counter[str]
) -> _Item | None:
    """The row as an exchange with labels; ``None``, counted by its reason, for one that is left out."""
    try:
        exchange = exchange_of(row.conversation, reply=row.target == "response")
    except DataError:
        skipped["turns that the prompt cannot show"] += 1
        return None
    if row.target == "response" and exchange.response is None:
        skipped["no reply to judge"] += 1
        return None
    about_reply: tuple[Label | None, ...] = (NOT_APPLICABLE, NOT_APPLICABLE)
    if row.target == "response":
        about_reply = (_known(row.refusal), _known(row.harmful))
    labels = (_known(request_harm), *about_reply)
    taught = tuple(known if task in tasks else None for task, known in zip(FIELDS, labels, strict=True))
    if not any(taught):
        skipped["no label of a chosen task"] += 1
        return None
    return _Item(exchange, taught)


def _known(value: bool | None) -> Label | None:
    return None if value is None else label(value)


def _row(item: _Item, frame: FrameName) -> PromptedRow:
    text = render(item.exchange)
    last = max(index for index, known in enumerate(item.labels) if known)
    complete = last == len(FIELDS) - 1
    answer = ""
    scored: list[tuple[int, int]] = []
    for index, known in enumerate(item.labels[: last + 1]):
        start = len(answer)
        answer += format_line(index, _value(known, text, index))
        if index < last:
            answer += "\n"
        if known:
            scored.append((start, len(answer)))
    # Without the newline the last span would reach the end, which the answer does not.
    return PromptedRow(framed(text, frame), answer if complete else f"{answer}\n", tuple(scored), _POLICY)


def _value(known: Label | None, text: str, index: int) -> bool | None:
    """What a line says: its label, or the coin for an unknown one."""
    if known is None:
        return bool(hashlib.sha256(f"{index}/{text}".encode(errors="surrogatepass")).digest()[0] % 2)
    return None if known == NOT_APPLICABLE else known == "yes"
