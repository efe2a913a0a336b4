"""From a guard's settings to those of ``transformers.Trainer``."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import TrainingArguments

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
    """Arguments for one pass over ``batches``, which are all epochs; AdamW without weight decay.

    Args:
        config: settings.
        output: checkpoint folder.
        batches: of which ``accumulation`` make an optimiser step.
        schedule: transformers' name of what the learning rate does after the warm-up.
    """
    steps = -(-batches // config.accumulation)
    return TrainingArguments(
        output_dir=str(output),
        max_steps=steps,
        gradient_accumulation_steps=config.accumulation,
        learning_rate=config.learning_rate,
        lr_scheduler_type=schedule,
        warmup_steps=round(steps * config.warmup_share),
        weight_decay=0.0,
        max_grad_norm=config.clip,
        bf16=config.precision == "bf16",
        use_cpu=not torch.cuda.is_available(),
        seed=config.seed,
        save_strategy="steps",
        save_steps=config.save_every,
        save_total_limit=2,
        logging_steps=10,
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        label_names=["labels"],
    )
