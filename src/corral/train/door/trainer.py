"""Training with DOOR and W-DOOR, on TRL's ``SFTTrainer`` with a loss of our own; no model is patched.

Source: arXiv 2503.03710 and its released code; the loss is in ``objectives/dual_objective``. Each term is a sum over
tokens and a mean over the rows of its kind in the whole optimiser step, micro-batches and processes together.
Deviations from the released code: the weights of W-DOOR grow with what preference training made likelier, since the
paper's abstract says that it emphasises the tokens of refusal that are rewarded (that code's sign is the opposite); it
unlearns with the reference as DOOR does, where that code leaves it
out and divides by the length; the model that weighs is trained on whole answers, without harmful starts; the weights
are computed once, before the first step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import torch
from datasets import Dataset
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from trl import SFTConfig, SFTTrainer

from corral.core.errors import DataError
from corral.core.files import atomic_write_json
from corral.core.runs import Run
from corral.models.chat import ChatTokenizer
from corral.models.engines.torch import TorchEngine
from corral.train.derta.rows import Example, OnReject
from corral.train.door.rows import KINDS, BuiltDoorRows, DoorRow, build_door_rows
from corral.train.door.settings import DoorConfig
from corral.train.dpo import train_dpo
from corral.train.fine_tuning import (
    FineTuned,
    TokenisedTrainer,
    batches_of,
    kept_stage,
    load_chat,
    prepare_model,
    trl_arguments,
)
from corral.train.objectives.dual_objective import refusal_loss, token_weights, unlearning_loss
from corral.train.sft import IGNORED

RECORD: Final = "door.json"
"""Among a run's artefacts: rows and targets by kind, and how the loss is divided."""
NORMALISATION: Final = "rows of each kind in the optimiser step, over micro-batches and processes"
_UNLEARN: Final = KINDS.index("unlearn")
_OURS: Final = ("kinds", "weights", "reference")


def train_door(
    examples: Sequence[tuple[str, Example]],
    base: str,
    config: DoorConfig,
    output: Path,
    *,
    run: Run | None = None,
    on_reject: OnReject | None = None,
) -> FineTuned:
    """Train, resuming from the newest whole checkpoint under ``output``; the same input gives the same bits.

    Args:
        examples: triples and help examples, each with where it is from (see ``rows.build_door_rows``).
        base: model reference; the reference of unlearning as well.
        config: settings.
        output: checkpoint folder; of W-DOOR also the model that weighs.
        run: takes losses and rows by kind, step by step, and the record of the rows.
        on_reject: is told of examples that cannot be used; without it, the first one raises.

    Raises:
        NotFoundError: nothing at ``base``.
        ConfigError: one row longer than ``batch_tokens``, or settings that do not fit the base.
        DataError: an example that cannot be used, or no triple that leaves both rows a target.
    """
    chat = load_chat(base)
    built = build_door_rows(examples, chat, config, on_reject=on_reject)
    if not built.used:
        raise DataError("no triple gives its two rows", hint=f"Dropped: {dict(built.dropped)}. Raise `max_tokens`?")
    if run is not None:
        record = {"weighted": config.weighted, "normalisation": NORMALISATION, **built.account()}
        atomic_write_json(run.artefacts / RECORD, record)
    weights, references = _scored(built, base, config, chat=chat, output=output)
    batches = batches_of([len(row.input_ids) for row in built.rows], config)
    tuned = prepare_model(base, config)
    trainer = _DoorTrainer(
        run=run,
        sampler=batches,
        settings=config,
        model=tuned.model,
        args=SFTConfig(**{**trl_arguments(config, output, batches=len(batches)), "logging_steps": 1}),
        train_dataset=Dataset.from_dict(
            {
                "input_ids": [row.input_ids for row in built.rows],
                "labels": [row.labels for row in built.rows],
                "kind": [KINDS.index(row.kind) for row in built.rows],
                "weights": weights,
                "reference": references,
            }
        ),
        data_collator=_Collator(int(chat.tokenizer.pad_token_id)),
        processing_class=chat.tokenizer,
    )
    trainer.train_resuming()
    return tuned


def _scored(
    built: BuiltDoorRows, base: str, config: DoorConfig, *, chat: ChatTokenizer, output: Path
) -> tuple[list[list[float]], list[float]]:
    """Weights of each row's targets, and the reference's log-likelihood of what is unlearnt, 0 for other rows."""
    weights = [[1.0] * len(row.target_ids) for row in built.rows]
    references = [0.0] * len(built.rows)
    reference = _engine(prepare_model(base, config), chat)
    unlearnt = _numbers(built.rows, "unlearn")
    for number, log_probs in zip(unlearnt, _log_probs(reference, built.rows, unlearnt, config), strict=True):
        references[number] = float(log_probs.sum())
    if config.weighted:
        refused = _numbers(built.rows, "refuse")
        before = _log_probs(reference, built.rows, refused, config)
        after = _log_probs(_engine(_weigher(built, base, config, chat, output), chat), built.rows, refused, config)
        for number, preferred_T, reference_T in zip(refused, after, before, strict=True):
            weights[number] = token_weights(preferred_T, reference_T, config.tau).tolist()
    return weights, references


def _weigher(built: BuiltDoorRows, base: str, config: DoorConfig, chat: ChatTokenizer, output: Path) -> FineTuned:
    """The base trained to prefer the safe answers, kept under ``output``."""
    folder = output / "weigher"
    settings = config.preference.after(config)
    kept = kept_stage(folder, config, chat, lambda: train_dpo(built.used, base, settings, folder / "checkpoints"))
    return prepare_model(str(kept), config) if config.full else prepare_model(base, config, adapter=kept)


def _engine(tuned: FineTuned, chat: ChatTokenizer) -> TorchEngine:
    return TorchEngine(tuned.model.eval(), chat)


def _numbers(rows: Sequence[DoorRow], kind: str) -> list[int]:
    return [number for number, row in enumerate(rows) if row.kind == kind]


def _log_probs(
    engine: TorchEngine, rows: Sequence[DoorRow], numbers: Sequence[int], config: DoorConfig
) -> list[Tensor]:
    """Log-probabilities of the targets of some rows, in the precision that training computes in."""
    pairs = [(rows[number].read_ids, rows[number].target_ids) for number in numbers]
    with torch.autocast(engine.model.device.type, torch.bfloat16, enabled=config.precision == "bf16"):
        scored = engine.token_logprobs(pairs)
    return [torch.tensor(each.logprobs) for each in scored]


class _Collator:
    """Pads rows on the right; padding is masked by place, never by id, since it may be the end-of-sequence token."""

    def __init__(self, pad_id: int) -> None:
        self._pad_id = pad_id

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """``input_ids``, ``attention_mask``, ``labels``, ``weights`` (B, T), ``kinds`` and ``reference`` (B,)."""
        ids = [torch.tensor(row["input_ids"]) for row in rows]
        labels = [torch.tensor(row["labels"]) for row in rows]
        weights = [_placed(each, row["weights"]) for each, row in zip(labels, rows, strict=True)]
        return {
            "input_ids": pad_sequence(ids, batch_first=True, padding_value=self._pad_id),
            "attention_mask": pad_sequence([torch.ones_like(each) for each in ids], batch_first=True),
            "labels": pad_sequence(labels, batch_first=True, padding_value=IGNORED),
            "weights": pad_sequence(weights, batch_first=True),
            "kinds": torch.tensor([row["kind"] for row in rows]),
            "reference": torch.tensor([row["reference"] for row in rows]),
        }


def _placed(labels_T: Tensor, weights: Sequence[float]) -> Tensor:
    """Weights in the places of their targets, 0 elsewhere."""
    placed_T = torch.zeros(len(labels_T))
    placed_T[labels_T != IGNORED] = torch.tensor(weights)
    return placed_T


class _DoorTrainer(TokenisedTrainer, SFTTrainer):  # type: ignore[misc]
    """TRL's trainer with the three terms of DOOR; each is logged at every step.

    Args:
        settings: of the method.
        arguments: as for the trainers after it.
    """

    loss_is_scaled_for_ga = True

    def __init__(self, *, settings: DoorConfig, **arguments: Any) -> None:
        self._door = settings
        self._sums_2K = torch.zeros(2, len(KINDS))
        super().__init__(**arguments)

    def _get_num_items_in_batch(self, batch_samples: list[Mapping[str, Tensor]], device: torch.device) -> Tensor | None:
        """Rows (K,) of each kind in the optimiser step, over all processes."""
        if not batch_samples:
            return None
        kinds = torch.cat([batch["kinds"] for batch in batch_samples])
        counts_K = torch.bincount(kinds, minlength=len(KINDS)).to(device)
        total_K: Tensor = self.accelerator.reduce(counts_K, "sum")
        return total_K

    def compute_loss(
        self,
        model: Any,
        inputs: Mapping[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | None = None,
    ) -> Any:
        """The terms over the counts of their rows, each with its share."""
        read = {name: tensor for name, tensor in inputs.items() if name not in _OURS}
        outputs = model(**read, use_cache=False, fused_lm_head=True)
        losses_B = self._losses(outputs.log_probs, inputs)
        kinds_B = inputs["kinds"]
        counts_K = torch.bincount(kinds_B, minlength=len(KINDS))
        sums_K = losses_B.new_zeros(len(KINDS)).index_add(0, kinds_B, losses_B)
        self._sums_2K += torch.stack([sums_K.detach().float(), counts_K.float()]).cpu()
        of_step_K = counts_K if num_items_in_batch is None else num_items_in_batch
        shares_K = sums_K.new_tensor([1 - self._door.share, self._door.share, self._door.share])
        # Counts are global and data-parallel training averages gradients, so undo that average.
        loss = (shares_K * sums_K / of_step_K.clamp(min=1)).sum() * self.accelerator.num_processes
        return (loss, outputs) if return_outputs else loss

    def _losses(self, log_probs_BT: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
        """The loss of each row, by its kind."""
        likelihood_B = refusal_loss(log_probs_BT, inputs["weights"][:, 1:])
        unlearning_B = unlearning_loss(log_probs_BT.sum(dim=-1) - inputs["reference"], self._door.beta)
        return torch.where(inputs["kinds"] == _UNLEARN, unlearning_B, likelihood_B)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """What the trainer logs, with the loss a row and the rows by kind."""
        if "loss" in logs:
            sums_K, rows_K = self.accelerator.reduce(self._sums_2K.to(self.accelerator.device), "sum").cpu().tolist()
            self._sums_2K.zero_()
            for kind, total, rows in zip(KINDS, sums_K, rows_K, strict=True):
                logs[f"rows/{kind}"] = rows
                if rows:
                    logs[f"loss/{kind}"] = total / rows
        super().log(logs, start_time)
