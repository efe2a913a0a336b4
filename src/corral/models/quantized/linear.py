"""The layer that runs packed weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own name for it

from corral.core.errors import ConfigError, DataError
from corral.models.packed.int8 import Int8Matrix, int8_is_exact
from corral.models.packed.matrices import REORDER_BYTES
from corral.models.quantized.affine import FULL_PRECISION, AffineWeight
from corral.models.quantized.packed_weight import PackedWeight

_INT8_BITS: Final = 8
_TINY: Final = 1e-30  # a token of zeros: any scale will do


class QuantizedLinear(nn.Module):
    """``nn.Linear`` over a packed weight: its tensors are the buffers, the product is of the unpacked matrix.

    The codes are all that is stored and moved. Unpacking takes longer than a product with few tokens, so the unpacked
    matrix may be kept beside the codes (``keep_unpacked``); it is made when the layer is first called. Weights and
    inputs of 8 bits are multiplied as integers where the processor does so exactly (``packed/int8``).

    Args:
        packed: the weight.
        bias: (m,), or ``None``.
    """

    def __init__(self, packed: PackedWeight, bias: Tensor | None = None) -> None:
        super().__init__()
        self.in_features, self.out_features = packed.columns, packed.rows
        self._kind, self._settings = type(packed), packed.settings()
        for name, tensor in packed.tensors().items():
            self.register_buffer(name, tensor)
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
        self.keep_unpacked = False
        self._unpacked: Tensor | None = None
        self._int8: Int8Matrix | None = None

    @property
    def packed(self) -> PackedWeight:
        """The weight as it is stored; shares its tensors."""
        stored: dict[str, Any] = dict(self.named_buffers(recurse=False))
        return self._kind(**self._settings, **stored)

    @property
    def activation_bits(self) -> int:
        """Bits that inputs are rounded to, token by token; 16 leaves them."""
        return int(self._settings.get("activation_bits", FULL_PRECISION))

    def forward(self, inputs: Tensor) -> Tensor:
        """(..., m) of inputs (..., n), in their dtype."""
        if self.activation_bits < FULL_PRECISION:
            return self._rounded(inputs)
        return F.linear(inputs, self._matrix(inputs.dtype), self.bias)

    def forget_unpacked(self) -> None:
        """Let go of the unpacked matrix, and do not keep one again."""
        self.keep_unpacked = False
        self._unpacked = self._int8 = None

    def extra_repr(self) -> str:
        """Shape and format."""
        return f"{self.in_features}, {self.out_features}, {self._kind.kind}, {self._settings}"

    def _rounded(self, inputs: Tensor) -> Tensor:
        integers = self._integers(inputs)
        if integers is None:
            rounded = round_activations(inputs, self.activation_bits)
            return F.linear(rounded, self._matrix(inputs.dtype), self.bias)
        rows = inputs.reshape(-1, self.in_features).float().contiguous()
        product = integers(integers.prepare(rows, rows)).view(*inputs.shape[:-1], self.out_features)
        return (product if self.bias is None else product + self.bias).to(inputs.dtype)

    def _integers(self, inputs: Tensor) -> Int8Matrix | None:
        """The factor that multiplies by 8-bit integers, where there can be one."""
        if self.activation_bits != _INT8_BITS or inputs.device.type != "cpu" or not int8_is_exact():
            return None
        if self._int8 is None:
            packed = self.packed
            if not isinstance(packed, AffineWeight) or packed.bits > _INT8_BITS or packed.groups > 1:
                return None
            codes = packed.code_matrix().short() - packed.zero_points().short()
            if packed.group_index is not None or codes.min() < -128 or codes.max() > 127:
                return None
            self._int8 = Int8Matrix.of_codes(codes.to(torch.int8), packed.scales[:, 0].float())
        return self._int8

    def _matrix(self, dtype: torch.dtype) -> Tensor:
        if self._unpacked is not None and self._unpacked.dtype == dtype:
            return self._unpacked
        matrix = self.packed.dequantize().to(dtype)
        if self.keep_unpacked:
            self._unpacked = matrix
        return matrix

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        """Moves to devices, never to dtypes: a scale of another precision would be another weight."""
        self._unpacked = self._int8 = None
        stored = dict(self._buffers)
        self._buffers.clear()
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, tensor in stored.items():
            if tensor is not None:
                moved = fn(torch.empty(0, dtype=torch.uint8, device=tensor.device))
                self._buffers[name] = tensor.to(moved.device)
        return self


def round_activations(inputs: Tensor, bits: int) -> Tensor:
    """Inputs (..., n) rounded to a symmetric grid of ``bits`` bits by token, as SmoothQuant does while it runs."""
    largest = 2 ** (bits - 1) - 1
    scales = inputs.float().abs().amax(-1, keepdim=True).clamp_min(_TINY) / largest
    rounded: Tensor = (inputs.float() / scales).round().clamp(-largest - 1, largest) * scales
    return rounded.to(inputs.dtype)


def quantized_linears(model: nn.Module) -> dict[str, QuantizedLinear]:
    """The packed layers of a model, by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, QuantizedLinear)}


def refuse_quantized(model: nn.Module, purpose: str) -> None:
    """Stop what reads or changes weights as matrices, which packed layers do not have.

    Args:
        model: any.
        purpose: what it was to be used for, for example ``trained``.

    Raises:
        ConfigError: a layer is packed; names the first.
    """
    if name := next(iter(quantized_linears(model)), None):
        raise ConfigError(
            f"the model is quantized (`{name}` is packed) and cannot be {purpose}",
            hint="Use the model it was made from, or one written by `corral quantize --layout dequantized`.",
        )


def install(model: nn.Module, weights: dict[str, PackedWeight]) -> None:
    """Put packed layers in the place of the named Linears, in place. Biases stay.

    Unpacked matrices are kept where all of them together, in float32, stay below ``REORDER_BYTES``.

    Raises:
        DataError: a name that is none of a Linear, or a packed weight of another shape.
    """
    linears = {
        name: module for name, module in model.named_modules() if isinstance(module, nn.Linear | QuantizedLinear)
    }
    for name, weight in weights.items():
        if name not in linears:
            raise DataError("the model has no such Linear", where=name)
        shape = (linears[name].out_features, linears[name].in_features)
        if shape != (weight.rows, weight.columns):
            raise DataError(f"is packed as {(weight.rows, weight.columns)}, the model has {shape}", where=name)
    keep = 4 * sum(weight.rows * weight.columns for weight in weights.values()) <= REORDER_BYTES
    for name, weight in weights.items():
        parent, _, child = name.rpartition(".")
        owner = model.get_submodule(parent)
        bias = getattr(getattr(owner, child), "bias", None)
        layer = QuantizedLinear(weight, None if bias is None else bias.detach())
        layer.keep_unpacked = keep
        setattr(owner, child, layer.eval())
