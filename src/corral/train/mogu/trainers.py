"""The trainers of MoGU's stages: rows in batches under a token budget, losses that are means over the rows of a step.

The published code trains a row at a time and accumulates; each row weighs the same here too, whatever its batch. A loss
that is not finite ends the stage before the weights are touched: the checkpoints of before stay. (A gradient that is
not finite may still spoil the weights of the last of them; the sweep leaves such a checkpoint out.)

Legend: L layers, B rows, T tokens, R tokens of answers, V vocabulary.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import Tensor

from corral.core.errors import RunError
from corral.models.loading import quiet_transformers
from corral.models.routing.installing import Routing
from corral.train.mogu.settings import RatioConfig, RouterConfig
from corral.train.objectives.gate_penalty import gate_penalty
from corral.train.objectives.response_ratio import answer_cross_entropy, response_ratio
from corral.train.token_budget_trainer import TokenBudgetBatches

_MODEL_INPUTS: Final = ("input_ids_BT", "attention_mask_BT", "position_ids_BT")


class DivergedError(RunError):
    """A loss that is not finite."""


class RowMeanTrainer(TokenBudgetBatches, ABC):
    """Trains on a loss a row; that of an optimiser step is their mean, divided once by the global count."""

    loss_is_scaled_for_ga = True

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._figures: dict[str, list[float]] = {}

    @abstractmethod
    def row_losses(self, model: Any, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Loss of each row (B,), and figures to log, a value a row each."""

    @staticmethod
    @abstractmethod
    def count_rows(inputs: Mapping[str, Tensor]) -> int:
        """Rows of a batch."""

    def compute_loss(
        self,
        model: Any,
        inputs: Mapping[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | None = None,
    ) -> Any:
        """The rows' losses, summed, over the rows of the whole optimiser step.

        Raises:
            DivergedError: it is not finite.
        """
        del return_outputs
        losses_B, figures = self.row_losses(model, inputs)
        if not bool(losses_B.isfinite().all()):
            raise DivergedError(f"the loss is not finite in step {self.state.global_step + 1}")
        for name, values_B in figures.items():
            self._figures.setdefault(name, []).extend(values_B.detach().float().tolist())
        rows = len(losses_B) if num_items_in_batch is None else num_items_in_batch
        # The count is global and data-parallel training averages gradients, so undo that average.
        return losses_B.sum() / rows * self.accelerator.num_processes

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the means of the figures since the last time."""
        means = {name: sum(values) / len(values) for name, values in self._figures.items()}
        self._figures = {}
        super().log({**logs, **means}, start_time)

    def _get_num_items_in_batch(self, batch_samples: list[Mapping[str, Tensor]], device: torch.device) -> Tensor | None:
        """Rows of the optimiser step, over all processes."""
        if not batch_samples:
            return None
        rows = torch.tensor(sum(self.count_rows(batch) for batch in batch_samples), device=device)
        total: Tensor = self.accelerator.gather(rows).sum()
        return total

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        with quiet_transformers():
            super()._save(output_dir, state_dict)


class ExpertTrainer(RowMeanTrainer):
    """Stages 1 and 2: one expert, by the ratio of cross-entropies.

    Args:
        ratio: of the loss.
        arguments: as for ``TokenBudgetBatches``.
    """

    def __init__(self, *, ratio: RatioConfig, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._cap = ratio.denominator_cap

    def row_losses(self, model: Any, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Mapping[str, Tensor]]:
        """CE(learnt) / CE(avoided) of each row."""
        learnt_B, avoided_B = answer_losses(model, inputs).chunk(2)
        figures = {"ce_learnt": learnt_B, "ce_avoided": avoided_B}
        return response_ratio(learnt_B, avoided_B, cap=self._cap), figures

    @staticmethod
    def count_rows(inputs: Mapping[str, Tensor]) -> int:
        """Pairs; each is there twice."""
        return len(inputs["input_ids_BT"]) // 2


class RouterTrainer(RowMeanTrainer):
    """Stage 3: the routers, by the desired answer's cross-entropy and the penalty on the gates.

    Args:
        routing: of the model.
        router: settings of the loss.
        arguments: as for ``TokenBudgetBatches``.
    """

    def __init__(self, *, routing: Routing, router: RouterConfig, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._routing = routing
        self._router = router

    def row_losses(self, model: Any, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Mapping[str, Tensor]]:
        """CE(desired) + lambda * penalty of each row."""
        with self._routing.control.recorded() as gates:
            answer_B = answer_losses(model, inputs)
            layers = [gates[layer] for layer in self._routing.gated]
        penalty_B = gate_penalty(
            torch.stack([each.unwill_BT for each in layers]),
            torch.stack([each.glad_BT for each in layers]),
            inputs["malicious_B"],
            inputs["attention_mask_BT"].bool(),
            norm=self._router.penalty,
        )
        return answer_B + self._router.weight * penalty_B, {"ce_desired": answer_B, "gate_penalty": penalty_B}

    @staticmethod
    def count_rows(inputs: Mapping[str, Tensor]) -> int:
        """Rows."""
        return len(inputs["input_ids_BT"])


def answer_losses(model: Any, inputs: Mapping[str, Tensor]) -> Tensor:
    """Cross-entropy of each row's answer, (B,); the head is computed where answers are."""
    answer_tokens = inputs["targets_BR"].shape[1]
    ids, mask, positions = (inputs[name] for name in _MODEL_INPUTS)
    logits_BRV = model(
        input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False, logits_to_keep=answer_tokens + 1
    ).logits[:, :-1]
    return answer_cross_entropy(logits_BRV, inputs["targets_BR"], inputs["answer_mask_BR"])
