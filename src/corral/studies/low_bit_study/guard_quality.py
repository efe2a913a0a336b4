"""The English guard on a decoder in few bits: the same rows of sets that no guard may be trained on, scored by each.

Its adapter is merged first, then the sum is quantized: what runs is one matrix a layer, as when it ships. Its heads
stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from corral.core.files import sha256_json
from corral.core.runs import Run
from corral.evals.scored import ScoredSet
from corral.evals.tasks.moderation import choose_sets
from corral.evals.tasks.scoring import RowLoader, SetRows, score_guard
from corral.guards.default.export import write_decoder
from corral.guards.default.guard import EnglishGuard
from corral.models.loading import weights_revision
from corral.studies.low_bit_study.cell_files import REFERENCE, KeptCell, kept_cell
from corral.studies.low_bit_study.quantized_models import depends_on, quantized_model
from corral.studies.low_bit_study.settings import GuardDriftConfig, LowBitConfig, QuantizerConfig

INT8: Final = "int8"
"""Name of the cell of the guard as ``dtype: int8`` runs it."""
_SEED: Final = 0


class SetScores(BaseModel):
    """One set as one guard scored it.

    Attributes:
        truth: 1 for harmful rows.
        scores: probability of harm; rows without a verdict count as flagged, as under the default policy.
        clusters: prompt of each row.
        unscored: rows without a verdict.
    """

    model_config = ConfigDict(frozen=True)

    truth: tuple[int, ...]
    scores: tuple[float, ...]
    clusters: tuple[str, ...]
    unscored: int

    @classmethod
    def of(cls, scored: ScoredSet) -> SetScores:
        """Without the rows' texts."""
        return cls(
            truth=tuple(int(value) for value in scored.truth_N.tolist()),
            scores=tuple(scored.filled().tolist()),
            clusters=tuple(f"{scored.eval_set.name}/{cluster}" for cluster in scored.clusters),
            unscored=scored.unscored,
        )


class GuardCell(KeptCell):
    """One guard's scores, by set."""

    sets: dict[str, SetScores] = Field(default_factory=dict)


def measure_guards(config: LowBitConfig, asked: GuardDriftConfig, run: Run) -> list[GuardCell]:
    """Score the rows with the guard as it ships and with every quantized one; what is there already is found again.

    Returns:
        The cells, that of the guard as it is first.

    Raises:
        NotFoundError: a file of the guard, or a set, is not there.
        MissingDependencyError: the guard's base is not installed.
    """
    weights = None if asked.weights is None else Path(asked.weights)
    decoder = run.path / "cells" / "guard-decoder"
    if not decoder.exists():
        write_decoder(decoder, weights)
    loader = RowLoader(limit=asked.limit, seed=config.seed)
    rows = tuple(loader.load(eval_set) for eval_set in choose_sets(asked.sets))
    judging = _Judging(config, asked, loader, rows, decoder, run)
    cells = [judging.plain(REFERENCE, "auto"), *(judging.quantized(quantizer) for quantizer in asked.quantizers)]
    return [*cells, judging.plain(INT8, "int8")] if asked.int8 else cells


@dataclass(frozen=True)
class _Judging:
    """Everything that all cells share."""

    config: LowBitConfig
    asked: GuardDriftConfig
    loader: RowLoader
    rows: tuple[SetRows, ...]
    decoder: Path
    run: Run

    def plain(self, name: str, dtype: Literal["auto", "int8"]) -> GuardCell:
        """The guard as it ships, in a dtype."""

        def measure() -> Mapping[str, Any]:
            found: dict[str, Any] = {"sets": self._scores(EnglishGuard.load(weights=self.asked.weights, dtype=dtype))}
            if name == INT8:
                found["quantization"] = {"bits": {"nominal": 8.0, "stored": None}}  # made at load, stored nowhere
            return found

        return self._kept(name, {"dtype": dtype}, measure)

    def quantized(self, quantizer: QuantizerConfig) -> GuardCell:
        """The guard on a decoder in few bits."""

        def measure() -> Mapping[str, Any]:
            work = self.run.path / "cells" / "work"
            with quantized_model(self.config, str(self.decoder), quantizer, _SEED, work) as (folder, report):
                guard = EnglishGuard.load(weights=self.asked.weights, decoder=folder)
                return {"sets": self._scores(guard), "quantization": report}

        return self._kept(quantizer.name, depends_on(self.config, quantizer, self._weights, _SEED), measure)

    @property
    def _weights(self) -> str:
        return weights_revision(self.decoder)

    def _kept(self, name: str, key: Mapping[str, Any], measure: Callable[[], Mapping[str, Any]]) -> GuardCell:
        shown = sha256_json([[each.eval_set.name, [row.id for row in each.rows]] for each in self.rows])
        folder = self.run.path / "cells" / "guard"
        return kept_cell(
            self.run, GuardCell, name, {**key, "guard": self._weights, "rows": shown}, measure, folder=folder
        )

    def _scores(self, guard: EnglishGuard) -> dict[str, SetScores]:
        sets = [each.eval_set for each in self.rows]
        verdicts = self.run.path / "cells" / "guard" / "verdicts" / sha256_json(guard.revision)[:12]
        scored = score_guard(guard, sets, self.loader, verdicts)
        return {name: SetScores.of(found) for name, found in scored.sets.items()}
