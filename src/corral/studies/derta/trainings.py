"""The trainings of the study: every arm for every seed, each done once and resumed after a kill.

On templated data the base is itself trained, for every seed, to answer everything in the invented language.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from corral.core.files import sha256_json
from corral.core.runs import Run
from corral.models.tiny import TINY, write_tiny_llama
from corral.studies.derta.rows import StudyRows
from corral.studies.derta.settings import DOOR_ARMS, DertaStudyConfig, DoorArm
from corral.studies.derta.templated import complying_rows, words
from corral.studies.trained_models import keep_trained
from corral.studies.training import training_module
from corral.studies.training_cells import TrainingCells
from corral.train.derta.settings import Arm, DertaConfig
from corral.train.door.settings import DoorConfig
from corral.train.fine_tuning_settings import FineTuningConfig, SftConfig

BASE: Final = "base"
_CONTEXT: Final = 256
_LAYERS: Final = 2
_HIDDEN: Final = 64
_WEIGHT_STD: Final = 0.1  # at which so narrow a model trains


class Trainings:
    """Models of a study by arm and seed.

    Args:
        config: settings.
        rows: what is trained on.
        run: keeps the models under ``cells``.
    """

    def __init__(self, config: DertaStudyConfig, rows: StudyRows, run: Run) -> None:
        self._config = config
        self._rows = rows
        self._run = run
        self._cells = TrainingCells(run)

    def base(self, seed: int) -> str:
        """The model that the arms of a seed start from."""
        if self._config.base != TINY:
            return self._config.base
        raw = write_tiny_llama(
            self._run.path / "cells" / f"random-{seed}",
            seed=seed,
            layers=_LAYERS,
            hidden_size=_HIDDEN,
            context=_CONTEXT,
            weight_std=_WEIGHT_STD,
            words_of=words(),
        )
        config = SftConfig.model_validate({**self._config.complying.model_dump(), "seed": seed})
        taught = complying_rows()

        def train(checkpoints: Path, model: Path) -> int:
            tuned = training_module("sft").train_sft(taught, str(raw), config, checkpoints)
            keep_trained(tuned, str(raw), model)
            return len(taught)

        return str(self._cells.model(f"{BASE}-{seed}", {"config": config.model_dump(mode="json")}, train))

    def model(self, arm: Arm | DoorArm, seed: int) -> Path:
        """Folder of what an arm's training made of the base: an adapter, or a model directory.

        Raises:
            MissingDependencyError: the training libraries are not installed.
        """
        base = self.base(seed)
        config = self._settings(arm, seed)
        examples = self._rows.examples()

        def train(checkpoints: Path, model: Path) -> int:
            if isinstance(config, DoorConfig):
                tuned = training_module("door.trainer").train_door(examples, base, config, checkpoints)
            else:
                tuned = training_module("derta.trainer").train_derta(examples, base, config, checkpoints)
            keep_trained(tuned, base, model)
            return len(examples)

        key = {
            "config": config.model_dump(mode="json"),
            "base": self._config.base,
            "rows": self._rows.account["rows_sha256"],
            "complying": sha256_json(self._config.complying.model_dump(mode="json")),
        }
        return self._cells.model(f"{arm}-{seed}", key, train)

    def _settings(self, arm: Arm | DoorArm, seed: int) -> DertaConfig | DoorConfig:
        """Settings of an arm; those of DOOR are the published ones but for what all trainings share."""
        training = self._config.training
        if arm in DOOR_ARMS:
            shared = {name: getattr(training, name) for name in FineTuningConfig.model_fields}
            own = {"weighted": arm == "w_door", "preference": training.dpo, "seed": seed}
            return DoorConfig.model_validate({**shared, **own})
        return DertaConfig.model_validate({**training.model_dump(), "arm": arm, "seed": seed})

    def all(self) -> Sequence[tuple[str, int, str, Path | None]]:
        """Name of the arm, or ``base``, seed, model reference of the base, and folder of what was trained from it."""
        found: list[tuple[str, int, str, Path | None]] = []
        for seed in self._config.seeds if self._config.toy else self._config.seeds[:1]:
            found.append((BASE, seed, self.base(seed), None))
        for seed in self._config.seeds:
            found += [(arm, seed, self.base(seed), self.model(arm, seed)) for arm in self._config.arms]
        return found
