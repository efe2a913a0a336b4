"""What a quantization will take and leave, from the model's config alone: no weight is read.

Sizes are those of the file but for its header. Peak memory is an estimate: the model in float32, what is packed and the
file that is written from it, the calibration text's states, what one block needs beside them, and the libraries.
SmolLM2 takes 1405 MB with RTN, 1445 were estimated.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from corral.models.loading import find_dtype, load_skeleton
from corral.models.reference import ModelRef
from corral.quant.blocks import BATCH_TOKENS, LINEARS
from corral.quant.calibration import CalibrationSettings
from corral.quant.export import SERVED_BITS, Layout, check_architecture
from corral.quant.methods.base import HALF_BITS, Grouped, Method, UniformGrid
from corral.quant.methods.gptq import Gptq
from corral.quant.methods.smoothquant import SmoothQuant
from corral.quant.quantize import chosen_blocks, refuse_model

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_FLOAT_BYTES: Final = 4
_LIBRARIES_BYTES: Final = 650_000_000
"""Of a process that has imported torch and transformers and run a few operations."""
_MATRICES: Final = 6
"""Copies of one Linear's weight, and of its second moments, that a fit holds at once."""
_SHAPE_BITS: Final = 128
"""Of ``weight_shape`` in a compressed-tensors file."""


@dataclass(frozen=True, slots=True)
class PlannedShape:
    """Linears of one shape.

    Attributes:
        names: inside a block.
        rows: outputs.
        columns: inputs.
        count: over all quantized blocks.
        nominal_bits: bits a weight as papers count them; the most, where the weights decide.
        stored_bits: bits a weight of all that is stored.
    """

    names: tuple[str, ...]
    rows: int
    columns: int
    count: int
    nominal_bits: float
    stored_bits: float


@dataclass(frozen=True, slots=True)
class QuantizationPlan:
    """What ``quantize`` would do.

    Attributes:
        method: its name and settings.
        layout: of the folder.
        blocks: quantized, of how many.
        shapes: of the Linears.
        nominal_bits: over all quantized weights.
        stored_bits: the same of all that is stored for them.
        tensor_bytes: of the weights' file without its header.
        unquantized_bytes: of the same model with every weight in the dtype that the others keep.
        calibration_tokens: read at most; ``None`` for methods that need no text.
        widest_input: channels of the widest input: fewer distinct tokens than that are too few for second moments.
        peak_memory_mb: an estimate, in 10^6 bytes.
    """

    method: dict[str, Any]
    layout: Layout
    blocks: tuple[int, int]
    shapes: tuple[PlannedShape, ...]
    nominal_bits: float
    stored_bits: float
    tensor_bytes: int
    unquantized_bytes: int
    calibration_tokens: int | None
    widest_input: int
    peak_memory_mb: int

    def to_json(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


def plan_quantization(
    model: str | Path | ModelRef,
    name: str,
    method: Method,
    *,
    text: CalibrationSettings | None = None,
    layout: Layout | None = None,
    blocks: int | None = None,
    dtype: str = "auto",
) -> QuantizationPlan:
    """What ``quantize`` with these arguments would do.

    Raises:
        UserError: the model is quantized already or not like a Llama, or settings do not fit it.
    """
    ref = ModelRef.parse(model)
    refuse_model(ref)
    skeleton = load_skeleton(ref)
    check_architecture(layout, skeleton.config.model_type)
    kept_dtype = find_dtype(dtype) or skeleton.dtype
    chosen = chosen_blocks(skeleton, blocks, method)
    layout = layout or _usual_layout(method)
    shapes = _shapes(
        {
            linear: tuple(block.get_parameter(f"{linear}.weight").shape)
            for block in list(chosen.values())[:1]
            for linear in LINEARS
        },
        method,
        layout,
        blocks=len(chosen),
        kept_bits=8 * kept_dtype.itemsize,
    )
    weights = sum(shape.count * shape.rows * shape.columns for shape in shapes)
    stored = sum(shape.count * shape.rows * shape.columns * shape.stored_bits for shape in shapes)
    nominal = sum(shape.count * shape.rows * shape.columns * shape.nominal_bits for shape in shapes)
    parameters = int(skeleton.num_parameters())  # a tied head counts once, as it is stored
    tensor_bytes = round(stored / 8) + (parameters - weights) * kept_dtype.itemsize
    settings = text or CalibrationSettings()
    length = min(settings.length, int(skeleton.config.max_position_embeddings))
    tokens = None if method.needs == "nothing" else settings.windows * length
    return QuantizationPlan(
        method={"name": name, **method.model_dump(mode="json")},
        layout=layout,
        blocks=(len(chosen), int(skeleton.config.num_hidden_layers)),
        shapes=shapes,
        nominal_bits=nominal / weights,
        stored_bits=stored / weights,
        tensor_bytes=tensor_bytes,
        unquantized_bytes=parameters * kept_dtype.itemsize,
        calibration_tokens=tokens,
        widest_input=max(shape.columns for shape in shapes),
        peak_memory_mb=round((_peak_bytes(skeleton, shapes, tokens, method) + stored / 8 + tensor_bytes) / 1e6),
    )


def _usual_layout(method: Method) -> Layout:
    """See ``export.choose_layout``, which looks at the packed weights."""
    if isinstance(method, SmoothQuant):
        return "compressed-tensors" if method.bits == method.activation_bits == max(SERVED_BITS) else "corral"
    out_of_order = isinstance(method, Gptq) and method.act_order and not method.static_groups
    served = isinstance(method, Grouped) and method.bits in SERVED_BITS and not out_of_order
    return "compressed-tensors" if served else "corral"


def _shapes(
    linears: Mapping[str, tuple[int, ...]], method: Method, layout: Layout, *, blocks: int, kept_bits: int
) -> tuple[PlannedShape, ...]:
    found = []
    for (rows, columns), alike in Counter(linears.values()).items():
        nominal, stored = method.expected_bits(rows, columns)
        if layout == "dequantized":
            stored = kept_bits
        elif layout == "compressed-tensors":
            stored += _beside(method, rows, columns)
        names = tuple(name for name, shape in linears.items() if shape == (rows, columns))
        found.append(PlannedShape(names, rows, columns, alike * blocks, nominal, stored))
    return tuple(found)


def _beside(method: Method, rows: int, columns: int) -> float:
    """Bits a weight that compressed-tensors stores more than the ``corral`` layout: see ``layer_tensors``."""
    if not isinstance(method, Grouped):
        return 0.0
    symmetric = isinstance(method, UniformGrid) and method.symmetric
    wider_scales = 0 if symmetric else HALF_BITS / method.columns_of(columns)
    return wider_scales + _SHAPE_BITS / (rows * columns)


def _peak_bytes(skeleton: PreTrainedModel, shapes: tuple[PlannedShape, ...], tokens: int | None, method: Method) -> int:
    """Of one block's fit, before anything is written."""
    largest = max(shape.rows * shape.columns for shape in shapes) * _FLOAT_BYTES
    total = _LIBRARIES_BYTES + int(skeleton.num_parameters()) * _FLOAT_BYTES + _MATRICES * largest
    if tokens is None:
        return total
    hidden, widest = int(skeleton.config.hidden_size), max(shape.columns for shape in shapes)
    states = 2 * tokens * hidden * _FLOAT_BYTES  # before a block and after it
    passing = BATCH_TOKENS * 4 * (hidden + widest) * _FLOAT_BYTES
    moments = _MATRICES * widest**2 * _FLOAT_BYTES if method.needs == "hessian" else 0
    return total + states + passing + moments
