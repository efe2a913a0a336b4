"""Progress on standard error, silent when that is not a terminal.

Logs of a batch job stay free of control characters, and standard output carries results only.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sized
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar, overload

if TYPE_CHECKING:
    from rich.progress import Progress

T = TypeVar("T")


class ProgressBar:
    """A bar to be advanced by hand; made by ``progress``."""

    def __init__(self, total: int | None, description: str) -> None:
        self._total = total
        self._description = description
        self._display: Progress | None = None

    def __enter__(self) -> Self:
        if sys.stderr is not None and sys.stderr.isatty():
            self._display = _display()
            self._display.add_task(self._description, total=self._total)
            self._display.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._display is not None:
            self._display.stop()
            self._display = None

    def advance(self, steps: int = 1) -> None:
        """Count ``steps`` more as done."""
        if self._display is not None:
            self._display.advance(self._display.task_ids[0], steps)


@overload
def progress(items: int | None, description: str) -> ProgressBar: ...
@overload
def progress(items: Iterable[T], description: str, *, total: int | None = None) -> Iterator[T]: ...
def progress(
    items: Iterable[T] | int | None, description: str, *, total: int | None = None
) -> ProgressBar | Iterator[T]:
    """Show how far a loop has come.

    Args:
        items: what to iterate over, or a total (``None`` when unknown) for a bar to be advanced by hand::

            for row in progress(rows, "Reading"): ...
            with progress(len(rows), "Moderating") as bar: bar.advance(batch)

        description: a word or two in front of the bar.
        total: how many items there are, when they have no length.
    """
    if items is None or isinstance(items, int):
        return ProgressBar(items, description)
    return _tracked(items, ProgressBar(len(items) if isinstance(items, Sized) else total, description))


def milestone(text: str) -> None:
    """A line on standard error about a finished piece of a job of many minutes, terminal or not."""
    print(text, file=sys.stderr, flush=True)


def _tracked(items: Iterable[T], bar: ProgressBar) -> Iterator[T]:
    with bar:
        for item in items:
            yield item
            bar.advance()


def _display() -> Progress:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
