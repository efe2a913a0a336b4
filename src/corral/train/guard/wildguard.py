"""Training rows for a WildGuard: three answers in one, each line in the loss only where its label is known.

The paper trains on items with all three labels (arXiv 2406.18495, section 3). Here any set of examples will do:

- examples of one conversation are merged (``labelled_exchanges``);
- a request without a reply answers ``n/a`` on the lines about replies, and these are in the loss;
- lines after the last known one are left out, and the end of the answer with them;
- an unknown line before a known one has to be written, since the known one comes after it; a coin decides it;
- a task that is not selected counts as unknown.

The newline after a known line is in the loss with it, unless the answer stops there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any, Final

from corral.core.errors import ConfigError, suggest
from corral.data.examples import ModerationExample
from corral.guards.prompted.exchanges import Exchange
from corral.guards.prompted.framing import FrameName, framed
from corral.guards.wildguard.answers import FIELDS, NOT_APPLICABLE, FieldName, Label, format_line, label
from corral.guards.wildguard.prompts import render
from corral.train.guard.labelled_exchanges import LabelledExchange, coin, labelled_exchanges
from corral.train.guard.prompted_rows import FormattedRows, PromptedRow

_POLICY: Final = "wildguard"


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
    exchanges, found = labelled_exchanges(rows)
    written: list[PromptedRow] = []
    counts: dict[str, Counter[str]] = {task: Counter() for task in FIELDS}
    for each in exchanges:
        labels = _labels(each, tasks)
        if not any(labels):
            found.left_out["no label of a chosen task"] += 1
            continue
        written.append(_row(each.exchange, labels, frame))
        for task, known in zip(FIELDS, labels, strict=True):
            counts[task][known or "unknown"] += 1
    report: dict[str, Any] = {"read": len(rows), "merged": found.merged}
    report |= {"left_out": dict(found.left_out), "written": len(written)}
    return FormattedRows(written, report | {"lines": {task: dict(count) for task, count in counts.items()}})


def _check_tasks(tasks: Collection[str]) -> None:
    if unknown := [task for task in tasks if task not in FIELDS]:
        raise ConfigError(f"there is no task `{unknown[0]}`", where="tasks", hint=suggest(unknown[0], FIELDS))
    if not tasks:
        raise ConfigError("there is no task to train", where="tasks", hint=f"Give some of {', '.join(FIELDS)}.")


def _labels(each: LabelledExchange, tasks: Collection[str]) -> tuple[Label | None, ...]:
    """The label of each line; ``None`` is unknown, or of a task that is not chosen."""
    about_reply: tuple[Label | None, ...] = (NOT_APPLICABLE, NOT_APPLICABLE)
    if each.reply is not None:
        about_reply = (_known(each.reply.refusal), _known(each.reply.harmful))
    labels = (_known(each.harmful_request), *about_reply)
    return tuple(known if task in tasks else None for task, known in zip(FIELDS, labels, strict=True))


def _known(value: bool | None) -> Label | None:
    return None if value is None else label(value)


def _row(exchange: Exchange, labels: Sequence[Label | None], frame: FrameName) -> PromptedRow:
    text = render(exchange)
    last = max(index for index, known in enumerate(labels) if known)
    complete = last == len(FIELDS) - 1
    answer = ""
    scored: list[tuple[int, int]] = []
    for index, known in enumerate(labels[: last + 1]):
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
        return coin(text, index)
    return None if known == NOT_APPLICABLE else known == "yes"
