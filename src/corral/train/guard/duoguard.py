"""Training DuoGuard's classifier: twelve scores at the last token of a small decoder (arXiv 2502.05163).

Writes a sequence classifier that ``guards.duoguard.DuoGuard`` loads, as it does the published checkpoints. The loss is
the log-sum-exp loss of ``objectives/zlpr`` (theirs), or binary cross entropy to compare it with. LoRA on the upper
layers and a fresh head, where the paper trains all weights (``full``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor, nn
from transformers import set_seed

from corral.core.errors import DataError
from corral.core.files import atomic_directory
from corral.core.runs import Run
from corral.data.examples import ModerationExample
from corral.guards.duoguard import duoguard_codes, sequence_prefix
from corral.models.batching import pad
from corral.models.loading import load_fast_tokenizer, load_tokenizer
from corral.models.plain_text import PlainTextEncoder
from corral.train.guard.arguments import training_arguments
from corral.train.guard.duoguard_labels import duoguard_labels, is_labelled
from corral.train.guard.duoguard_settings import DuoGuardTrainingConfig
from corral.train.lora import with_lora
from corral.train.objectives.multi_label_bce import multi_label_bce
from corral.train.objectives.zlpr import zlpr_loss
from corral.train.plain_base import load_plain_base
from corral.train.sampler import TokenBudgetSampler
from corral.train.token_budget_trainer import RowDataset, TokenBudgetTrainer
from corral.train.trained_layers import mark_trained_layers

if TYPE_CHECKING:
    from transformers import LlamaForSequenceClassification

_LOSSES: Final = {"zlpr": zlpr_loss, "bce": multi_label_bce}


@dataclass(frozen=True, slots=True)
class EncodedText:
    """Token ids of one judged text and its labels (-100 unknown)."""

    ids: tuple[int, ...]
    labels: tuple[float, ...]


class DuoGuardNetwork(nn.Module):
    """A sequence classifier that pools by the attention mask.

    Args:
        classifier: decoder and head (``score``).
    """

    def __init__(self, classifier: LlamaForSequenceClassification) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Scores (B, K) at the last token of each row; rows (B, T) are padded on the right."""
        hidden_BTD = self.classifier.model(
            input_ids=input_ids, attention_mask=attention_mask, use_cache=False
        ).last_hidden_state
        last_B = attention_mask.sum(dim=1) - 1
        scores_BK: Tensor = self.classifier.score(hidden_BTD[torch.arange(len(last_B)), last_B])
        return scores_BK


def build_classifier(config: DuoGuardTrainingConfig) -> Any:
    """The base model with a fresh head, the weights to train marked: peft's model, or the classifier if ``full``.

    Raises:
        ConfigError: ``first_trained_layer`` leaves nothing to train, or the base is quantized.
    """
    from transformers import LlamaForSequenceClassification

    set_seed(config.seed)
    base = load_plain_base(config.base, layers=config.layers)
    codes = duoguard_codes()
    settings = type(base.config).from_dict(
        {
            **base.config.to_dict(),
            "id2label": dict(enumerate(codes)),
            "label2id": {code: index for index, code in enumerate(codes)},
        }
    )
    classifier = LlamaForSequenceClassification(settings)
    classifier.model.load_state_dict(base.model.state_dict())
    if config.full:
        mark_trained_layers(classifier, config.first_trained_layer)
        adapted = classifier
    else:
        adapted = with_lora(
            classifier,
            first_layer=config.first_trained_layer,
            rank=config.rank,
            alpha=config.alpha,
            targets=config.targets,
        )
    classifier.score.requires_grad_(True)
    return adapted


def encode_texts(rows: Sequence[ModerationExample], config: DuoGuardTrainingConfig) -> list[EncodedText]:
    """Token ids and labels of the rows that have a label, in order, as the guard reads them.

    Raises:
        DataError: no row has a label.
    """
    tokenizer = load_fast_tokenizer(config.base)
    prefix, text = sequence_prefix(tokenizer), PlainTextEncoder(tokenizer)
    encoded = [
        EncodedText((*prefix, *text.encode(row.text))[: config.max_tokens], tuple(duoguard_labels(row)))
        for row in rows
        if is_labelled(row) and row.text.strip()
    ]
    if not encoded:
        raise DataError("no training row has a label of a category", hint="Rows need a harm label and a category.")
    return encoded


def train_duoguard(
    rows: Sequence[ModerationExample], config: DuoGuardTrainingConfig, output: Path, *, run: Run | None = None
) -> LlamaForSequenceClassification:
    """Train, resuming from the newest whole checkpoint under ``output``; the same rows and settings give the same bits.

    Args:
        rows: labelled texts; those without a label are left out.
        config: settings.
        output: checkpoint folder.
        run: takes the loss curve.

    Returns:
        The classifier in float32, LoRA merged, in evaluation mode.

    Raises:
        ConfigError: settings that do not fit the base.
        DataError: no row has a label.
    """
    encoded = encode_texts(rows, config)
    adapted = build_classifier(config)
    classifier = adapted if config.full else adapted.base_model.model
    sampler = TokenBudgetSampler(
        [len(row.ids) for row in encoded], max_tokens=config.batch_tokens, epochs=config.epochs, seed=config.seed
    )
    trainer = _DuoGuardTrainer(
        run=run,
        sampler=sampler,
        loss=config.loss,
        model=DuoGuardNetwork(classifier),
        args=training_arguments(config, output, batches=len(sampler), schedule="cosine"),
        train_dataset=RowDataset(encoded),
        data_collator=collate,
    )
    trainer.train_resuming()
    trained: LlamaForSequenceClassification = adapted if config.full else adapted.merge_and_unload()
    return trained.eval()


def save_duoguard(classifier: LlamaForSequenceClassification, base: str, folder: Path) -> None:
    """Write the folder that ``DuoGuard.load(model=folder)`` reads; an existing one is replaced."""
    with atomic_directory(folder, replace=True) as staged:
        classifier.save_pretrained(staged)
        load_tokenizer(base).save_pretrained(staged)


def collate(rows: Sequence[EncodedText]) -> dict[str, Tensor]:
    """Right-padded ``input_ids`` and ``attention_mask`` (B, T), ``categories`` (B, K), and ``labels`` (B): 1 a row."""
    batch = pad([row.ids for row in rows], side="right")
    return {
        "input_ids": batch.input_ids_BT,
        "attention_mask": batch.attention_mask_BT,
        "categories": torch.tensor([row.labels for row in rows]),
        "labels": torch.ones(len(rows), dtype=torch.long),
    }


class _DuoGuardTrainer(TokenBudgetTrainer):
    def __init__(self, *, loss: str, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._loss = _LOSSES[loss]

    def summed_loss(self, model: Any, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        scores_BK = model(inputs["input_ids"], inputs["attention_mask"])
        return self._loss(scores_BK, inputs["categories"]).sum(), scores_BK
