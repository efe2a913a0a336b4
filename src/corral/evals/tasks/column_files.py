"""Public columns as sets of the moderation task, read from files that the user has.

Some of the sets that published tables report are gated or may not be copied, so they are in no data folder of ours.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from corral.core.errors import UserError
from corral.data.sources.public_columns import PUBLIC_COLUMNS
from corral.evals.tasks.eval_set import EvalSet, PublishedColumn, harmful, refusal

SUFFIX: Final = "_file"
"""Tells the set of a file from the set of our own copy."""

_T2: Final = {
    "wildguardtest_prompt": "prompt_harm_all",
    "wildguardtest_response": "response_harm_all",
    "wildguardtest_refusal": "refusal_all",
}
_T8: Final = {
    "multijail": ("multijail", "the card gives the mean of nine languages' F1; ours has ten, shown by language"),
    "nemotron_safety_guard_prompt": ("own", "the card joins prompts and responses; redacted prompts are left out"),
    "nemotron_safety_guard_response": ("own", "the card joins prompts and responses; redacted prompts are left out"),
}
"""Sets in several languages: a column of table T8, and why its figure is not comparable."""
_COUNTS_UNKNOWN: Final = "the publication contradicts itself about the number of rows, so ours could not be checked"


def column_set(column: str, path: Path | str) -> EvalSet:
    """The set of a public column in a file of its upstream format.

    Raises:
        NotFoundError: no such column.
    """
    known = PUBLIC_COLUMNS.get(column)
    return EvalSet(
        name=column + SUFFIX,
        source=column,
        file=Path(path),
        target=known.target,
        head="refusal" if known.label == "refusal" else "harm",
        kind="positives" if known.all_positive else "mixed",
        rule=known.source.note,
        truth=refusal if known.label == "refusal" else harmful,
        published=(_published(column, counted=known.rows is not None),),
        slices=_slices(column),
        family=column if column in _T8 else "",
        pair="pair" if column in _T8 else "",
    )


def _published(column: str, *, counted: bool) -> PublishedColumn:
    if column in _T8:
        theirs, reason = _T8[column]
        return PublishedColumn("T8", theirs, "no", reason)
    table, published = ("T2", _T2[column]) if column in _T2 else ("T1", column)
    return (
        PublishedColumn(table, published) if counted else PublishedColumn(table, published, "subset", _COUNTS_UNKNOWN)
    )


def _slices(column: str) -> tuple[str, ...]:
    if column in _T2:
        return ("adversarial",)
    if column in _T8:
        return ("language", "tag") if column.startswith("nemotron") else ("language",)
    return ()


def parse_column(text: str) -> EvalSet:
    """The set that ``NAME=FILE`` stands for.

    Raises:
        UserError: another form.
        NotFoundError: no such column or file.
    """
    name, equals, path = text.partition("=")
    if not equals or not name or not path:
        raise UserError(f"`{text}` is not NAME=FILE", hint=f"Columns: {', '.join(PUBLIC_COLUMNS)}.")
    file = Path(path).expanduser()
    PUBLIC_COLUMNS.get(name.strip()).require(file)
    return column_set(name.strip(), file)
