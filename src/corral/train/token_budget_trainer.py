"""A trainer over rows of different length in batches under a token budget; the loss divides once, by a global count."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Generic, TypeVar

from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from corral.train.sampler import TokenBudgetSampler
from corral.train.trainer import ResumableTrainer

Row = TypeVar("Row")


class RowDataset(Dataset[Row], Generic[Row]):
    """Rows in memory."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Row:
        return self._rows[index]


class TokenBudgetBatches(ResumableTrainer):
    """A trainer whose batches are those of a ``TokenBudgetSampler``; to stand before other trainers in the bases.

    Args:
        sampler: of rows of ``train_dataset``.
        arguments: as for the trainers after it.
    """

    def __init__(self, *, sampler: TokenBudgetSampler, **arguments: Any) -> None:
        self.sampler = sampler
        super().__init__(**arguments)

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Batches in the sampler's order."""
        loader: DataLoader[Any] = DataLoader(
            self.train_dataset, batch_sampler=_Batches(self.sampler), collate_fn=self.data_collator
        )
        prepared: DataLoader[Any] = self.accelerator.prepare(loader)
        return prepared


class _Batches(Sampler[list[int]]):
    """The sampler as torch's data loader wants it."""

    def __init__(self, sampler: TokenBudgetSampler) -> None:
        self._sampler = sampler

    def __len__(self) -> int:
        return len(self._sampler)

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self._sampler)


class TokenBudgetTrainer(TokenBudgetBatches, ABC):
    """Trains on summed losses that are divided once.

    A batch holds ``labels``: -100 for what the loss does not count. The trainer counts the others over a whole
    optimiser step, all micro-batches and processes.
    """

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.model_accepts_loss_kwargs = True  # makes the trainer count `labels` over the whole optimiser step

    @abstractmethod
    def summed_loss(self, model: Any, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Any]:
        """The sum of the losses over what ``labels`` counts, a scalar, and the model's outputs."""

    def compute_loss(
        self,
        model: Any,
        inputs: Mapping[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, Any]:
        """The summed loss over the global count."""
        total, outputs = self.summed_loss(model, inputs)
        count = num_items_in_batch if num_items_in_batch is not None else inputs["labels"].ne(-100).sum()
        # The count is global and data-parallel training averages gradients, so undo that average.
        loss = total / count * self.accelerator.num_processes
        return (loss, outputs) if return_outputs else loss
