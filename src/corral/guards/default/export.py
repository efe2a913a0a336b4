"""The English guard's decoder as an ordinary model directory: what is quantized, or run elsewhere, is made of it."""

from __future__ import annotations

from pathlib import Path

from corral.core.files import atomic_directory
from corral.guards.default.guard import ENGLISH_WEIGHTS, read_settings
from corral.models.adapters import merge_lora
from corral.models.loading import load_causal_lm, load_tokenizer, quiet_transformers


def write_decoder(out: Path, weights: Path | None = None) -> Path:
    """Write the lower layers that the guard reads, its adapter merged in float32, with the tokenizer; returns ``out``.

    Final norm and head are the base's and are not used by the guard: they make it a model that everything loads. The
    guard's own heads stay in its folder. Read back with ``EnglishGuard.load(decoder=out)``.

    Args:
        out: folder that does not exist.
        weights: folder of the guard; ``None`` for the packaged one.

    Raises:
        NotFoundError: a file of the guard is missing.
        MissingDependencyError: the base model is not installed.
        RunError: the folder exists.
    """
    import torch

    folder = weights or ENGLISH_WEIGHTS
    settings = read_settings(folder)
    model = load_causal_lm(settings.base, dtype=torch.float32, layers=settings.layers)
    merge_lora(model.base_model, folder)
    with atomic_directory(out) as staged, quiet_transformers():
        model.save_pretrained(staged)
        load_tokenizer(settings.base).save_pretrained(staged)
    return out
