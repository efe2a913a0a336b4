"""Training some binary heads of a guard anew on its frozen trunk: every other output stays bit for bit what it was.

A head of ``GuardHeads`` reads the trunk's last states through a query and a linear layer of its own; the norm before
them, which all heads share, is frozen with the trunk. What a head knows is then only how to read states that others
have shaped: this corrects a head that its rows were too few for beside those of the others, at a cost of minutes.

Legend: B batch, T tokens, D hidden size.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import TrainingArguments

from corral.core.errors import ConfigError
from corral.core.runs import Run
from corral.guards.default.network import BINARY_HEADS, CATEGORY_HEAD, HEADS, GuardHeads, HeadLogits
from corral.train.arguments import trainer_arguments
from corral.train.guard.refit_settings import HeadRefitConfig
from corral.train.objectives.guard_heads import guard_heads_loss
from corral.train.sampler import TokenBudgetSampler
from corral.train.token_budget_trainer import RowDataset, TokenBudgetTrainer

_UNKNOWN = -100.0


@dataclass(frozen=True, slots=True)
class StateRow:
    """States (T, D) of one judged message, and the labels of the binary heads and the categories (-100 unknown)."""

    states: Tensor
    binary: list[float]
    categories: list[float]


def refit_heads(
    heads: GuardHeads,
    names: Sequence[str],
    rows: Sequence[StateRow],
    config: HeadRefitConfig,
    output: Path,
    *,
    run: Run | None = None,
) -> GuardHeads:
    """Train the named heads from where they are; the same rows and settings give the same bits, killed or not.

    Args:
        heads: of the guard; not changed.
        names: of ``HEADS``.
        rows: those without a label of a named head are left out.
        config: settings.
        output: checkpoint folder.
        run: takes the loss curve.

    Returns:
        Heads of which the named ones are new and all other numbers are those of ``heads``.

    Raises:
        ConfigError: a name is not that of a head, or no row has a label of one.
    """
    columns, categories = _columns(names), CATEGORY_HEAD in names
    labelled = [kept for row in rows if _says_something(kept := _only(row, columns, categories=categories))]
    if not labelled:
        raise ConfigError(f"no row says anything about {', '.join(names)}", where="refit.mixture")
    trained = _trainable(copy.deepcopy(heads), categories=categories)
    sampler = TokenBudgetSampler(
        [len(row.states) for row in labelled], max_tokens=config.batch_tokens, epochs=config.epochs, seed=config.seed
    )
    arguments = trainer_arguments(config, output, batches=len(sampler), schedule="cosine")
    trainer = _RefitTrainer(
        run=run,
        sampler=sampler,
        model=trained,
        args=TrainingArguments(**arguments, label_names=["labels"]),
        train_dataset=RowDataset(labelled),
        data_collator=collate_states,
    )
    trainer.train_resuming()
    return trained


def _columns(names: Sequence[str]) -> list[int]:
    if unknown := [name for name in names if name not in HEADS]:
        raise ConfigError(f"no head is called `{unknown[0]}`", where="refit.heads", hint=f"{', '.join(HEADS)}.")
    return [BINARY_HEADS.index(name) for name in names if name != CATEGORY_HEAD]


def _only(row: StateRow, columns: Sequence[int], *, categories: bool) -> StateRow:
    """The row without labels of other heads."""
    binary = [label if i in columns else _UNKNOWN for i, label in enumerate(row.binary)]
    return StateRow(row.states, binary, row.categories if categories else [_UNKNOWN] * len(row.categories))


def _says_something(row: StateRow) -> bool:
    return any(label >= 0 for label in (*row.binary, *row.categories))


def _trainable(heads: GuardHeads, *, categories: bool) -> GuardHeads:
    """The heads with gradients in what binary heads have of their own, and in what the category head has.

    A head without a known label gets gradients of exactly zero, and without weight decay an element whose gradient is
    always zero stays as it is: rows of heads that are not named do not move.
    """
    heads.requires_grad_(False)
    for parameter in (heads.query, heads.binary, heads.binary_bias):
        parameter.requires_grad_(True)
    heads.categories.requires_grad_(categories)
    return heads


def collate_states(rows: Sequence[StateRow]) -> dict[str, Tensor]:
    """Right-padded ``states`` (B, T, D) in float32 and ``span`` (B, T); ``binary``, ``categories``, ``labels``.

    ``labels`` (B, heads) is 1 for each known (row, head) pair, the categories together being one, and -100 otherwise,
    as the trainer counts them.
    """
    states = torch.nn.utils.rnn.pad_sequence([row.states.float() for row in rows], batch_first=True)
    lengths = torch.tensor([len(row.states) for row in rows])
    binary = torch.tensor([row.binary for row in rows])
    categories = torch.tensor([row.categories for row in rows])
    known = torch.cat([binary >= 0, (categories >= 0).any(dim=1, keepdim=True)], dim=1)
    return {
        "states": states,
        "span": torch.arange(states.shape[1]) < lengths[:, None],
        "binary": binary,
        "categories": categories,
        "labels": torch.where(known, 1, -100),
    }


class _RefitTrainer(TokenBudgetTrainer):
    def summed_loss(self, model: Any, inputs: Mapping[str, Tensor]) -> tuple[Tensor, HeadLogits]:
        logits: HeadLogits = model(inputs["states"], inputs["span"])
        return guard_heads_loss(logits.binary, logits.categories, inputs["binary"], inputs["categories"]), logits
