"""Quantizing a model into a folder, resumable block by block.

Only Linears inside decoder blocks are quantized; embeddings, norms and the head stay as they are.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from corral.core.errors import ConfigError, UserError
from corral.core.files import read_json
from corral.core.memory import max_rss_mb
from corral.models.head_trimming import HEAD_TOKENS
from corral.models.quantized.folder import QuantizedBits, is_quantized_folder, quantized_bits
from corral.models.reference import ModelRef
from corral.models.routing.record import RECORD, has_routing
from corral.quant.block_loop import FinishedBlocks, LayerRecord, quantize_blocks
from corral.quant.block_store import block_store
from corral.quant.blocks import LINEARS, BlockStream, llama_blocks
from corral.quant.calibration import Calibration, CalibrationManifest, CalibrationSettings, calibration
from corral.quant.export import Layout, check_architecture, check_layout, choose_layout, write_model
from corral.quant.folding import check_folds
from corral.quant.methods.base import Method

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel


@dataclass(frozen=True, slots=True)
class QuantizationReport:
    """Outcome of ``quantize``.

    Attributes:
        out: the folder.
        layout: how weights are stored in it.
        method: its name and settings.
        calibration: manifest, ``None`` for methods that need no text.
        bits: effective bits, in both counts; the stored ones are those of the file.
        layers: one a Linear.
        file_bytes: size of the weights' file.
        tensor_bytes: the same as computed from what is stored; the file has a header as well.
        seconds: that this took, without blocks that were finished earlier.
        max_rss_mb: largest resident memory of the process, in 10^6 bytes.
        resumed_blocks: how many had been finished earlier.
        warnings: what the reader should know.
    """

    out: Path
    layout: Layout
    method: dict[str, Any]
    calibration: dict[str, Any] | None
    bits: QuantizedBits
    layers: tuple[LayerRecord, ...]
    file_bytes: int
    tensor_bytes: int
    seconds: float
    max_rss_mb: float
    resumed_blocks: int
    warnings: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self) | {"out": str(self.out)}


def quantize(
    model: str | Path | ModelRef,
    name: str,
    method: Method,
    out: Path,
    *,
    text: CalibrationSettings | Calibration | None = None,
    layout: Layout | None = None,
    blocks: int | None = None,
    dtype: str = "auto",
    on_block: Callable[[int, int], None] = lambda _done, _total: None,
) -> QuantizationReport:
    """Quantize a model into a new folder, with its tokenizer. A second call after an interruption continues it.

    Args:
        model: where it comes from.
        name: of the method, as in ``METHODS``.
        method: its settings.
        out: a folder that does not exist.
        text: what to calibrate on, drawn already or to be drawn; the packaged text when ``None``. Methods that need
            nothing read none.
        layout: how to store weights; ``None`` for compressed-tensors where it can hold them, else Corral's own.
        blocks: quantize only so many of the lowest blocks.
        dtype: of everything that is not quantized: ``auto`` keeps it, ``float32``, ``bfloat16``.
        on_block: called with how many blocks are done, and of how many.

    Raises:
        UserError: ``out`` exists, the model is quantized already, has gates or is not like a Llama, or settings or the
            layout do not fit it.
        RunError: an unfinished quantization with other settings is in the way, or another process works on it.
    """
    from corral.models.chat import ChatTokenizer
    from corral.models.loading import find_dtype, load_causal_lm, load_tokenizer, weights_revision

    started = time.monotonic()
    ref = ModelRef.parse(model)
    if out.exists():
        raise UserError("exists", where=str(out), hint="Choose another folder, or remove this one.")
    refuse_model(ref)
    tokenizer, loaded = load_tokenizer(ref), load_causal_lm(ref)
    check_architecture(layout, loaded.config.model_type)
    stored_dtype = find_dtype(dtype) or loaded.dtype
    loaded.float()
    chosen = chosen_blocks(loaded, blocks, method)
    manifest: CalibrationManifest | None = None
    stream: BlockStream | None = None
    if method.needs != "nothing":
        if isinstance(text, Calibration):
            calibrated = text
        else:
            context = int(loaded.config.max_position_embeddings)
            calibrated = calibration(text or CalibrationSettings(), ChatTokenizer(tokenizer), context=context)
        manifest, stream = calibrated.manifest, BlockStream(loaded, calibrated.windows_WT)
        check_folds(chosen, method.folds, stream, model_type=loaded.config.model_type)
    about: dict[str, Any] = {
        "method": {"name": name, **method.model_dump(mode="json")},
        "model": str(ref),
        "calibration": None if manifest is None else manifest.to_json(),
    }
    depends_on = {**about, "weights": weights_revision(ref), "blocks": len(chosen), "corral": version("corral")}
    with block_store(out, depends_on) as store:
        done = FinishedBlocks()
        for number, done in enumerate(quantize_blocks(loaded, chosen, method, stream, store), start=1):
            if layout is not None:
                check_layout(layout, done.weights)  # after the first block, not after the last
            on_block(number, len(chosen))
        layout = layout or choose_layout(done.weights)
        written = write_model(out, loaded, tokenizer, done.weights, layout=layout, dtype=stored_dtype, about=about)
    bits = quantized_bits(done.weights.values())
    return QuantizationReport(
        out=out,
        layout=layout,
        method=about["method"],
        calibration=about["calibration"],
        bits=replace(bits, stored=8 * written.layers / bits.weights),
        layers=tuple(done.records),
        file_bytes=written.file,
        tensor_bytes=written.tensors,
        seconds=time.monotonic() - started,
        max_rss_mb=max_rss_mb(),
        resumed_blocks=done.resumed,
        warnings=tuple(_warnings(manifest, done)),
    )


def refuse_model(ref: ModelRef) -> None:
    """What can be said of a model before it is read.

    Raises:
        UserError: it is quantized already, its head is trimmed, or it is a model with MoGU's gates.
    """
    if ref.kind != "folder":
        return
    path = Path(ref.name) / "config.json"
    if (Path(ref.name) / HEAD_TOKENS).is_file():
        raise UserError("the head of the model is trimmed", where=ref.name, hint="Quantize the model it was cut from.")
    if has_routing(Path(ref.name)):
        raise UserError(
            "is a model with MoGU's gates, which lie around its attention outputs and cannot be quantized",
            where=ref.name,
            hint=f"Quantize its base model, whose name is in `{RECORD}`; gates are not put on quantized layers either.",
        )
    quantized = is_quantized_folder(Path(ref.name)) or (path.is_file() and "quantization_config" in read_json(path))
    if quantized:
        raise UserError("the model is quantized already", where=ref.name, hint="Quantize the model it was made from.")


def chosen_blocks(model: PreTrainedModel, blocks: int | None, method: Method) -> dict[str, nn.Module]:
    """The blocks to quantize, by name, lowest first.

    Raises:
        ConfigError: more blocks than there are, or settings that do not fit their layers.
        DataError: they are not those of a Llama.
    """
    found = llama_blocks(model)
    if blocks is not None and not 1 <= blocks <= len(found):
        raise ConfigError(f"`{blocks}` blocks: the model has {len(found)}", where="blocks")
    chosen = dict(list(found.items())[:blocks])
    shapes = {
        f"{name}.{linear}": block.get_parameter(f"{linear}.weight").shape
        for name, block in chosen.items()
        for linear in LINEARS
    }
    method.check({name: (rows, columns) for name, (rows, columns) in shapes.items()})
    return chosen


def _warnings(manifest: CalibrationManifest | None, done: FinishedBlocks) -> list[str]:
    if manifest is None:
        return []
    widest = max(weight.columns for weight in done.weights.values())
    if manifest.distinct_tokens >= widest:
        return []
    return [
        f"{manifest.distinct_tokens} distinct tokens of calibration for inputs of {widest} channels: second moments "
        "have no full rank, and the outcome may be worse than rounding to nearest."
    ]
