"""Development splits: labelled rows that thresholds, bands and weights are fitted on, scored by guards and journaled.

A file of the user's own holds one labelled message a row: what ``corral moderate`` reads, with ``harmful`` (true or
false) and perhaps ``target`` beside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, cast

from corral.core.errors import DataError
from corral.core.files import sha256_json
from corral.core.journal import Journal
from corral.data.conversations import conversation_from_row
from corral.data.examples import ModerationExample, prompt_key
from corral.data.messages import TARGETS, Target
from corral.data.readers import Row, read_rows
from corral.evals.tasks.scoring import guard_folder, judge_rows
from corral.guards.base import Guard

_LABELS: Final[Mapping[str, bool]] = {"true": True, "1": True, "false": False, "0": False}


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
) -> list[dict[str, Any]]:
    """What the guard says of each row, in order; a rerun with the same folder judges only what is missing.

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
        for target in TARGETS:
            missing = {
                key: row for key, row in zip(keys, rows, strict=True) if row.target == target and key not in journal
            }
            title = f"{guard.name}: {target}s of the development split"
            judge_rows(guard, missing, journal, target=target, batch_size=batch_size, title=title)
        found = {entry["id"]: entry for entry in journal.entries()}
    return [found[key] for key in keys]


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
