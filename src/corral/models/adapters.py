"""Merging a LoRA adapter in peft's file format into a model, without importing peft.

A server or a guard that only runs a model needs the sum of weights, not the training library. Source: LoRA
(arXiv 2106.09685), W' = W + (alpha / r) B A; rank-stabilised scaling and DoRA are refused, not ignored.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from corral.core.errors import DataError
from corral.core.files import read_json

if TYPE_CHECKING:
    from torch import Tensor, nn

ADAPTER_WEIGHTS: Final = "adapter_model.safetensors"
ADAPTER_CONFIG: Final = "adapter_config.json"
_PREFIX: Final = "base_model.model."
_REFUSED: Final = ("use_rslora", "use_dora", "fan_in_fan_out", "rank_pattern", "alpha_pattern", "modules_to_save")


def merge_lora(model: nn.Module, folder: Path) -> None:
    """Add the adapter in ``folder`` to the weights of ``model``, in place.

    The sum is taken in float32 and rounded once to the dtype of the weight.

    Args:
        model: the module that the adapter was trained on (its parameter names without peft's prefix).
        folder: holds ``adapter_config.json`` and ``adapter_model.safetensors``.

    Raises:
        DataError: the adapter is not plain LoRA, or does not fit the model.
    """
    import torch
    from safetensors.torch import load_file

    config = read_json(folder / ADAPTER_CONFIG)
    for option in _REFUSED:
        if config.get(option):
            raise DataError(
                f"`{option}` is set; only plain LoRA can be merged here", where=str(folder / ADAPTER_CONFIG)
            )
    tensors = load_file(folder / ADAPTER_WEIGHTS)
    parameters = dict(model.named_parameters())
    scale = config["lora_alpha"] / config["r"]
    with torch.no_grad():
        for name, (a_RI, b_OR) in _pairs(tensors, folder).items():
            weight = parameters.get(f"{name}.weight")
            if weight is None or weight.shape != (b_OR.shape[0], a_RI.shape[1]):
                raise DataError(f"the model has no weight `{name}` of the adapter's shape", where=str(folder))
            weight.copy_(weight.float() + scale * (b_OR.float() @ a_RI.float()))


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
