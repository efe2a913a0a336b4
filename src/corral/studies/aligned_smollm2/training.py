"""The base model's own answers, then supervised fine-tuning, then preference pairs: each resumed where it stopped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, TypeVar

import torch

from corral.core.files import sha256_json
from corral.core.progress import milestone
from corral.core.runs import Run
from corral.data.examples import ModerationExample, PreferenceExample, PromptCompletionExample, prompt_key
from corral.models.adapters import ADAPTER_CONFIG
from corral.models.engines.base import GenerationSettings
from corral.redteam.loading import open_engine
from corral.redteam.store import KEY, Store
from corral.studies.aligned_smollm2.rows import DrawnPrompts, OwnAnswer, preference_rows, tuning_rows
from corral.studies.aligned_smollm2.settings import AlignedConfig
from corral.studies.training import training_module

ADAPTER: Final = "adapter"
"""Folder of the trained adapter, among the artefacts of a run."""
_CELLS: Final = "cells"
_LEAST_ROOM: Final = 16

_Row = TypeVar("_Row", PromptCompletionExample, PreferenceExample)


def own_answers(prompts: Sequence[ModerationExample], config: AlignedConfig, folder: Path) -> dict[str, OwnAnswer]:
    """The base model's greedy answers by ``prompt_key``, kept in a journal under ``folder``."""
    texts = {prompt_key(row.text): row.conversation for row in prompts}
    settings = GenerationSettings(max_new_tokens=config.answers.max_new_tokens)
    with open_engine(config.base, dtype=config.dtype) as (engine, revision):

        def compute(keys: Sequence[str]) -> list[dict[str, object]]:
            written = engine.generate([texts[key] for key in keys], settings)
            return [
                {KEY: key, "answer": each.text, "complete": each.finish_reason == "stop"}
                for key, each in zip(keys, written, strict=True)
            ]

        fingerprint = {"base": revision, "max_new_tokens": settings.max_new_tokens}
        store = Store(folder, config.answers.batch_size)
        ordered = sorted(texts, key=lambda key: len(texts[key].messages[-1].text))
        rows = store.rows("own answers", fingerprint, ordered, compute)
    return {key: OwnAnswer(str(row["answer"]), bool(row["complete"])) for key, row in rows.items()}


def train(prompts: DrawnPrompts, config: AlignedConfig, run: Run) -> Path:
    """Train and write the adapter among the run's artefacts; returns its folder.

    Raises:
        MissingDependencyError: the training libraries are not installed.
    """
    final = run.artefacts / ADAPTER
    if (final / ADAPTER_CONFIG).is_file():
        return final
    answers = own_answers(prompts.to_answer, config, run.path / _CELLS)
    milestone(f"own answers: {len(answers)}, of which {sum(each.helps for each in answers.values())} help")
    tuned = _fine_tune(prompts, answers, config, run)
    rows = _that_fit(preference_rows(prompts, answers, config), config.base, config.dpo.max_tokens)
    milestone(f"preference pairs: {len(rows)}")
    shape = config.sft.model_dump(include={"first_trained_layer", "rank", "alpha"})
    settings = config.dpo.model_copy(update=shape)  # it goes on from the adapter of fine-tuning
    dpo = training_module("dpo")
    dpo.train_dpo(
        rows, config.base, settings, _folder(run, "dpo", config, len(rows)), adapter=tuned, run=run
    ).save_adapter(final, dtype=torch.bfloat16)
    return final


def _fine_tune(prompts: DrawnPrompts, answers: Mapping[str, OwnAnswer], config: AlignedConfig, run: Run) -> Path:
    """The adapter of supervised fine-tuning, in float32."""
    adapter = run.path / _CELLS / "tuned"
    if (adapter / ADAPTER_CONFIG).is_file():
        return adapter
    rows = _that_fit(tuning_rows(prompts, answers, config), config.base, config.sft.max_tokens)
    milestone(f"rows of fine-tuning: {len(rows)}")
    sft = training_module("sft")
    sft.train_sft(rows, config.base, config.sft, _folder(run, "sft", config, len(rows)), run=run).save_adapter(adapter)
    return adapter


def _that_fit(rows: Sequence[_Row], base: str, max_tokens: int) -> list[_Row]:
    """The rows whose prompt leaves room for an answer."""
    chat = training_module("fine_tuning").load_chat(base)
    kept = [row for row in rows if len(chat.encode_prompt(row.prompt)) + _LEAST_ROOM <= max_tokens]
    if len(kept) < len(rows):
        milestone(f"left out, since the prompt leaves no room within {max_tokens} tokens: {len(rows) - len(kept)} rows")
    return kept


def _folder(run: Run, stage: str, config: AlignedConfig, rows: int) -> Path:
    """Checkpoints of a stage; other settings have another folder."""
    return run.checkpoints / f"{stage}-{sha256_json([config.model_dump(mode='json'), rows])[:8]}"
