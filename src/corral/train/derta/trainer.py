"""Training of DeRTa's arms, on TRL's ``SFTTrainer`` with labels of our own; no model is patched.

Source: arXiv 2407.09121. The loss is the sum of the cross-entropies of all targets over their count in the whole
optimiser step, micro-batches and processes together: with weight 1 each part weighs by its share of tokens. (Trainers
that divide every micro-batch by its own count give transition rows another share.) With ``rto.weight`` w, the losses of
transition rows are multiplied by w before the same division. Rows are never packed: one's harmful answer would be
context of the next.

Arm ``dpo`` trains ``vanilla`` first and then prefers the safe answer to the harmful one (``train/dpo``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import torch
from datasets import Dataset
from torch import Tensor
from torch.utils.data import DataLoader
from trl import SFTConfig, SFTTrainer

from corral.core.errors import DataError
from corral.core.files import atomic_write_json
from corral.core.progress import milestone
from corral.core.runs import Run
from corral.data.examples import PreferenceExample
from corral.models.chat import ChatTokenizer
from corral.train.derta.collator import KINDS_KEY, BatchesByEpoch, DertaCollator, RowsByEpoch
from corral.train.derta.rows import KINDS, BuiltRows, Example, OnReject, build_rows
from corral.train.derta.settings import DertaConfig
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
from corral.train.objectives.refusal import RefusalToken, resolve_refusal_token

RECORD: Final = "derta.json"
"""Among a run's artefacts: refusal token, rows and targets by kind, and how the loss is divided."""
NORMALISATION: Final = "targets of the optimiser step, over micro-batches and processes"


def train_derta(
    examples: Sequence[tuple[str, Example]],
    base: str,
    config: DertaConfig,
    output: Path,
    *,
    run: Run | None = None,
    on_reject: OnReject | None = None,
) -> FineTuned:
    """Train an arm, resuming from the newest whole checkpoint under ``output``; the same input gives the same bits.

    Args:
        examples: triples and help examples, each with where it is from (see ``rows.build_rows``).
        base: model reference.
        config: arm and settings.
        output: checkpoint folder.
        run: takes losses and tokens by kind, step by step, and the record of the rows; of arm ``dpo`` the losses of
            its second stage.
        on_reject: is told of examples that cannot be used; without it, the first one raises.

    Raises:
        NotFoundError: nothing at ``base``.
        ConfigError: no rows, one longer than ``batch_tokens``, or settings that do not fit the base.
        DataError: an example that cannot be used, or one that is left without a target.
    """
    chat = load_chat(base)
    token = resolve_refusal_token(chat, config.refusal.word, config.refusal.variant)
    if not token.whole:
        milestone(f"`{token.word}` is several tokens; its first piece `{token.text}` stands for refusal")
    built = build_rows(examples, chat, config, token.id, on_reject=on_reject)
    if not built.rows:
        raise DataError("no example gives a row", hint=f"Dropped: {dict(built.dropped)}. Raise `max_tokens`?")
    _keep_record(run, config, token, built)
    if config.arm != "dpo":
        return _fine_tune(built, base, config, chat=chat, output=output, run=run)
    return _prefer(examples, built, base, config, chat=chat, output=output, run=run)


def _fine_tune(
    built: BuiltRows, base: str, config: DertaConfig, *, chat: ChatTokenizer, output: Path, run: Run | None
) -> FineTuned:
    rows = built.rows
    batches = batches_of([len(row.input_ids) for row in rows], config)
    tuned = prepare_model(base, config)
    trainer = _DertaTrainer(
        run=run,
        sampler=batches,
        rows=RowsByEpoch(rows),
        transition_weight=config.rto.weight,
        model=tuned.model,
        args=SFTConfig(**{**trl_arguments(config, output, batches=len(batches)), "logging_steps": 1}),
        train_dataset=Dataset.from_dict(
            {"input_ids": [row.input_ids for row in rows], "labels": [row.labels for row in rows]}
        ),
        data_collator=DertaCollator(int(chat.tokenizer.pad_token_id), config.rto, config.seed),
        processing_class=chat.tokenizer,
    )
    trainer.train_resuming()
    return tuned


def _prefer(
    examples: Sequence[tuple[str, Example]],
    built: BuiltRows,
    base: str,
    config: DertaConfig,
    *,
    chat: ChatTokenizer,
    output: Path,
    run: Run | None,
) -> FineTuned:
    """Arm ``dpo``: the vanilla arm, kept under ``output``, and preference pairs from there."""
    folder = output / "vanilla"
    # without the run, whose log the second stage begins anew
    begun = kept_stage(
        folder,
        config,
        chat,
        lambda: _fine_tune(built, base, config, chat=chat, output=folder / "checkpoints", run=None),
    )
    used = {row.row_id.partition("/")[0] for row in built.rows}
    pairs = [
        example
        for number, (_, example) in enumerate(examples)
        if isinstance(example, PreferenceExample) and str(number) in used
    ]
    source, adapter = (str(begun), None) if config.full else (base, begun)
    return train_dpo(pairs, source, config.dpo.after(config), output / "dpo", adapter=adapter, run=run)


def _keep_record(run: Run | None, config: DertaConfig, token: RefusalToken, built: BuiltRows) -> None:
    if run is not None:
        record = {"arm": config.arm, "refusal_token": token.to_json(), "normalisation": NORMALISATION}
        atomic_write_json(run.artefacts / RECORD, {**record, **built.account()})


class _DertaTrainer(TokenisedTrainer, SFTTrainer):  # type: ignore[misc]
    """TRL's trainer over labels of our own; losses and tokens by kind are logged at every step.

    Args:
        rows: under (epoch, index).
        transition_weight: of the losses of transition rows.
        arguments: as for the trainers after it.
    """

    loss_is_scaled_for_ga = True

    def __init__(self, *, rows: RowsByEpoch, transition_weight: float, **arguments: Any) -> None:
        self._rows = rows
        self._weights_K = torch.tensor([transition_weight if kind == "rto" else 1.0 for kind in KINDS])
        self._sums_2K = torch.zeros(2, len(KINDS))
        super().__init__(**arguments)

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Batches in the sampler's order, the collator being told the epoch."""
        loader: DataLoader[Any] = DataLoader(
            self._rows, batch_sampler=BatchesByEpoch(self.sampler), collate_fn=self.data_collator
        )
        prepared: DataLoader[Any] = self.accelerator.prepare(loader)
        return prepared

    def compute_loss(
        self,
        model: Any,
        inputs: Mapping[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | None = None,
    ) -> Any:
        """Weighted negative log-likelihood of the targets over their global count."""
        kinds_B = inputs[KINDS_KEY]
        read = {name: tensor for name, tensor in inputs.items() if name != KINDS_KEY}
        outputs = model(**read, use_cache=False, fused_lm_head=True)
        nll_B = -outputs.log_probs.sum(dim=-1)  # zero at ignored places
        tokens_B = outputs.label_mask.sum(dim=-1)
        self._tally(kinds_B, nll_B.detach(), tokens_B)
        total = (nll_B * self._weights_K.to(nll_B.device)[kinds_B]).sum()
        count = tokens_B.sum() if num_items_in_batch is None else num_items_in_batch
        # The count is global and data-parallel training averages gradients, so undo that average.
        loss = total / count * self.accelerator.num_processes
        return (loss, outputs) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """What the trainer logs, with loss a token, tokens by kind, and the transition rows' share of the tokens."""
        if "loss" in logs:
            logs |= self._by_kind()
        super().log(logs, start_time)

    def _tally(self, kinds_B: Tensor, nll_B: Tensor, tokens_B: Tensor) -> None:
        values_2B = torch.stack([nll_B.float(), tokens_B.float()]).cpu()
        self._sums_2K.index_add_(1, kinds_B.cpu(), values_2B)

    def _by_kind(self) -> dict[str, float]:
        nll_K, tokens_K = self.accelerator.reduce(self._sums_2K.to(self.accelerator.device), "sum").cpu()
        self._sums_2K.zero_()
        found: dict[str, float] = {}
        for kind, nll, tokens in _by_name(nll_K, tokens_K):
            found[f"tokens/{kind}"] = tokens
            if tokens:
                found[f"loss/{kind}"] = nll / tokens
        found["rto_share"] = found["tokens/rto"] / max(float(tokens_K.sum()), 1.0)
        return found


def _by_name(nll_K: Tensor, tokens_K: Tensor) -> Iterable[tuple[str, float, float]]:
    return zip(KINDS, nll_K.tolist(), tokens_K.tolist(), strict=True)
