"""A tiny model that is trained to refuse a templated class of requests, in seconds.

What the small chat model hardly does, this one does by construction: so steering along its refusal direction can be
tested for what it must do.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from corral.models.tiny import write_tiny_llama
from corral.studies.latent_guard.settings import SteeringConfig
from corral.studies.latent_guard.templated import COMPLIANCE, REFUSAL, taught_prompts, templated_words
from corral.studies.training import training_module
from corral.train.guard.prompted_settings import PromptedGuardConfig

_CONTEXT = 512
_BATCH_TOKENS = 256


def train_tiny_refuser(settings: SteeringConfig, cells: Path, *, seed: int) -> Path:
    """The model directory of a seed, trained now unless it is there.

    Args:
        settings: rows, size and training.
        cells: folder that it is put into.
        seed: of weights and order.

    Raises:
        MissingDependencyError: the training libraries are not installed.
    """
    folder = cells / f"refuser-{seed}"
    if folder.exists():
        return folder
    rows = taught_prompts(settings.refused, settings.answered)
    prompted, formats = training_module("guard.prompted"), training_module("guard.prompted_rows")
    work = folder.with_name(f"{folder.name}-training")
    base = write_tiny_llama(
        work / "base",
        seed=seed,
        layers=settings.layers,
        hidden_size=settings.hidden_size,
        context=_CONTEXT,
        words_of=templated_words(),
    )
    config = PromptedGuardConfig(
        base=str(base),
        first_trained_layer=0,
        full=True,
        batch_tokens=_BATCH_TOKENS,
        epochs=settings.epochs,
        learning_rate=settings.learning_rate,
        precision="fp32",
        save_every=10_000,
        seed=seed,
    )
    answers = [REFUSAL if row.harmful else COMPLIANCE for row in rows]
    taught = [
        formats.PromptedRow(row.conversation, answer, ((0, len(answer)),), policy="")
        for row, answer in zip(rows, answers, strict=True)
    ]
    model = prompted.train_prompted_guard(taught, config, work / "checkpoints")
    prompted.save_prompted_guard(model, prompted.load_chat(config), folder)
    shutil.rmtree(work, ignore_errors=True)
    return folder
