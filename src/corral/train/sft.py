"""Supervised fine-tuning of a chat model on prompts and answers, on TRL's ``SFTTrainer``.

The loss is the cross-entropy of the answers' tokens, end of turn included, summed and divided once by their count over
the optimiser step; prompts are read, not learnt. LoRA on the upper layers, or the layers themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from datasets import Dataset
from trl import SFTConfig, SFTTrainer

from corral.core.runs import Run
from corral.data.examples import PromptCompletionExample
from corral.models.chat import ChatTokenizer
from corral.train.fine_tuning import (
    FineTuned,
    TokenisedTrainer,
    batches_of,
    encode_pair,
    load_chat,
    prepare_model,
    trl_arguments,
)
from corral.train.fine_tuning_settings import SftConfig

IGNORED: Final = -100
"""Label of a token that is not in the loss."""


@dataclass(frozen=True, slots=True)
class SftRow:
    """Token ids of a prompt and its answer, and the label of each: its own id, or ``IGNORED``."""

    input_ids: list[int]
    labels: list[int]


def encode_completions(
    rows: Sequence[PromptCompletionExample], chat: ChatTokenizer, *, max_tokens: int
) -> list[SftRow]:
    """Ids and labels of each row, in order: the answer's tokens are learnt, the prompt's are not.

    Raises:
        DataError: see ``fine_tuning.encode_pair``; names the row's index.
    """
    encoded = []
    for index, row in enumerate(rows):
        prompt, answer = encode_pair(
            row.prompt, row.completion, chat, complete=row.complete, max_tokens=max_tokens, where=f"rows[{index}]"
        )
        encoded.append(SftRow([*prompt, *answer], [IGNORED] * len(prompt) + answer))
    return encoded


def train_sft(
    rows: Sequence[PromptCompletionExample],
    base: str,
    config: SftConfig,
    output: Path,
    *,
    adapter: Path | None = None,
    run: Run | None = None,
    prepare: Callable[[str, SftConfig], FineTuned] | None = None,
) -> FineTuned:
    """Train, resuming from the newest whole checkpoint under ``output``; the same rows and settings give the same bits.

    Args:
        rows: prompts with the answers to learn.
        base: model reference.
        config: settings.
        output: checkpoint folder.
        adapter: folder of an adapter of ``base`` whose training goes on.
        run: takes the loss curve.
        prepare: loads the base with other weights to train than ``prepare_model`` does, which takes ``adapter``.

    Raises:
        NotFoundError: nothing at ``base``.
        ConfigError: no rows, one longer than ``batch_tokens``, or settings that do not fit the base.
        DataError: a row that cannot be encoded.
    """
    chat = load_chat(base)
    encoded = encode_completions(rows, chat, max_tokens=config.max_tokens)
    batches = batches_of([len(row.input_ids) for row in encoded], config)
    tuned = prepare_model(base, config, adapter=adapter) if prepare is None else prepare(base, config)
    trainer = _SftTrainer(
        run=run,
        sampler=batches,
        model=tuned.model,
        args=SFTConfig(**trl_arguments(config, output, batches=len(batches))),
        train_dataset=Dataset.from_dict(
            {"input_ids": [row.input_ids for row in encoded], "labels": [row.labels for row in encoded]}
        ),
        processing_class=chat.tokenizer,
    )
    trainer.train_resuming()
    return tuned


class _SftTrainer(TokenisedTrainer, SFTTrainer):  # type: ignore[misc]
    """TRL's loss and metrics under our loop of batches."""
