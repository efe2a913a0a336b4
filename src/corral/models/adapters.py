"""Merging a LoRA adapter in peft's file format into a model, without importing peft.

A server or a guard that only runs a model needs the sum of weights, not the training library. Source: LoRA
(arXiv 2106.09685), W' = W + (alpha / r) B A; rank-stabilised scaling and DoRA are refused, not ignored.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from corral.core.errors import DataError, NotFoundError
from corral.core.files import read_json

if TYPE_CHECKING:
    from torch import Tensor, nn

ADAPTER_WEIGHTS: Final = "adapter_model.safetensors"
ADAPTER_CONFIG: Final = "adapter_config.json"
_LAYER: Final = re.compile(r"(?:^|\.)layers\.(\d+)\.")
_PREFIX: Final = "base_model.model."
_REFUSED: Final = ("use_rslora", "use_dora", "fan_in_fan_out", "rank_pattern", "alpha_pattern", "modules_to_save")


@dataclass(frozen=True)
class Lora:
    """An adapter that was read.

    Attributes:
        folder: it is from.
        scale: alpha over rank.
        pairs: module name, without peft's prefix, to its A (R, I) and B (O, R).
    """

    folder: Path
    scale: float
    pairs: Mapping[str, tuple[Tensor, Tensor]]

    def merged(self, module: str, weight_OI: Tensor) -> Tensor:
        """The weight of a module with what the adapter adds, summed in float32; itself where there is nothing to add.

        Raises:
            DataError: the shapes do not fit.
        """
        if module not in self.pairs:
            return weight_OI
        a_RI, b_OR = self.pairs[module]
        if weight_OI.shape != (b_OR.shape[0], a_RI.shape[1]):
            raise _misfit(module, self.folder)
        return weight_OI.float() + self.scale * (b_OR.float() @ a_RI.float())


def read_lora(folder: Path) -> Lora:
    """The adapter in a folder that holds ``adapter_config.json`` and ``adapter_model.safetensors``.

    Raises:
        NotFoundError: it does not.
        DataError: the adapter is not plain LoRA.
    """
    from safetensors.torch import load_file

    config = read_json(folder / ADAPTER_CONFIG)
    for option in _REFUSED:
        if config.get(option):
            raise DataError(
                f"`{option}` is set; only plain LoRA can be merged here", where=str(folder / ADAPTER_CONFIG)
            )
    if not (folder / ADAPTER_WEIGHTS).is_file():
        raise NotFoundError("there is no adapter", where=str(folder / ADAPTER_WEIGHTS))
    return Lora(folder, config["lora_alpha"] / config["r"], _pairs(load_file(folder / ADAPTER_WEIGHTS), folder))


def merge_lora(model: nn.Module, folder: Path) -> None:
    """Add the adapter in ``folder`` to the weights of ``model``, in place.

    The sum is taken in float32 and rounded once to the dtype of the weight.

    Args:
        model: the module that the adapter was trained on (its parameter names without peft's prefix).
        folder: see ``read_lora``.

    Raises:
        NotFoundError: there is no adapter.
        DataError: it is not plain LoRA, or does not fit the model.
    """
    import torch

    adapter = read_lora(folder)
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for module in adapter.pairs:
            weight = parameters.get(f"{module}.weight")
            if weight is None:
                raise _misfit(module, folder)
            weight.copy_(adapter.merged(module, weight))


def merged_tensors(
    tensors: Iterable[tuple[str, Tensor]], folder: Path, *, layers: int | None = None
) -> Iterator[tuple[str, Tensor]]:
    """Named float32 weights of a model, each with what the adapter in ``folder`` adds to it.

    Args:
        tensors: parameter names and weights.
        folder: see ``read_lora``.
        layers: the model holds only so many of the lowest; what the adapter adds to higher ones is left out.

    Raises:
        NotFoundError: there is no adapter.
        DataError: it is not plain LoRA, or does not fit the model.
    """
    adapter = read_lora(folder)
    left = {module for module in adapter.pairs if layers is None or _layer(module) < layers}
    for name, weight in tensors:
        module = name.removesuffix(".weight")
        left.discard(module)
        yield name, adapter.merged(module, weight)
    if left:
        raise _misfit(min(left), folder)


def _misfit(module: str, folder: Path) -> DataError:
    return DataError(f"the model has no weight `{module}` of the adapter's shape", where=str(folder))


def _layer(module: str) -> int:
    """Number of the decoder layer that a module is in; -1 for one outside of them."""
    found = _LAYER.search(module)
    return int(found[1]) if found else -1


def _pairs(tensors: dict[str, Tensor], folder: Path) -> dict[str, tuple[Tensor, Tensor]]:
    pairs = {}
    for key, a_RI in tensors.items():
        if not key.endswith((".lora_A.weight", ".lora_B.weight")):
            raise DataError(f"`{key}` is not a LoRA weight", where=str(folder / ADAPTER_WEIGHTS))
        if key.endswith(".lora_A.weight"):
            name = key.removeprefix(_PREFIX).removesuffix(".lora_A.weight")
            b_OR = tensors.get(key.replace(".lora_A.", ".lora_B."))
            if b_OR is None:
                raise DataError(f"`{key}` has no partner", where=str(folder / ADAPTER_WEIGHTS))
            pairs[name] = (a_RI, b_OR)
    return pairs
