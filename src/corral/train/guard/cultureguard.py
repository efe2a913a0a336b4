"""Training rows for a CultureGuard: JSON answers, in the loss only as far as labels are known (arXiv 2508.01710).

Examples of one conversation are merged (``labelled_exchanges``). The loss is response-only, and of the answer it takes

- each verdict whose label is known, with its key; an unknown one before a known one is decided by a coin;
- the categories, if every message that is there has a label and every unsafe one names a category of the list;
- if something is unsafe and its categories are not known, their key alone: a row then teaches that categories follow,
  and not which. Rows that come with inherited categories which hold at the binary level only (``jailbreaking`` rows of
  the published data) are read without them, and so are masked (``data/sources/nemotron_safety_guard``).

A message that violates some category and is unlabelled in others counts as violating the first only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

from corral.data.examples import ModerationExample
from corral.data.taxonomy import qualified
from corral.guards.cultureguard.answers import CATEGORIES_KEY, format_answer, format_until
from corral.guards.cultureguard.prompts import CategoryList
from corral.guards.prompted.framing import FrameName, framed
from corral.train.guard.labelled_exchanges import LabelledExchange, coin, labelled_exchanges
from corral.train.guard.prompted_rows import FormattedRows, PromptedRow

_POLICY: Final = "cultureguard"


def cultureguard_rows(
    rows: Sequence[ModerationExample], categories: CategoryList, *, frame: FrameName = "chat"
) -> FormattedRows:
    """Training rows under a list of categories; the same arguments give the same rows.

    Args:
        rows: labelled examples of requests and replies; ``categories`` of the list's taxonomy are used.
        categories: in the prompt.
        frame: chat format around prompts; ``chat`` leaves it to the tokenizer's template.

    Returns:
        The rows, in the order of ``rows``, with a report: examples read, merged, left out by reason; how often either
        verdict is safe, unsafe and unknown; and in how many rows categories are learned, masked, and which.
    """
    exchanges, found = labelled_exchanges(rows)
    written: list[PromptedRow] = []
    verdicts: dict[str, Counter[str]] = {"prompt": Counter(), "response": Counter()}
    named: Counter[str] = Counter()
    masks: Counter[str] = Counter()
    for each in exchanges:
        prompt, response = each.harmful_request, each.reply.harmful if each.reply else None
        if prompt is None and response is None:
            found.left_out["no label"] += 1
            continue
        violated = _violated(each, categories)
        written.append(_row(each, violated, categories, frame))
        verdicts["prompt"][_word(prompt)] += 1
        if each.reply is not None:
            verdicts["response"][_word(response)] += 1
        if prompt or response:
            masks["learned" if violated else "masked"] += 1
        named.update(violated or ())
    report: dict[str, Any] = {
        "read": len(rows),
        "merged": found.merged,
        "left_out": dict(found.left_out),
        "written": len(written),
        "verdicts": {target: dict(counts) for target, counts in verdicts.items()},
        "categories": dict(masks),
        "named": {name: named[name] for name in categories.names if named[name]},
    }
    return FormattedRows(written, report)


def _violated(each: LabelledExchange, categories: CategoryList) -> tuple[str, ...] | None:
    """Names of what is violated, in the order of the list; ``None`` when that is not known."""
    harmful = [row for row in (each.request, each.reply) if row is not None and row.harmful]
    labels = (each.harmful_request, *((each.reply.harmful,) if each.reply else ()))
    if None in labels:
        return None
    by_message = [_names(row, categories) for row in harmful]
    if not all(by_message):
        return None
    return tuple(name for name in categories.names if any(name in names for names in by_message))


def _names(row: ModerationExample, categories: CategoryList) -> set[str]:
    return {
        category.name
        for category in categories.categories
        if row.categories.get(qualified(categories.taxonomy, category.code))
    }


def _row(
    each: LabelledExchange, violated: tuple[str, ...] | None, categories: CategoryList, frame: FrameName
) -> PromptedRow:
    text = categories.render(each.exchange)
    known = (each.harmful_request, each.reply.harmful if each.reply else None)
    prompt = coin(text, 0) if known[0] is None else known[0]
    response = None if each.reply is None else coin(text, 1) if known[1] is None else known[1]
    unsafe = prompt or bool(response)
    # Where categories are not known something stands in their place; it comes after the last scored character.
    names = (violated or categories.names[:1]) if unsafe else ()
    answer = format_answer(prompt, response, names)
    return PromptedRow(framed(text, frame), answer, _scored(answer, each, prompt, response, violated), _POLICY)


def _scored(
    answer: str, each: LabelledExchange, prompt: bool, response: bool | None, violated: tuple[str, ...] | None
) -> tuple[tuple[int, int], ...]:
    """The parts of an answer whose labels are known; a verdict goes up to its closing quotation mark."""
    first = len(format_answer(prompt)) - 1
    second = first if response is None else len(format_answer(prompt, response)) - 1
    spans = [(0, first)] if each.harmful_request is not None else []
    if each.reply is not None and each.reply.harmful is not None:
        spans.append((first, second))
    if each.harmful_request is None or (each.reply is not None and each.reply.harmful is None):
        return tuple(spans)
    if violated is None:
        return (*spans, (second, len(format_until(CATEGORIES_KEY, prompt, response))))
    return (*spans, (second, len(answer)))


def _word(unsafe: bool | None) -> str:
    return "unknown" if unsafe is None else "unsafe" if unsafe else "safe"
