"""Development splits: labelled rows that thresholds, bands and weights are fitted on, scored by guards and journaled.

A file of the user's own holds one labelled message a row: what ``corral moderate`` reads, with ``harmful`` (true or
false) and perhaps ``target`` beside it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, cast

from corral.core.errors import DataError, GuardError
from corral.core.files import sha256_json
from corral.core.journal import Journal
from corral.core.progress import milestone
from corral.data.conversations import conversation_from_row
from corral.data.examples import ModerationExample, prompt_key
from corral.data.messages import TARGETS, Target
from corral.data.readers import Row, read_rows
from corral.evals.tasks.scoring import guard_folder, judge_rows
from corral.guards.base import Guard, Status

_LABELS: Final[Mapping[str, bool]] = {"true": True, "1": True, "false": False, "0": False}

MOST_UNANSWERED: Final = 0.05
"""Share of a development split on which a guard may give no verdict; a fit on the rest would be of other rows than its
name says."""


def labelled_rows(path: Path) -> list[ModerationExample]:
    """The rows of a file of the user's.

    Raises:
        NotFoundError: no such file.
        DataError: no rows, or one without a conversation or label; names the line.
    """
    rows = [_labelled(row) for row in read_rows(path, strict=True)]
    if not rows:
        raise DataError("holds no rows", where=str(path))
    return rows


def score_development(
    guard: Guard, rows: Sequence[ModerationExample], out: Path, *, batch_size: int = 64
) -> list[Mapping[str, Any]]:
    """What the guard says of each row, in order; a rerun with the same folder judges only what is missing.

    Rows that the guard failed on are missing: they are asked again.

    Args:
        guard: judges.
        rows: the development split.
        out: folder of the journals.
        batch_size: rows a call to the guard.

    Returns:
        (N,) the values of a verdict without its categories: ``status``, ``flagged``, ``p_harm`` and so on.

    Raises:
        UserError: the journal holds rows of another development split.
    """
    keys = [f"{row.source}/{row.id}/{row.target}/{prompt_key(row.text)}" for row in rows]
    path = guard_folder(out, guard.name, guard.revision) / "development.jsonl"
    fingerprint = {"guard": guard.name, "revision": guard.revision, "rows_sha256": sha256_json(keys)}
    with Journal.open(path, key="id", fingerprint=fingerprint) as journal:
        missing = {key: row for key, row in zip(keys, rows, strict=True) if key not in journal}
        title = f"{guard.name}: development split"
        failed = judge_rows(guard, missing, journal, batch_size=batch_size, title=title)
        found = {entry["id"]: entry for entry in journal.entries()} | failed
    return [found[key] for key in keys]


def answered_rows(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[int]:
    """Places of the rows on which every guard gave a verdict; says how many were left out, and why.

    Args:
        found: guard to what it says of each row, from ``score_development``.

    Raises:
        GuardError: a guard gave no verdict on more than ``MOST_UNANSWERED`` of the rows.
    """
    for name, said in found.items():
        without = Counter(each["status"] for each in said if each["status"] != Status.OK)
        if not without:
            continue
        counts = ", ".join(f"{count:,} {status}" for status, count in without.most_common())
        account = f"guard `{name}` gave no verdict on {without.total():,} of {len(said):,} rows ({counts})"
        if without.total() > MOST_UNANSWERED * len(said):
            raise GuardError(
                f"{account}, which is more than {MOST_UNANSWERED:.0%}: nothing was fitted",
                hint="The same command again asks for the rows that a guard failed on.",
            )
        milestone(f"{account}; they are left out")
    by_row = zip(*found.values(), strict=True)
    return [row for row, said in enumerate(by_row) if all(each["status"] == Status.OK for each in said)]


def _labelled(row: Row) -> ModerationExample:
    value = row.value
    label = value.get("harmful")
    harmful = _LABELS.get(str(label).strip().lower())
    if harmful is None:
        raise DataError(f"`harmful` is `{label}`", where=row.where, hint="Give true or false.")
    conversation = conversation_from_row(row)
    target = value.get("target") or conversation.target("auto")
    if target not in TARGETS or conversation.judged_index(cast("Target", target)) is None:
        raise DataError(f"no `{target}` to judge", where=row.where, hint="`target` is prompt or response.")
    return ModerationExample(
        conversation,
        cast("Target", target),
        harmful=harmful,
        language=str(value.get("language") or ""),
        source=Path(row.path).name,
        id=conversation.id or str(row.line),
    )
