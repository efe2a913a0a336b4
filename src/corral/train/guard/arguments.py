"""From a guard's settings to those of ``transformers.Trainer``."""

from __future__ import annotations

from pathlib import Path

from transformers import TrainingArguments

from corral.train.arguments import trainer_arguments
from corral.train.guard.classifier_settings import GuardTrainingConfig
from corral.train.guard.duoguard_settings import DuoGuardTrainingConfig
from corral.train.guard.prompted_settings import PromptedGuardConfig


def training_arguments(
    config: GuardTrainingConfig | PromptedGuardConfig | DuoGuardTrainingConfig,
    output: Path,
    *,
    batches: int,
    schedule: str,
) -> TrainingArguments:
    """See ``trainer_arguments``; the trainer counts ``labels`` to normalise the loss."""
    return TrainingArguments(
        **trainer_arguments(config, output, batches=batches, schedule=schedule), label_names=["labels"]
    )
