"""Model folders with packed weights.

Besides the usual ``config.json`` and tokenizer such a folder holds

- ``packed.safetensors``: every tensor that is not packed under its usual name, and for each packed layer its tensors as
  ``<layer>.<tensor>``, for example ``model.layers.0.mlp.up_proj.codes``. It is not called ``model.safetensors`` so that
  other programs find no weights, instead of filling what they do not find in it with random numbers;
- ``quantization.json``: ``schema_version``, ``layers`` (name of each packed layer to its ``kind``, its numbers and the
  names of its ``tensors``: a file that has lost one of them is not read as a format without it; the formats are the
  classes beside this file, integers are packed as in ``bitstream``), ``bits`` (see ``quantized_bits``), and ``method``
  and ``calibration``, which say how the codes were found and are not needed to run them.

Folders in the format of compressed-tensors, whose weights are in ``model.safetensors``, are read as well
(``compressed_tensors``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from safetensors.torch import load_file, save_file
from torch import Tensor

from corral.core.errors import DataError, NotFoundError
from corral.core.files import atomic_write_json, read_json
from corral.models.quantized import compressed_tensors
from corral.models.quantized.affine import FULL_PRECISION
from corral.models.quantized.packed_weight import FORMATS, PackedWeight

MODEL_TYPES: Final = compressed_tensors.MODEL_TYPES
"""``model_type`` of the models whose packed layers are read."""
QUANTIZATION_FILE: Final = "quantization.json"
PACKED_FILE: Final = "packed.safetensors"
COMPRESSED_FILE: Final = "model.safetensors"
_CONFIG_FILE: Final = "config.json"
_TENSORS: Final = "tensors"
_SCHEMA_VERSION: Final = 2


@dataclass(frozen=True, slots=True)
class QuantizedBits:
    """Effective bits over all packed weights.

    Attributes:
        weights: how many are packed.
        nominal: bits a weight as papers count them.
        stored: bits a weight of all that is stored for them.
    """

    weights: int
    nominal: float
    stored: float


def quantized_bits(weights: Iterable[PackedWeight]) -> QuantizedBits:
    """Both counts, weighted by the sizes of the layers."""
    counted = [(weight.rows * weight.columns, weight) for weight in weights]
    total = sum(count for count, _ in counted)
    if not total:
        return QuantizedBits(0, 0.0, 0.0)
    return QuantizedBits(
        weights=total,
        nominal=sum(count * weight.nominal_bits for count, weight in counted) / total,
        stored=sum(count * weight.stored_bits for count, weight in counted) / total,
    )


def is_quantized_folder(folder: Path) -> bool:
    """Whether ``read_quantized`` reads it."""
    return (folder / QUANTIZATION_FILE).is_file() or compressed_tensors.is_compressed_folder(folder)


def write_quantized(
    folder: Path, weights: Mapping[str, PackedWeight], others: Mapping[str, Tensor], *, about: Mapping[str, Any]
) -> None:
    """Write ``packed.safetensors`` and ``quantization.json`` into an existing folder.

    Args:
        folder: where.
        weights: packed layers by name.
        others: every other tensor by name.
        about: how the codes were found; JSON.
    """
    state = dict(others) | named_tensors(weights)
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, folder / PACKED_FILE, {"format": "pt"})
    atomic_write_json(
        folder / QUANTIZATION_FILE,
        {
            "schema_version": _SCHEMA_VERSION,
            "bits": asdict(quantized_bits(weights.values())),
            **about,
            "layers": described_layers(weights),
        },
    )


def described_layers(weights: Mapping[str, PackedWeight]) -> dict[str, dict[str, Any]]:
    """What ``parse_layers`` must know of packed layers beside their tensors; JSON."""
    return {
        name: {"kind": weight.kind, **weight.settings(), _TENSORS: sorted(weight.tensors())}
        for name, weight in weights.items()
    }


def named_tensors(weights: Mapping[str, PackedWeight]) -> dict[str, Tensor]:
    """The tensors of packed layers under the names that files give them."""
    return {f"{layer}.{name}": tensor for layer, weight in weights.items() for name, tensor in weight.tensors().items()}


def read_quantized(folder: Path, *, layers: int | None = None) -> tuple[dict[str, PackedWeight], dict[str, Tensor]]:
    """Packed layers and other tensors by name, both as ``LlamaForCausalLM`` names them.

    Args:
        folder: for which ``is_quantized_folder`` holds.
        layers: leave out what belongs to decoder layers from this one on.

    Raises:
        NotFoundError: a file is missing.
        DataError: the files do not fit each other.
    """
    packed = (folder / QUANTIZATION_FILE).is_file()
    path = folder / (PACKED_FILE if packed else COMPRESSED_FILE)
    if not path.is_file():
        raise NotFoundError(f"no `{path.name}`", where=str(folder), hint="Quantized models are kept in one file.")
    state = {name: tensor for name, tensor in load_file(path).items() if layers is None or _layer(name) < layers}
    if not packed:
        return compressed_tensors.split_state(state, read_json(folder / _CONFIG_FILE), where=str(folder))
    return parse_layers(_described(folder / QUANTIZATION_FILE, layers), state, where=str(path))


def unpacked_state(folder: Path, *, layers: int | None = None) -> dict[str, Tensor]:
    """Every tensor by name, each packed layer as the float32 matrix that its codes stand for.

    Args:
        folder: for which ``is_quantized_folder`` holds.
        layers: as for ``read_quantized``.

    Raises:
        NotFoundError: a file is missing.
        DataError: the files do not fit each other, or a layer rounds its inputs as well: no matrix stands for that.
    """
    weights, state = read_quantized(folder, layers=layers)
    for name, weight in weights.items():
        if weight.settings().get("activation_bits", FULL_PRECISION) < FULL_PRECISION:
            raise DataError(
                f"`{name}` rounds its inputs, which only the layer itself does",
                where=str(folder),
                hint="Quantize weights alone.",
            )
        state[f"{name}.weight"] = weight.dequantize()
    return state


def parse_layers(
    described: Mapping[str, Mapping[str, Any]], state: dict[str, Tensor], *, where: str
) -> tuple[dict[str, PackedWeight], dict[str, Tensor]]:
    """Take the tensors of the described layers out of ``state``; returns the layers and what is left.

    Raises:
        DataError: the tensors do not fit what is said of them.
    """
    weights: dict[str, PackedWeight] = {}
    for layer, settings in described.items():
        numbers = {key: value for key, value in settings.items() if key not in ("kind", _TENSORS)}
        prefix = f"{layer}."
        tensors = {name.removeprefix(prefix): state.pop(name) for name in list(state) if name.startswith(prefix)}
        bias = tensors.pop("bias", None)
        if bias is not None:
            state[f"{prefix}bias"] = bias
        if sorted(tensors) != settings.get(_TENSORS):
            raise DataError(
                f"expected the tensors {settings.get(_TENSORS)}, found {sorted(tensors)}", where=f"{where}: {layer}"
            )
        weights[layer] = FORMATS.get(str(settings.get("kind"))).of(numbers, tensors, where=f"{where}: {layer}")
    return weights, state


def _described(path: Path, layers: int | None) -> dict[str, dict[str, Any]]:
    about = read_json(path)
    layers_given = about.get("layers") if isinstance(about, dict) else None
    if not isinstance(layers_given, dict) or not all(isinstance(entry, dict) for entry in layers_given.values()):
        raise DataError("does not describe packed layers", where=str(path))
    if about.get("schema_version") != _SCHEMA_VERSION:
        raise DataError(
            f"is of version `{about.get('schema_version')}`, this reads {_SCHEMA_VERSION}",
            where=str(path),
            hint="Quantize the model again, or use the Corral that wrote it.",
        )
    return {name: entry for name, entry in layers_given.items() if layers is None or _layer(name) < layers}


def _layer(name: str) -> int:
    """Number of the decoder layer that a tensor is in; -1 for one outside of them."""
    parts = name.split(".")
    place = parts.index("layers") if "layers" in parts else len(parts)
    return int(parts[place + 1]) if place + 1 < len(parts) and parts[place + 1].isdecimal() else -1
