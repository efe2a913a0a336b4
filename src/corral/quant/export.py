"""Writing quantized models as folders, in one of three layouts.

- ``corral``: packed as ``models.quantized.folder`` describes; every method.
- ``compressed-tensors``: read by transformers as well, and with 4 and 8 bits by vLLM; uniform grids and W8A8.
- ``dequantized``: an ordinary model with the rounded weights, as large as it was; for programs that read no other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

import torch
from safetensors.torch import save_file
from torch import Tensor

from corral.core.errors import ConfigError
from corral.core.files import atomic_directory, atomic_write_json, read_json
from corral.models.quantized import AffineWeight, PackedWeight, compressed_tensors
from corral.models.quantized.affine import FULL_PRECISION
from corral.models.quantized.folder import COMPRESSED_FILE, MODEL_TYPES, PACKED_FILE, named_tensors, write_quantized

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

Layout = Literal["corral", "compressed-tensors", "dequantized"]
LAYOUTS: Final[tuple[Layout, ...]] = get_args(Layout)
SERVED_BITS: Final = (4, 8)
RECORD: Final = "quantization_record.json"
"""How the codes of a folder in a foreign layout were found."""


def check_layout(layout: Layout, weights: Mapping[str, PackedWeight]) -> None:
    """Whether a layout can hold the weights.

    Raises:
        ConfigError: it cannot.
    """
    if layout == "compressed-tensors" and (reason := _misfit(weights)):
        raise ConfigError(
            f"compressed-tensors has no layers like these: {reason}",
            where="layout",
            hint="Use `--layout corral`, or rtn, gptq (act_order with static_groups alone), awq or 8-bit smoothquant.",
        )
    if layout == "dequantized" and any(_rounds_inputs(weight) for weight in weights.values()):
        raise ConfigError(
            "an ordinary model does not round the inputs of its layers", where="layout", hint="Use `corral`."
        )


def check_architecture(layout: Layout | None, model_type: str) -> None:
    """Whether some program reads a layout of such a model, before any work.

    Raises:
        ConfigError: none does: packed layers are read in a Llama only, by transformers in others where the layout is
            compressed-tensors.
    """
    if model_type not in MODEL_TYPES and layout in (None, "corral"):
        raise ConfigError(
            f"packed layers of a `{model_type}` cannot be read, only those of a Llama",
            where="layout",
            hint="Use `--layout dequantized`, or `--layout compressed-tensors` for transformers.",
        )


@dataclass(frozen=True, slots=True)
class WrittenBytes:
    """What a weights' file holds.

    Attributes:
        file: its size.
        tensors: bytes of all tensors: the file without its header.
        layers: bytes of what is stored for the quantized layers.
    """

    file: int
    tensors: int
    layers: int


def choose_layout(weights: Mapping[str, PackedWeight]) -> Layout:
    """``compressed-tensors`` where transformers and vLLM read it, else ``corral``."""
    served = all(weight.nominal_bits in SERVED_BITS for weight in weights.values())
    return "compressed-tensors" if served and not _misfit(weights) else "corral"


def write_model(
    out: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    weights: Mapping[str, PackedWeight],
    *,
    layout: Layout,
    dtype: torch.dtype,
    about: Mapping[str, Any],
) -> WrittenBytes:
    """Write a new folder.

    Args:
        out: a folder that does not exist.
        model: with the packed layers in it.
        tokenizer: written beside it.
        weights: the packed layers by name.
        layout: see the module; for which ``check_layout`` holds.
        dtype: of everything that is not packed.
        about: how the codes were found; JSON.

    Raises:
        RunError: the folder exists.
    """
    others = other_tensors(model, weights, dtype)
    with atomic_directory(out) as staged:
        _write_config(staged, model, dtype)
        if layout == "corral":
            write_quantized(staged, weights, others, about=about)
            state = others | named_tensors(weights)
        else:
            compressed = layout == "compressed-tensors"
            state = others | (_compressed(weights) if compressed else _dequantized(weights, dtype))
            contiguous = {name: tensor.contiguous() for name, tensor in state.items()}
            save_file(contiguous, staged / COMPRESSED_FILE, {"format": "pt"})
            atomic_write_json(staged / RECORD, about)
            if compressed:
                affine = [weight for weight in weights.values() if isinstance(weight, AffineWeight)]
                _add_quantization(staged, compressed_tensors.quantization_config(affine, ignore=_plain_linears(model)))
        tokenizer.save_pretrained(staged)
    tensors = sum(tensor.nbytes for tensor in state.values())
    file = out / (PACKED_FILE if layout == "corral" else COMPRESSED_FILE)
    return WrittenBytes(
        file=file.stat().st_size,
        tensors=tensors,
        layers=tensors - sum(tensor.nbytes for tensor in others.values()),
    )


def other_tensors(model: PreTrainedModel, weights: Mapping[str, PackedWeight], dtype: torch.dtype) -> dict[str, Tensor]:
    """Every tensor of a model that is no part of a packed layer, by name; a tied head is left out."""
    packed = named_tensors(weights)
    tied = bool(getattr(model.config, "tie_word_embeddings", False))
    return {
        name: tensor.to(dtype) if tensor.is_floating_point() else tensor
        for name, tensor in model.state_dict().items()
        if name not in packed and not (tied and name == "lm_head.weight")
    }


def _misfit(weights: Mapping[str, PackedWeight]) -> str:
    """Why compressed-tensors cannot hold the weights; empty when it can."""
    affine = []
    for name, weight in weights.items():
        if not isinstance(weight, AffineWeight) or not compressed_tensors.can_express(weight):
            return f"`{name}` is `{weight.kind}` with {weight.nominal_bits:g} bits"
        affine.append(weight)
    return "" if compressed_tensors.have_one_scheme(affine) else "the layers differ in bits or groups"


def _rounds_inputs(weight: PackedWeight) -> bool:
    return isinstance(weight, AffineWeight) and weight.activation_bits < FULL_PRECISION


def _compressed(weights: Mapping[str, PackedWeight]) -> dict[str, Tensor]:
    return {
        f"{layer}.{name}": tensor
        for layer, weight in weights.items()
        if isinstance(weight, AffineWeight)
        for name, tensor in compressed_tensors.layer_tensors(weight).items()
    }


def _dequantized(weights: Mapping[str, PackedWeight], dtype: torch.dtype) -> dict[str, Tensor]:
    return {f"{layer}.weight": weight.dequantize().to(dtype) for layer, weight in weights.items()}


def _plain_linears(model: PreTrainedModel) -> list[str]:
    """Names of the Linears that stay as they are: the head, and blocks that were left alone."""
    return [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]


def _write_config(folder: Path, model: PreTrainedModel, dtype: torch.dtype) -> None:
    """``config.json``, which names the dtype of what is not packed, and generation settings where there are some."""
    model.config.save_pretrained(folder)
    config = read_json(folder / "config.json")
    config["dtype"] = str(dtype).removeprefix("torch.")
    config["architectures"] = [type(model).__name__]
    atomic_write_json(folder / "config.json", config)
    if model.generation_config is not None:
        model.generation_config.save_pretrained(folder)


def _add_quantization(folder: Path, quantization: Mapping[str, Any]) -> None:
    config = read_json(folder / "config.json")
    atomic_write_json(folder / "config.json", config | {"quantization_config": dict(quantization)})
