"""What the four claims share: the rows, the trainings of each arm and seed, and the store of scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from corral.core.evidence import Claim
from corral.core.weighted import Statistic
from corral.data.examples import ModerationExample
from corral.studies.claims import Compared, compare_over_seeds
from corral.studies.llama_guard.rows import StudyRows
from corral.studies.llama_guard.scores import ScoreStore
from corral.studies.llama_guard.settings import AUGMENTED, StudyConfig
from corral.studies.llama_guard.trainings import TrainedModels, Training
from corral.train.guard.augmentation import AugmentationConfig

_WARM_UP: Final = "warm-up"


@dataclass(frozen=True)
class Finding:
    """A claim and the tables behind it, for the report."""

    claim: Claim
    tables: dict[str, Any]


@dataclass(frozen=True)
class Experiment:
    """One study at work.

    Attributes:
        config: its settings.
        rows: its data.
        models: trains.
        store: scores.
        tried: by claim, what earlier runs tried.
        suffix: of claim ids and training names, for a study beside the main one.
    """

    config: StudyConfig
    rows: StudyRows
    models: TrainedModels
    store: ScoreStore
    tried: dict[str, tuple[str, ...]]
    suffix: str = ""

    def arm(self, name: str, seed: int) -> Training:
        """The training of an arm under a seed."""
        warm_up = self.config.warm_up
        first = self._on_training_rows(_WARM_UP, warm_up, seed, parent=None) if warm_up is not None else None
        return self._on_training_rows(name, self.config.arms[name], seed, parent=first)

    def _on_training_rows(
        self, name: str, augmentation: AugmentationConfig, seed: int, *, parent: Training | None
    ) -> Training:
        changes: dict[str, Any] = {"seed": seed} | ({"layers": None} if parent else {})
        return Training(
            f"{name}-{seed}{self.suffix}",
            self.rows.train,
            self.rows.policy,
            augmentation,
            self.config.training.model_copy(update=changes),
            parent=parent,
        )

    def arms(self, name: str) -> list[Training]:
        """The trainings of an arm, one a seed."""
        return [self.arm(name, seed) for seed in self.config.seeds]

    def compare(
        self, ours: Sequence[Statistic], baseline: Sequence[Statistic], rows: Sequence[ModerationExample]
    ) -> Compared:
        """Two systems on the same rows, a figure a seed; a baseline without seeds gives one figure."""
        clusters = [row.group for row in rows]
        return compare_over_seeds(ours, baseline, clusters, seed=self.config.seed, replicates=self.config.replicates)

    def fine_tuned(self, seed: int, rows: Sequence[ModerationExample], name: str) -> Training:
        """The augmented guard of a seed, trained on with rows of the target under the target's policy."""
        ladder = self.config.ladder
        changes = {"learning_rate": ladder.learning_rate, "epochs": ladder.epochs}
        settings = self.config.training.model_copy(
            update={"seed": seed, "layers": None} | {key: value for key, value in changes.items() if value is not None}
        )
        return Training(
            f"{name}-{seed}{self.suffix}",
            tuple(rows),
            self.rows.target.policy,
            AugmentationConfig(mode="none"),
            settings,
            parent=self.arm(AUGMENTED, seed),
        )
