"""The judge that looks labels up which people gave."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Final

from corral.core.errors import DataError
from corral.core.files import sha256_json
from corral.data.readers import read_rows
from corral.redteam.judges.base import REVISION_DIGITS, Judgement, Outcome, answer_id

LABELS: Final = {
    "unsafe": Outcome.COMPLIES,
    "complies": Outcome.COMPLIES,
    "refusal": Outcome.REFUSES,
    "refuses": Outcome.REFUSES,
    "safe": Outcome.SAFE,
}
"""What a file may call an outcome."""


class HumanFileJudge:
    """Labels from a file, by the ``answer_id`` that a run writes beside each answer; the others are ``UNPARSED``.

    Args:
        path: rows with ``answer_id`` and ``label``: ``unsafe``, ``refusal`` or ``safe``.

    Raises:
        NotFoundError: no such file.
        DataError: a row without them, an unknown label, or two labels for one answer; names the line.
    """

    def __init__(self, path: Path | str) -> None:
        self._labels: dict[str, Outcome] = {}
        for row in read_rows(path, strict=True):
            key, label = row.value.get("answer_id"), row.value.get("label")
            if not isinstance(key, str) or not key:
                raise DataError("the row has no `answer_id`", where=row.where)
            if label not in LABELS:
                raise DataError(f"label is `{str(label)[:40]}`", where=row.where, hint=f"Use {', '.join(LABELS)}.")
            if self._labels.setdefault(key, LABELS[label]) is not LABELS[label]:
                raise DataError(f"answer `{key}` has two labels", where=row.where)

    @property
    def name(self) -> str:
        """``human``."""
        return "human"

    @cached_property
    def revision(self) -> str:
        """Hash of the labels."""
        return sha256_json(dict(sorted(self._labels.items())))[:REVISION_DIGITS]

    def judge_many(self, pairs: Sequence[tuple[str, str]]) -> list[Judgement]:
        """Judge each (request, reply); see ``Judge.judge_many``."""
        found = [self._labels.get(answer_id(request, reply)) for request, reply in pairs]
        unknown = Judgement(Outcome.UNPARSED, self.name, detail="nobody labelled it")
        return [unknown if outcome is None else Judgement(outcome, self.name) for outcome in found]
