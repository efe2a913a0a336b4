"""Training a classifier guard: LoRA on the upper of the kept layers of a decoder, and heads over its hidden states.

Reads rows (``ModerationExample``), knows nothing of where they come from: mixtures belong to ``studies``. A row labels
some heads and leaves others unknown; the loss counts the known ones (``objectives/guard_heads``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import set_seed

from corral.core.errors import ConfigError, NotFoundError
from corral.core.runs import Run
from corral.data.examples import ModerationExample
from corral.guards.default.encoding import ConversationEncoder
from corral.guards.default.guard import HEAD_WEIGHTS
from corral.guards.default.network import GuardHeads, GuardNetwork, HeadLogits, category_codes
from corral.models.loading import load_backbone
from corral.train.guard.arguments import training_arguments
from corral.train.guard.classifier_labels import binary_labels, category_labels
from corral.train.guard.classifier_settings import GuardTrainingConfig
from corral.train.lora import load_lora, with_lora
from corral.train.objectives.guard_heads import guard_heads_loss
from corral.train.sampler import TokenBudgetSampler
from corral.train.token_budget_trainer import RowDataset, TokenBudgetTrainer
from corral.train.trained_layers import check_trained_layers


@dataclass(frozen=True, slots=True)
class EncodedRow:
    """Token ids of one row, the span of the judged message, and its labels (-100 unknown)."""

    ids: list[int]
    span: tuple[int, int]
    binary: list[float]
    categories: list[float]


def build_network(config: GuardTrainingConfig) -> GuardNetwork:
    """The base model's lower layers with fresh LoRA weights and heads; only those two take gradients.

    Raises:
        ConfigError: ``first_trained_layer`` leaves nothing to train.
    """
    check_trained_layers(config.first_trained_layer, config.layers)
    set_seed(config.seed)
    backbone = load_backbone(config.base, layers=config.layers, dtype=torch.float32)
    adapted = with_lora(backbone, first_layer=config.first_trained_layer, rank=config.rank, alpha=config.alpha)
    network = GuardNetwork(adapted, GuardHeads(backbone.config.hidden_size, len(category_codes())))
    if config.start_from is not None:
        _load_weights(network, config.start_from)
    return network


def _load_weights(network: GuardNetwork, folder: Path) -> None:
    """Put the adapter and the heads of the guard in ``folder`` into ``network``."""
    if not (folder / HEAD_WEIGHTS).is_file():
        raise NotFoundError(
            f"no `{HEAD_WEIGHTS}`", where=str(folder), hint="`start_from` is the `artefacts/guard` of a run, or a copy."
        )
    load_lora(network.backbone, folder)
    network.heads.load_state_dict(load_file(folder / HEAD_WEIGHTS))


def average_with(network: GuardNetwork, folder: Path, share: float) -> None:
    """Bring trained weights back towards those that the training began with: WiSE-FT (arXiv 2109.01903, equation 1).

    The paper averages whole weights; here each factor of a LoRA matrix is averaged by itself, so that the rank stays.

    Args:
        network: trained; its weights are changed.
        folder: of the guard that training went on from.
        share: of the trained weights in the average, alpha of the paper.
    """
    trained = {name: weight.detach().clone() for name, weight in network.named_parameters() if weight.requires_grad}
    _load_weights(network, folder)
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if name in trained:
                weight.lerp_(trained[name], share)


def load_encoder(config: GuardTrainingConfig) -> ConversationEncoder:
    """What turns rows into token ids for the base model."""
    return ConversationEncoder.for_base(config.base)


def encode_rows(
    rows: Sequence[ModerationExample], encoder: ConversationEncoder, config: GuardTrainingConfig
) -> list[EncodedRow]:
    """Token ids and labels of each row, in order.

    Training keeps the last ``max_context_tokens`` of the turns before the judged message and the first tokens of the
    message itself, within ``max_row_tokens``; a guard at work reads everything, in windows.
    """
    encoded = []
    codes = category_codes()
    tokens = encoder.encode_batch([(row.conversation, row.target) for row in rows])
    for row, judged in zip(rows, tokens, strict=True):
        if judged is None:
            raise ConfigError(f"row `{row.source}/{row.id}` has no {row.target} to judge")
        context = judged.context[-config.max_context_tokens :] if config.max_context_tokens else []
        opening = [*encoder.beginning, *context, *judged.header]
        text = judged.text[: config.max_row_tokens - len(opening) - len(judged.end)]
        ids = [*opening, *text, *judged.end]
        encoded.append(EncodedRow(ids, (len(opening), len(ids)), binary_labels(row), category_labels(row, codes)))
    return encoded


def train_guard(
    rows: Sequence[ModerationExample], config: GuardTrainingConfig, output: Path, *, run: Run | None = None
) -> GuardNetwork:
    """Train, resuming from the newest whole checkpoint under ``output``; the same rows and settings give the same bits.

    Args:
        rows: labelled rows; each has at least one known label.
        config: settings.
        output: checkpoint folder.
        run: takes the loss curve.
    """
    network = build_network(config)
    encoded = encode_rows(rows, load_encoder(config), config)
    sampler = TokenBudgetSampler(
        [len(row.ids) for row in encoded], max_tokens=config.batch_tokens, epochs=config.epochs, seed=config.seed
    )
    trainer = _GuardTrainer(
        run=run,
        sampler=sampler,
        category_weight=config.category_weight,
        model=network,
        args=training_arguments(config, output, batches=len(sampler), schedule="cosine"),
        train_dataset=RowDataset(encoded),
        data_collator=collate,
    )
    trainer.train_resuming()
    return network


def collate(rows: Sequence[EncodedRow]) -> dict[str, Tensor]:
    """Right-padded tensors: ``input_ids``, ``attention_mask``, ``span`` (B, T); ``binary``, ``categories``, ``labels``.

    ``labels`` is 1 for each known (row, head) pair and -100 otherwise: the trainer counts it over a whole optimiser
    step to normalise the loss.
    """
    width = max(len(row.ids) for row in rows)
    input_ids = torch.zeros(len(rows), width, dtype=torch.long)
    attention_mask = torch.zeros(len(rows), width, dtype=torch.long)
    span = torch.zeros(len(rows), width, dtype=torch.bool)
    for i, row in enumerate(rows):
        input_ids[i, : len(row.ids)] = torch.tensor(row.ids)
        attention_mask[i, : len(row.ids)] = 1
        span[i, row.span[0] : row.span[1]] = True
    binary = torch.tensor([row.binary for row in rows])
    categories = torch.tensor([row.categories for row in rows])
    known = torch.cat([binary >= 0, (categories >= 0).any(dim=1, keepdim=True)], dim=1)
    labels = torch.where(known, 1, -100)
    return {
        "input_ids": input_ids,
        "attention_mask": attention_mask,
        "span": span,
        "binary": binary,
        "categories": categories,
        "labels": labels,
    }


class _GuardTrainer(TokenBudgetTrainer):
    def __init__(self, *, category_weight: float, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._category_weight = category_weight

    def summed_loss(self, model: Any, inputs: Mapping[str, Tensor]) -> tuple[Tensor, HeadLogits]:
        logits: HeadLogits = model(inputs["input_ids"], inputs["attention_mask"], inputs["span"])
        total = guard_heads_loss(
            logits.binary,
            logits.categories,
            inputs["binary"],
            inputs["categories"],
            category_weight=self._category_weight,
        )
        return total, logits
