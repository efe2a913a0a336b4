"""What commands print: tables for people and JSON for programs on standard output, remarks on standard error.

Cells and error texts may hold names and text from files that strangers wrote, so control characters and bidirectional
overrides are shown as escapes: they cannot move the cursor, recolour the terminal or reorder what is read.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from corral.core.errors import CorralError

# Bidirectional embeddings, overrides and isolates (Unicode Standard Annex 9).
_BIDI_CONTROLS = frozenset(range(0x202A, 0x202F)) | frozenset(range(0x2066, 0x206A))


def printable(text: str, *, keep_newlines: bool = False) -> str:
    """``text`` with control characters, bidirectional controls and lone surrogates as backslash escapes."""
    return "".join(c if keep_newlines and c == "\n" else _shown(c) for c in text)


def _shown(character: str) -> str:
    code = ord(character)
    if code < 0x20 or 0x7F <= code < 0xA0 or code in _BIDI_CONTROLS or 0xD800 <= code <= 0xDFFF:
        return character.encode("unicode_escape").decode("ascii")
    return character


def print_json(value: object) -> None:
    """Print one JSON value, indented, on standard output.

    Raises:
        ValueError: NaN or an infinity, which JSON does not have.
    """
    print(json.dumps(value, ensure_ascii=False, allow_nan=False, indent=2))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, title: str | None = None) -> None:
    """Print an aligned table on standard output; ``None`` is shown as a dash.

    On a terminal long cells wrap to its width; in a pipe every row stays on one line, whatever its length.
    """
    cells = [["-" if cell is None else printable(str(cell)) for cell in row] for row in rows]
    if title:
        print(title)
    if sys.stdout.isatty():
        _print_wrapped(columns, cells)
    else:
        _print_aligned([list(columns), *cells])


def _print_wrapped(columns: Sequence[str], cells: list[list[str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*columns, box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in table.columns:
        column.overflow = "fold"
    for row in cells:
        table.add_row(*map(Text, row))
    Console(highlight=False).print(table)


def _print_aligned(rows: list[list[str]]) -> None:
    from rich.cells import cell_len  # East Asian characters take two columns

    widths = [max(map(cell_len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        padded = (cell + " " * (width - cell_len(cell)) for cell, width in zip(row, widths, strict=True))
        print("  ".join(padded).rstrip())


def print_fields(fields: Iterable[tuple[str, object]]) -> None:
    """Print ``name  value`` lines on standard output, names padded to one width; ``None`` is shown as a dash."""
    shown = [(name, "-" if value is None else printable(str(value))) for name, value in fields]
    width = max((len(name) for name, _ in shown), default=0)
    for name, value in shown:
        print(f"{name:<{width}}  {value}")


def remark(text: str) -> None:
    """Print a remark for the person at the terminal on standard error."""
    print(printable(text, keep_newlines=True), file=sys.stderr)


def print_error(error: CorralError, stream: TextIO | None = None) -> None:
    """Print what happened, where, and what to do next on standard error, without a traceback."""
    located = f"{error.where}: {error.message}" if error.where else error.message
    lines = [f"error: {located}"] + ([error.hint] if error.hint else [])
    print(printable("\n".join(lines), keep_newlines=True), file=stream or sys.stderr)
