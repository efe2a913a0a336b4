"""Writers of moderation rows: JSON Lines and one JSON array for programs, tables for people.

A row is written whole or not at all: an interrupt waits until the batch is out. Tables show ids and scores; the
beginning of a text only when ``--show-content`` asks for it.
"""

from __future__ import annotations

import json
import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any, Final, Protocol

from corral.cli.output import printable
from corral.core.errors import UserError
from corral.data.messages import Target
from corral.data.taxonomy import load_taxonomy, parse_code
from corral.guards.policy import Action

if TYPE_CHECKING:
    from rich.text import Text

_STYLES: Final = {Action.ALLOW: "green", Action.UNDECIDED: "magenta", Action.FLAG: "yellow", Action.BLOCK: "bold red"}
_SHOWN_CATEGORIES: Final = 3
_CATEGORY_FLOOR: Final = 0.1
_SHOWN_REASONS: Final = 3
_ID_WIDTH: Final = 24
_PREVIEW_WIDTH: Final = 60
_BAR_WIDTH: Final = 20


Previews = Mapping[Target, str] | None
"""The beginning of each judged text by its target; ``None`` where texts are not shown."""


class Writer(Protocol):
    """Takes rows as they come."""

    def write(self, row: Mapping[str, Any], previews: Previews) -> None:
        """Write one row; ``previews`` holds the beginning of each judged text, where that may be shown."""

    def close(self) -> None:
        """Write what comes after the last row."""


class JsonLines:
    """One object a line."""

    def write(self, row: Mapping[str, Any], previews: Previews) -> None:
        """Write one row; the text is never in it."""
        sys.stdout.write(json_line(row) + "\n")

    def close(self) -> None:
        """Nothing comes after the last row."""


class JsonArray:
    """One array of all rows, written as they come."""

    def __init__(self) -> None:
        self._before = "["

    def write(self, row: Mapping[str, Any], previews: Previews) -> None:
        """Write one row; the text is never in it."""
        sys.stdout.write(f"{self._before}\n{json_line(row)}")
        self._before = ","

    def close(self) -> None:
        """Close the array."""
        sys.stdout.write("[]\n" if self._before == "[" else "\n]\n")


class TableLines:
    """One line a judged message in columns of fixed width, so that a file larger than memory streams through."""

    def __init__(self) -> None:
        self._started = False

    def write(self, row: Mapping[str, Any], previews: Previews) -> None:
        """Write a line, or one for the prompt and one for the response."""
        if not self._started:
            self._started = True
            heading = f"{'id':<{_ID_WIDTH}}  {'target':<8}  {'action':<9}  harm  attack  refusal  categories"
            print(heading if previews is None else f"{heading} · text")
        for judged in judged_rows(row):
            _print_styled(_table_line(judged, None if previews is None else previews.get(judged["target"], "")))

    def close(self) -> None:
        """Nothing comes after the last row."""


def json_line(row: Mapping[str, Any]) -> str:
    """The row as one line of JSON."""
    return json.dumps(row, ensure_ascii=False, allow_nan=False)


def judged_rows(row: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The row itself, or those of its prompt and response when both were judged."""
    return [judged for judged in row["verdicts"].values() if judged] if "verdicts" in row else [row]


def print_verdict(
    row: Mapping[str, Any],
    *,
    reasons: Sequence[str],
    missing: Sequence[str],
    policy: str,
    notes: Mapping[str, str],
) -> None:
    """Print what became of one text for the person who asked.

    Args:
        row: what programs would read.
        reasons: ``Decision.reasons``.
        missing: why guards gave no verdict.
        policy: id and hash of the policy.
        notes: heading to line, of what only a person is told.
    """
    from rich.text import Text

    action = Action(row["action"])
    _print_styled(Text.assemble((action.value.upper(), _STYLES[action]), f"  {_HEADLINES[action]}"))
    print()
    for name, key in (("harm", "p_harm"), ("attack", "p_attack"), ("refusal", "p_refusal")):
        if row[key] is not None:
            print(f"  {name:<11} {row[key]:.2f}  {_bar(row[key])}")
    for heading, (code, score) in zip(("categories", *[""] * _SHOWN_CATEGORIES), _top_categories(row), strict=False):
        print(f"  {heading:<11} {score:.2f}  {_category_name(code)} ({code})")
    windows = "1 window" if row["windows"] == 1 else f"{row['windows']} windows"
    print(f"  {'judged':<11} {row['target']} by {row['guard']}, {windows}, {row['latency_ms']:.0f} ms")
    for heading, line in notes.items():
        print(f"  {heading:<11} {line}")
    print(f"  {'policy':<11} {printable(policy)}")
    if reasons:
        more = f" and {len(reasons) - _SHOWN_REASONS} more" if len(reasons) > _SHOWN_REASONS else ""
        print(f"  {'because':<11} {printable(', '.join(reasons[:_SHOWN_REASONS]))}{more}")
    for line in missing:
        print(f"  {'no verdict':<11} {printable(line)}")
    print(f"\nNext: {_NEXT_WITHOUT_VERDICT if missing else _NEXT[action]}")


_HEADLINES: Final = {
    Action.ALLOW: "nothing in it reached a threshold",
    Action.FLAG: "worth a look",
    Action.BLOCK: "do not pass it on",
    Action.UNDECIDED: "no guard could tell",
}
_DIFFERENTLY: Final = "For other thresholds or actions give a policy: --policy FILE."
_NEXT: Final = {
    Action.ALLOW: f"pass it on. {_DIFFERENTLY}",
    Action.FLAG: f"have a person look at it. {_DIFFERENTLY}",
    Action.BLOCK: f"keep it from the model or the reader. {_DIFFERENTLY}",
    Action.UNDECIDED: "have a person decide.",
}
_NEXT_WITHOUT_VERDICT: Final = "mend what kept the guard from judging; until then the policy's `on_error` decides."


def preview_of(text: str) -> str:
    """The beginning of a text on one line, safe for a terminal."""
    shown = printable(" ".join(text[: 4 * _PREVIEW_WIDTH].split()))
    return shown if len(shown) <= _PREVIEW_WIDTH else f"{shown[:_PREVIEW_WIDTH]}…"


def _table_line(row: Mapping[str, Any], preview: str | None) -> Text:
    from rich.text import Text

    action = Action(row["action"])
    id = printable(str(row["id"]))
    names = ", ".join(f"{_category_name(code)} {score:.2f}" for code, score in _top_categories(row))
    if row["status"] != "ok":
        names = f"no verdict ({row['status']})"
    scores = f"{_score(row['p_harm'])}  {_score(row['p_attack']):<6}  {_score(row['p_refusal']):<7}"
    line = Text.assemble(
        f"{id if len(id) <= _ID_WIDTH else id[: _ID_WIDTH - 1] + '…':<{_ID_WIDTH}}  {row['target']:<8}  ",
        (f"{action.value:<9}", _STYLES[action]),
        f"  {scores}  {names}",
        "" if preview is None else f" · {preview}",
    )
    line.rstrip()
    return line


def _score(score: float | None) -> str:
    return "   -" if score is None else f"{score:.2f}"


def _bar(score: float) -> str:
    """A bar whose length is the score."""
    return ("█" * round(score * _BAR_WIDTH)).ljust(_BAR_WIDTH, "░")


def _top_categories(row: Mapping[str, Any]) -> list[tuple[str, float]]:
    """The highest category scores that say something."""
    ranked = sorted(row["categories"].items(), key=lambda item: -item[1])
    return [(code, score) for code, score in ranked[:_SHOWN_CATEGORIES] if score >= _CATEGORY_FLOOR]


def _category_name(code: str) -> str:
    """Name of a category; the code itself where its taxonomy is not among the packaged ones."""
    try:
        taxonomy, bare = parse_code(code)
        return load_taxonomy(taxonomy).category(bare).name
    except UserError:
        return printable(code)


def _print_styled(text: Text) -> None:
    from rich.console import Console

    Console(highlight=False, soft_wrap=True).print(text)


@contextmanager
def held_interrupts() -> Iterator[None]:
    """Let Ctrl-C wait until the block is done, so that nothing is written by half."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread gets the signal
        return
    held: list[int] = []

    def hold(number: int, frame: FrameType | None) -> None:
        held.append(number)

    before = signal.signal(signal.SIGINT, hold)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if held:
        raise KeyboardInterrupt
