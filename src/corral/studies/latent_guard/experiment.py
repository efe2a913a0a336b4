"""What the claims share: pools, their readings, and a fit for every seed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache, cached_property

import numpy as np
from numpy.typing import NDArray

from corral.core.runs import Run
from corral.guards.latent_guard.centres import POSITIONS, Centres
from corral.guards.latent_guard.drift import with_canary
from corral.guards.latent_guard.fitting import (
    LabelledPrompts,
    calibrate,
    centres_of_readings,
    choose_variant,
    harm_centres,
    refusal_labels,
)
from corral.guards.latent_guard.shards import Readings
from corral.studies.claims import command_of
from corral.studies.latent_guard.readings import StudyReadings
from corral.studies.latent_guard.rows import FIT, Pool
from corral.studies.latent_guard.settings import LatentGuardConfig

DEVELOPMENT = "held-out fit rows"


@dataclass(frozen=True)
class Fitted:
    """Centres of one seed.

    Attributes:
        centres: with the variant and alpha that were chosen on the development rows.
        train_N: fit rows that they are means of.
        development_auroc: of the chosen variant, on the rest.
    """

    centres: Centres
    train_N: NDArray[np.bool_]
    development_auroc: float


class Experiment:
    """One run of the study.

    Args:
        config: settings.
        run: of the recipe.
        pools: all prompts.
        readings: of the study's model.
    """

    def __init__(self, config: LatentGuardConfig, run: Run, pools: Mapping[str, Pool], readings: StudyReadings) -> None:
        self.config = config
        self.run = run
        self.pools = pools
        self.readings = readings
        self.fitted = cache(self._fitted)
        self.read = cache(self._read)

    @cached_property
    def command(self) -> str:
        """The command of this run."""
        return command_of(self.run, self.config)

    def _read(self, name: str) -> Readings:
        return self.readings.of(name, self.pools[name].conversations)

    def _fitted(self, seed: int) -> Fitted:
        """Centres of the fit rows, without those that the seed holds out for development."""
        pool, readings = self.pools[FIT], self.read(FIT)
        development_N = pool.held_out(self.config.development, seed=seed) & readings.read_N
        train_N = ~development_N & readings.read_N
        held, labels_N = readings.rows(development_N), pool.harmful_N[development_N]
        train, trained_N = readings.rows(train_N), pool.harmful_N[train_N]
        by_position = {position: harm_centres(train, trained_N, position) for position in POSITIONS}
        variant, value = choose_variant(held, labels_N, by_position, sites=self.config.variant_sites)
        centres = replace(self.centres(pool, readings, train_N), harm=by_position[variant.position])
        return Fitted(self._calibrated(centres.with_record(harm=variant), held, labels_N), train_N, value)

    def centres(self, pool: Pool, readings: Readings, chosen_N: NDArray[np.bool_]) -> Centres:
        """Centres of some rows of a pool, uncalibrated and of the published variant."""
        rows = [row for row, taken in zip(pool.rows, chosen_N, strict=True) if taken]
        prompts = LabelledPrompts(
            tuple(row.conversation for row in rows),
            tuple(bool(row.harmful) for row in rows),
            ids=tuple(f"{row.source}/{row.id}" for row in rows),
            sources=tuple(row.source for row in rows),
        )
        return centres_of_readings(
            self.readings.reader,
            prompts,
            readings.rows(chosen_N),
            refusal_rule=self.config.refusal_rule,
            command=self.command,
        )

    def _calibrated(self, centres: Centres, held: Readings, harmful_N: NDArray[np.bool_]) -> Centres:
        refused_N, accepted_N = refusal_labels(held, harmful_N, self.config.refusal_rule)
        judged_N = refused_N | accepted_N
        variant, _ = choose_variant(
            held.rows(judged_N), refused_N[judged_N], {"prompt": centres.refusal}, sites=self.config.variant_sites
        )
        centres = centres.with_record(refusal=variant)
        return centres.with_record(
            harm_calibration=calibrate(
                centres.delta_harm(held.at(centres.record.harm.position)),
                harmful_N,
                split=DEVELOPMENT,
                operating_point=self.config.operating_point,
            ),
            refusal_calibration=calibrate(
                centres.delta_refuse(held.post_NSD[judged_N]), refused_N[judged_N], split=DEVELOPMENT
            ),
        )

    def save_centres(self) -> None:
        """Write the centres of the first seed, with a canary, to the artefacts."""
        fitted = self.fitted(self.config.seeds[0])
        with_canary(fitted.centres, self.readings.reader).save(self.run.artefacts / "centres")
