"""The rows of the study: what both guards learn, what is held out, and the sets that are measured."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from corral.core.files import sha256_json
from corral.data.examples import ModerationExample, rows_hash
from corral.data.taxonomy import parse_code
from corral.evals.tasks.moderation_sets import SETS
from corral.evals.tasks.scoring import RowLoader
from corral.guards.duoguard import TAXONOMY, duoguard_codes
from corral.studies.cultureguard.templated import training_rows
from corral.studies.drawing import SplitRows, draw_split
from corral.studies.duoguard.settings import DuoGuardConfig

HELD_OUT: Final = "held_out"


@dataclass(frozen=True)
class StudyRows:
    """All rows of a study.

    Attributes:
        split: training rows and held-out ones.
        sets: what is measured, by name; the held-out rows first.
    """

    split: SplitRows
    sets: Mapping[str, tuple[ModerationExample, ...]]

    @property
    def train(self) -> tuple[ModerationExample, ...]:
        """Training rows, the same for every guard."""
        return self.split.train

    def account(self) -> dict[str, Any]:
        """Which rows these are, as JSON: counts, and a hash of everything that is read."""
        parts = {"train": self.train, **self.sets}
        return {
            "rows_sha256": sha256_json([rows_hash(rows) for rows in parts.values()]),
            "drawn": list(self.split.drawn),
            "parts": {name: _counts(rows) for name, rows in parts.items()},
        }


def study_rows(config: DuoGuardConfig) -> StudyRows:
    """The rows that the settings ask for; only prompts are learned and held out.

    Raises:
        ConfigError: a source may not be trained on, or gives no row.
        NotFoundError: a source is not in the data folder.
    """
    given = [_relabelled(row) for row in training_rows() if row.target == "prompt"] if config.toy else None
    split = draw_split(config.rows, taxonomy=TAXONOMY, seed=config.seed, rows=given)
    loader = RowLoader(limit=config.set_rows, seed=config.seed)
    sets = {name: loader.load(SETS.get(name)).rows for name in config.sets}
    return StudyRows(split, {HELD_OUT: split.held_out, **sets})


def _relabelled(row: ModerationExample) -> ModerationExample:
    """A templated row whose invented categories stand for the first of DuoGuard's."""
    codes = {
        duoguard_codes()[int(parse_code(code)[1].removeprefix("S")) - 1]: present
        for code, present in row.categories.items()
    }
    return replace(row, categories=codes, taxonomy=TAXONOMY)


def _counts(rows: tuple[ModerationExample, ...]) -> dict[str, Any]:
    codes = Counter(code for row in rows for code, present in row.categories.items() if present)
    return {
        "rows": len(rows),
        "groups": len({row.group for row in rows}),
        "harmful": sum(row.harmful is True for row in rows),
        "attacks": sum(row.attack is True for row in rows),
        "categories": {code: count for code, count in sorted(codes.items()) if code.startswith(f"{TAXONOMY}/")},
    }
