"""From a method's settings to those of ``transformers.Trainer``, the same for every method."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import torch


class Schedule(Protocol):
    """What every method's settings say about optimisation."""

    @property
    def accumulation(self) -> int:
        """Batches an optimiser step."""

    @property
    def learning_rate(self) -> float:
        """The peak."""

    @property
    def warmup_share(self) -> float:
        """Of the steps, the share in which the learning rate rises."""

    @property
    def clip(self) -> float:
        """Largest gradient norm."""

    @property
    def precision(self) -> str:
        """``bf16`` or ``fp32``, of the forward pass."""

    @property
    def save_every(self) -> int:
        """Optimiser steps between checkpoints."""

    @property
    def seed(self) -> int:
        """Of everything that is drawn."""


def trainer_arguments(config: Schedule, output: Path, *, batches: int, schedule: str) -> dict[str, Any]:
    """Arguments of ``TrainingArguments`` for one pass over ``batches``, which are all epochs.

    AdamW without weight decay.

    Args:
        config: settings.
        output: checkpoint folder.
        batches: of which ``accumulation`` make an optimiser step.
        schedule: transformers' name of what the learning rate does after the warm-up.
    """
    steps = -(-batches // config.accumulation)
    return {
        "output_dir": str(output),
        "max_steps": steps,
        "gradient_accumulation_steps": config.accumulation,
        "learning_rate": config.learning_rate,
        "lr_scheduler_type": schedule,
        "warmup_steps": round(steps * config.warmup_share),
        "weight_decay": 0.0,
        "max_grad_norm": config.clip,
        "bf16": config.precision == "bf16",
        "use_cpu": not torch.cuda.is_available(),
        "seed": config.seed,
        "save_strategy": "steps",
        "save_steps": config.save_every,
        "save_total_limit": 2,
        "logging_steps": 10,
        "report_to": "none",
        "disable_tqdm": True,
        "remove_unused_columns": False,
    }
