"""Direct preference optimisation of a chat model, on TRL's ``DPOTrainer``.

Source: Rafailov et al., arXiv 2305.18290, equation 7:
``-log sigmoid(beta * ([log pi(c|x) - log ref(c|x)] - [log pi(r|x) - log ref(r|x)]))``. The reference is the model as it
comes in, an adapter included; its log-probabilities are computed once, before the first step.

Deviations from TRL: the loss is divided by the pairs of the whole optimiser step, so batches of unequal size weigh by
their pairs. The optional likelihood of the chosen side stays TRL's mean over the tokens of a batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from trl import DPOConfig as TrlDpoConfig
from trl import DPOTrainer

from corral.core.progress import progress
from corral.core.runs import Run
from corral.data.examples import PreferenceExample
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
from corral.train.fine_tuning_settings import DpoConfig
from corral.train.sampler import TokenBudgetSampler


@dataclass(frozen=True, slots=True)
class DpoRow:
    """Token ids of a prompt and of the two completions."""

    prompt_ids: list[int]
    chosen_ids: list[int]
    rejected_ids: list[int]

    @property
    def tokens(self) -> int:
        """What the pair takes of a batch, which holds both sides, padded to the longer one."""
        return 2 * (len(self.prompt_ids) + max(len(self.chosen_ids), len(self.rejected_ids)))


def encode_preferences(rows: Sequence[PreferenceExample], chat: ChatTokenizer, *, max_tokens: int) -> list[DpoRow]:
    """Ids of each row, in order.

    Raises:
        DataError: see ``fine_tuning.encode_pair``; names the row's index and side.
    """
    encoded = []
    for index, row in enumerate(rows):
        where = f"rows[{index}]"
        prompt, chosen = encode_pair(
            row.prompt,
            row.chosen,
            chat,
            complete=row.chosen_complete,
            max_tokens=max_tokens,
            where=f"{where}.chosen",
        )
        _, rejected = encode_pair(
            row.prompt,
            row.rejected,
            chat,
            complete=row.rejected_complete,
            max_tokens=max_tokens,
            where=f"{where}.rejected",
        )
        encoded.append(DpoRow(prompt, chosen, rejected))
    return encoded


def train_dpo(
    rows: Sequence[PreferenceExample],
    base: str,
    config: DpoConfig,
    output: Path,
    *,
    adapter: Path | None = None,
    run: Run | None = None,
) -> FineTuned:
    """Train, resuming from the newest whole checkpoint under ``output``; the same rows and settings give the same bits.

    Args:
        rows: prompts with a preferred and a dispreferred completion.
        base: model reference.
        config: settings; ``batch_tokens`` counts both sides.
        output: checkpoint folder.
        adapter: folder of an adapter of ``base`` whose training goes on; the reference has it too.
        run: takes losses, rewards and the log-probabilities of both sides.

    Raises:
        NotFoundError: nothing at ``base``.
        ConfigError: no rows, one longer than ``batch_tokens``, or settings that do not fit the base.
        DataError: a row that cannot be encoded.
    """
    chat = load_chat(base)
    encoded = encode_preferences(rows, chat, max_tokens=config.max_tokens)
    batches = batches_of([row.tokens for row in encoded], config)
    tuned = prepare_model(base, config, adapter=adapter)
    weighted = config.chosen_nll_weight > 0
    trainer = _DpoTrainer(
        run=run,
        sampler=batches,
        model=tuned.model,
        args=TrlDpoConfig(
            **trl_arguments(config, output, batches=len(batches)),
            beta=config.beta,
            loss_type=["sigmoid", "sft"] if weighted else ["sigmoid"],
            loss_weights=[1.0, config.chosen_nll_weight] if weighted else None,
            precompute_ref_log_probs=True,
        ),
        train_dataset=Dataset.from_dict(
            {
                "prompt_ids": [row.prompt_ids for row in encoded],
                "chosen_ids": [row.chosen_ids for row in encoded],
                "rejected_ids": [row.rejected_ids for row in encoded],
            }
        ),
        processing_class=chat.tokenizer,
    )
    trainer.train_resuming()
    return tuned


class _DpoTrainer(TokenisedTrainer, DPOTrainer):  # type: ignore[misc]
    """TRL's loss and metrics under our loop of batches; the loss is a mean over the pairs of an optimiser step."""

    loss_is_scaled_for_ga = True

    def _precompute_ref_logps(self, dataset: Dataset, name: str, batch_size: int) -> Dataset:
        """The log-probabilities of both sides under the model as it came in, in the batches of one epoch."""
        lengths = [DpoRow(**row).tokens for row in dataset]
        once = list(TokenBudgetSampler(lengths, max_tokens=self.sampler.max_tokens, epochs=1, seed=0))
        self.model.eval()
        found: dict[int, tuple[float, float]] = {}
        for indices in progress(once, "Scoring with the reference"):
            batch = self.data_collator([dataset[index] for index in indices])
            inputs = {key: value.to(self.accelerator.device) for key, value in batch.items()}
            chosen, rejected = self.compute_ref_log_probs(self.model, inputs)
            found |= dict(zip(indices, zip(chosen.tolist(), rejected.tolist(), strict=True), strict=True))
        scored = [found[index] for index in range(len(dataset))]
        return Dataset.from_dict(
            {
                **dataset.to_dict(),
                "ref_chosen_logps": [chosen for chosen, _ in scored],
                "ref_rejected_logps": [rejected for _, rejected in scored],
            }
        )

    def _get_num_items_in_batch(self, batch_samples: list[Mapping[str, Tensor]], device: torch.device) -> Tensor | None:
        """Pairs of the optimiser step, over all processes."""
        if not batch_samples:
            return None
        pairs = torch.tensor(sum(len(batch["input_ids"]) // 2 for batch in batch_samples), device=device)
        total: Tensor = self.accelerator.gather(pairs).sum()
        return total

    def compute_loss(
        self,
        model: Any,
        inputs: Mapping[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | None = None,
    ) -> Any:
        found = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        if num_items_in_batch is None:
            return found
        pairs = len(inputs["input_ids"]) // 2
        # The count is global and data-parallel training averages gradients, so undo that average.
        share = pairs / num_items_in_batch * self.accelerator.num_processes
        return (found[0] * share, found[1]) if return_outputs else found * share
