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
_COUNTS_UNKNOWN: Final = "the publication contradicts itself about the number of rows, so ours could not be checked"


def column_set(column: str, path: Path | str) -> EvalSet:
    """The set of a public column in a file of its upstream format.

    Raises:
        NotFoundError: no such column.
    """
    known = PUBLIC_COLUMNS.get(column)
    table, published = ("T2", _T2[column]) if column in _T2 else ("T1", column)
    link = PublishedColumn(table, published)
    if known.rows is None:
        link = PublishedColumn(table, published, "subset", _COUNTS_UNKNOWN)
    return EvalSet(
        name=column + SUFFIX,
        source=column,
        file=Path(path),
        target=known.target,
        head="refusal" if known.label == "refusal" else "harm",
        kind="positives" if known.all_positive else "mixed",
        rule=known.source.note,
        truth=refusal if known.label == "refusal" else harmful,
        published=(link,),
        slices=("adversarial",) if column in _T2 else (),
    )


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
