"""Layers in the format of compressed-tensors, read and written without that library.

Formats ``pack-quantized`` (weights of integers, inputs left alone) and ``int-quantized`` (W8A8). Of a packed layer a
file holds ``weight_packed`` (each row's codes without gaps in int32 words, the lowest bits first), ``weight_scale``,
``weight_shape`` and, on asymmetric grids, ``weight_zero_point``, packed likewise along the rows; of an integer layer
``weight`` (int8: code less 2^(b - 1)), ``weight_scale`` and, on asymmetric grids, ``weight_zero_point`` likewise.
What a file holds must be what its scheme says, since codes that are read otherwise are other weights. transformers runs
1 to 8 bits, vLLM 4 and 8. Both round activations of W8A8 by token; transformers in units of the largest magnitude over
127.5, vLLM and Corral over 127.

Legend: m rows, n columns, G groups a row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

from corral.core.errors import DataError
from corral.core.files import read_json
from corral.models.quantized.affine import FULL_PRECISION, AffineWeight
from corral.models.quantized.bitstream import pack, unpack
from corral.models.quantized.packed_weight import PackedWeight

MODEL_TYPES: Final = ("llama",)
QUANT_METHOD: Final = "compressed-tensors"
PACKED: Final = "pack-quantized"
INTEGER: Final = "int-quantized"
_WORD_BITS: Final = 32
_BYTE_BITS: Final = 8
_ORDERED: Final = (True, "group", "dynamic")
"""Values of ``actorder`` for which columns of a group are no neighbours and ``weight_g_idx`` says where they are."""
_PARTS: Final = ("weight_packed", "weight_scale", "weight_shape", "weight_zero_point", "weight_g_idx", "weight")


def is_compressed_folder(folder: Path) -> bool:
    """Whether a folder holds a Llama in one of the two formats."""
    path = folder / "config.json"
    config = read_json(path) if path.is_file() else {}
    quantization = config.get("quantization_config") if isinstance(config, dict) else None
    if not isinstance(quantization, dict) or config.get("model_type") not in MODEL_TYPES:
        return False
    return quantization.get("quant_method") == QUANT_METHOD and quantization.get("format") in (PACKED, INTEGER)


def can_express(weight: PackedWeight) -> bool:
    """Whether the format has such a layer: groups of neighbouring columns, and W8A8 with a scale a row.

    ``weight_g_idx`` is read and not written: compressed-tensors 0.20 has removed groups of scattered columns.
    """
    if not isinstance(weight, AffineWeight) or weight.group_index is not None:
        return False
    if weight.activation_bits == FULL_PRECISION:
        return True
    return weight.bits == weight.activation_bits == _BYTE_BITS and weight.zeros is None and weight.groups == 1


def layer_tensors(weight: AffineWeight) -> dict[str, Tensor]:
    """What a file holds for a layer for which ``can_express`` holds, by the last part of its name.

    Scales of symmetric layers stay in float16, which programs that load the file widen to the model's dtype. Those of
    asymmetric ones are float32: transformers dequantizes such layers in the dtype of the scales.
    """
    if weight.activation_bits < FULL_PRECISION:
        signed = weight.code_matrix().short() - 2 ** (weight.bits - 1)
        return {"weight": signed.to(torch.int8), "weight_scale": weight.scales}
    tensors = {
        "weight_packed": pack_words(weight.code_matrix(), weight.bits),
        "weight_scale": weight.scales if weight.zeros is None else weight.scales.float(),
        "weight_shape": torch.tensor([weight.rows, weight.columns]),
    }
    if weight.zeros is not None:
        tensors["weight_zero_point"] = pack_words(weight.zero_points().t(), weight.bits).t()
    return tensors


def have_one_scheme(weights: Sequence[AffineWeight]) -> bool:
    """Whether one group of settings describes all layers, of which there is one at least."""
    per_row = all(weight.groups == 1 for weight in weights)
    found = {
        (weight.bits, None if per_row else weight.group_size, weight.zeros is None, weight.activation_bits)
        for weight in weights
    }
    return len(found) == 1


def quantization_config(layers: Sequence[AffineWeight], *, ignore: list[str]) -> dict[str, Any]:
    """``quantization_config`` of a model.

    Asymmetric layers are marked to be dequantized when transformers loads them: with compressed-tensors 0.20 it expects
    their zero points unpacked otherwise.

    Args:
        layers: all packed ones, for which ``have_one_scheme`` holds.
        ignore: names of the Linears that are not packed.
    """
    weight = layers[0]
    per_row = all(layer.groups == 1 for layer in layers)
    symmetric = weight.zeros is None
    weights = {
        "num_bits": weight.bits,
        "type": "int",
        "symmetric": symmetric,
        "strategy": "channel" if per_row else "group",
        "group_size": None if per_row else weight.group_size,
        "actorder": None,
        "dynamic": False,
    }
    rounded = weight.activation_bits < FULL_PRECISION
    inputs = {
        "num_bits": weight.activation_bits,
        "type": "int",
        "symmetric": True,
        "strategy": "token",
        "dynamic": True,
    }
    group = {"targets": ["Linear"], "weights": weights, "input_activations": inputs if rounded else None}
    layout = INTEGER if rounded else PACKED
    described = {
        "quant_method": QUANT_METHOD,
        "format": layout,
        "quantization_status": "compressed",
        "config_groups": {"group_0": {**group, "output_activations": None, "format": layout}},
        "ignore": ignore,
        "kv_cache_scheme": None,
        "global_compression_ratio": None,
    }
    return described if symmetric else {**described, "dequantize": True}


def split_state(
    state: dict[str, Tensor], config: Mapping[str, Any], *, where: str
) -> tuple[dict[str, PackedWeight], dict[str, Tensor]]:
    """Packed layers and other tensors of a folder in one of the two formats.

    Raises:
        DataError: another format, or tensors that do not fit it.
    """
    scheme = _scheme(config.get("quantization_config"), where)
    weights: dict[str, PackedWeight] = {}
    for name in [name for name in state if name.endswith(".weight_scale")]:
        layer = name.removesuffix(".weight_scale")
        parts = {part: state.pop(f"{layer}.{part}") for part in _PARTS if f"{layer}.{part}" in state}
        try:
            weights[layer] = _layer(parts, scheme)
            weights[layer].check()
        except (KeyError, ValueError, IndexError, RuntimeError, DataError) as error:
            raise DataError(f"not a layer of `{QUANT_METHOD}`: {error}", where=f"{where}: {layer}") from error
    return weights, state


def pack_words(codes_mn: Tensor, bits: int) -> Tensor:
    """Codes (m, n) as int32 words (m, ceil(n bits / 32)): each row one stream, lowest bits first."""
    rows, columns = codes_mn.shape
    words = -(-columns * bits // _WORD_BITS)
    whole = -(-columns // _WORD_BITS) * _WORD_BITS  # so many codes fill words without a rest
    padded = codes_mn.new_zeros(rows, whole)
    padded[:, :columns] = codes_mn
    return _words(pack(padded, bits)).view(rows, -1)[:, :words].contiguous()


def unpack_words(words_mw: Tensor, bits: int, columns: int) -> Tensor:
    """What ``pack_words`` packed, uint8 (m, n).

    Raises:
        DataError: so many codes take another number of words, or there are bits after the last: codes of other bits.
    """
    rows, words = words_mw.shape
    if words_mw.dtype != torch.int32 or words != -(-columns * bits // _WORD_BITS):
        raise DataError(f"{columns} codes of {bits} bits do not take {words} words of {words_mw.dtype}")
    whole = -(-words // bits) * bits
    padded = words_mw.new_zeros(rows, whole)
    padded[:, :words] = words_mw
    codes = unpack(_bytes(padded), bits, rows * whole * _WORD_BITS // bits)
    codes_mn = codes.view(rows, -1)
    if bool(codes_mn[:, columns:].any()):
        raise DataError(f"there are bits after {columns} codes of {bits} bits")
    return codes_mn[:, :columns].contiguous()


def _words(stream: Tensor) -> Tensor:
    """Bytes as little-endian int32 words, whatever this machine's order."""
    parts = stream.view(-1, 4).to(torch.int64) << torch.tensor([0, 8, 16, 24], device=stream.device)
    words = parts.sum(1)
    return torch.where(words >= 2**31, words - 2**32, words).to(torch.int32)


def _bytes(words: Tensor) -> Tensor:
    """The bytes of ``_words``."""
    shifts = torch.tensor([0, 8, 16, 24], device=words.device)
    return ((words.reshape(-1, 1).to(torch.int64) >> shifts) & 255).to(torch.uint8).view(-1)


class _Scheme(NamedTuple):
    """How all layers of a folder are stored."""

    layout: str
    bits: int
    activation_bits: int
    symmetric: bool
    group_size: int | None  # None: a scale a row
    ordered: bool


def _scheme(found: Any, where: str) -> _Scheme:
    """One group of settings for all layers: integers, scales by group, row or token, inputs symmetric.

    Where a file leaves out ``symmetric`` it is true, as that library has it.
    """
    try:
        (group,) = found["config_groups"].values()
        weights, inputs = group["weights"], group.get("input_activations")
        readable = weights["type"] == "int" and weights["strategy"] in ("group", "channel")
        readable &= group.get("output_activations") is None
        if inputs is not None:
            readable &= inputs["type"] == "int" and inputs["strategy"] == "token" and inputs["dynamic"] is True
            readable &= inputs.get("symmetric", True) is True
        if readable:
            return _Scheme(
                layout=found["format"],
                bits=_bits(weights["num_bits"], 1),
                activation_bits=FULL_PRECISION if inputs is None else _bits(inputs["num_bits"], 2),
                symmetric=bool(weights.get("symmetric", True)),
                group_size=int(weights["group_size"]) if weights["strategy"] == "group" else None,
                ordered=weights.get("actorder") in _ORDERED,
            )
    except (KeyError, TypeError, ValueError, AttributeError):
        pass  # said below
    raise DataError(
        f"this `{QUANT_METHOD}` model is not in a scheme that can be read",
        where=where,
        hint="One group of integer weights of 1 to 8 bits with scales by group or row can be, with inputs left alone "
        "or by token and symmetric.",
    )


def _bits(value: Any, least: int) -> int:
    """A width of codes.

    Raises:
        ValueError: not one that can be unpacked.
    """
    if not least <= int(value) <= _BYTE_BITS:
        raise ValueError(value)
    return int(value)


def _layer(parts: Mapping[str, Tensor], scheme: _Scheme) -> AffineWeight:
    bits, integers = scheme.bits, scheme.layout == INTEGER
    scales_mG = parts["weight_scale"].view(len(parts["weight_scale"]), -1)
    rows, groups = scales_mG.shape
    if integers:
        codes_mn = _offset("weight", parts["weight"], bits)
    else:
        stated = parts["weight_shape"].tolist()
        if stated[0] != rows or len(parts["weight_packed"]) != rows:
            raise DataError(f"`weight_scale` has {rows} rows, the weight {len(parts['weight_packed'])} of {stated}")
        codes_mn = unpack_words(parts["weight_packed"], bits, stated[1])
    columns = codes_mn.shape[1]
    if groups * (scheme.group_size or columns) != columns:
        raise DataError(f"{groups} scales a row do not fit {columns} columns and groups of {scheme.group_size}")
    if scheme.ordered and "weight_g_idx" not in parts:
        raise DataError("`weight_g_idx` is missing")
    return AffineWeight.from_codes(
        codes_mn,
        scales_mG,
        _zero_points(parts, scheme, rows),
        bits=bits,
        group_index_n=parts.get("weight_g_idx"),
        activation_bits=scheme.activation_bits,
    )


def _zero_points(parts: Mapping[str, Tensor], scheme: _Scheme, rows: int) -> Tensor | None:
    """(m, G), there exactly where the grid is not symmetric; integers of symmetric layers may have zeros."""
    zeros = parts.get("weight_zero_point")
    if zeros is None and not scheme.symmetric:
        raise DataError("`weight_zero_point` is missing, and the scheme is not symmetric")
    if zeros is None:
        return None
    if scheme.symmetric:
        if scheme.layout == INTEGER and not bool(zeros.any()):
            return None
        raise DataError("there is a `weight_zero_point`, and the scheme is symmetric")
    if scheme.layout == INTEGER:
        return _offset("weight_zero_point", zeros.view(len(zeros), -1), scheme.bits)
    return unpack_words(zeros.t(), scheme.bits, rows).t().contiguous()


def _offset(name: str, values: Tensor, bits: int) -> Tensor:
    """Codes of signed integers: 2^(b - 1) more."""
    codes: Tensor = values.short() + 2 ** (bits - 1)
    if values.dtype != torch.int8 or values.dim() != 2 or bool(((codes < 0) | (codes >= 2**bits)).any()):
        raise DataError(f"`{name}` is not a matrix of int8 that {bits} bits hold")
    unsigned: Tensor = codes.to(torch.uint8)
    return unsigned
