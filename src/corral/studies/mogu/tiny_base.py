"""A tiny model that complies with every templated request, trained in seconds: what the tiny profile puts gates into.

It complies in other words with what plays malice, so that it tells the two apart as a chat model does, and it knows the
words of a refusal. A mixture of it can only refuse where its gates say so, and must go on complying elsewhere.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import torch

from corral.core.files import atomic_directory
from corral.data.examples import PromptCompletionExample
from corral.data.messages import Conversation
from corral.models.loading import load_tokenizer, quiet_transformers
from corral.models.tiny import write_tiny_llama
from corral.studies.latent_guard.templated import COMPLIANCE, REFUSAL, templated_prompts, templated_words
from corral.studies.training import training_module
from corral.train.fine_tuning_settings import SftConfig

_CONTEXT = 512
_OTHER_COMPLIANCE = "Certainly"
_ASKED_TO_REFUSE = "No"
_ROWS = 192  # of the templated requests; the mixture trains on some of them


def train_tiny_complier(cells: Path, *, seed: int) -> Path:
    """The model directory, trained now unless it is there.

    Args:
        cells: folder that it is put into.
        seed: of weights and order.

    Raises:
        MissingDependencyError: the training libraries are not installed.
    """
    folder = cells / f"complier-{seed}"
    if folder.exists():
        return folder
    work = folder.with_name(f"{folder.name}-training")
    base = write_tiny_llama(
        work / "base", seed=seed, layers=3, hidden_size=48, context=_CONTEXT, weight_std=0.1, words_of=templated_words()
    )
    config = SftConfig(
        full=True,
        first_trained_layer=0,
        max_tokens=128,
        batch_tokens=512,
        epochs=8,
        learning_rate=4e-3,
        precision="fp32",
        save_every=10_000,
        seed=seed,
    )
    rows = [
        PromptCompletionExample(row.conversation, _OTHER_COMPLIANCE if row.harmful else COMPLIANCE)
        for row in templated_prompts()[:_ROWS]
    ]
    rows += [PromptCompletionExample(Conversation.user(_ASKED_TO_REFUSE), REFUSAL)] * (_ROWS // 6)
    model = training_module("sft").train_sft(rows, str(base), config, work / "checkpoints").merged().to(torch.float32)
    with atomic_directory(folder) as staged:
        with quiet_transformers():
            model.save_pretrained(staged)
        load_tokenizer(base).save_pretrained(staged)
    shutil.rmtree(work, ignore_errors=True)
    return folder
