"""Quantizing block after block: what each method is shown, and in which order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from corral.models.quantized import PackedWeight, QuantizedLinear
from corral.models.quantized.linear import install
from corral.quant.block_store import BlockStore
from corral.quant.blocks import LINEAR_GROUPS, LINEARS, BlockStream, CalibratedBlock
from corral.quant.methods.base import Grouped, LinearLayer, Method, UniformGrid
from corral.quant.methods.rtn import round_to_nearest
from corral.quant.statistics import InputStatistics, proxy_loss

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True, slots=True)
class LayerRecord:
    """What is known of one quantized Linear.

    Attributes:
        name: in the model.
        nominal_bits: bits a weight as papers count them.
        stored_bits: bits a weight of all that is stored.
        proxy_loss: share of its output, in squares, that is lost; ``None`` for methods that see no second moments.
        proxy_loss_rtn: the same of rounding the weight, as it was before any fold, to nearest on grids of the same
            settings, where the method has such.
    """

    name: str
    nominal_bits: float
    stored_bits: float
    proxy_loss: float | None = None
    proxy_loss_rtn: float | None = None


@dataclass
class FinishedBlocks:
    """Blocks that are done.

    Attributes:
        weights: packed layers by name.
        records: one a layer.
        resumed: blocks that an earlier call had finished.
    """

    weights: dict[str, PackedWeight] = field(default_factory=dict)
    records: list[LayerRecord] = field(default_factory=list)
    resumed: int = 0


def quantize_blocks(
    model: PreTrainedModel,
    blocks: Mapping[str, nn.Module],
    method: Method,
    stream: BlockStream | None,
    store: BlockStore,
) -> Iterator[FinishedBlocks]:
    """Put packed layers in the place of the Linears of some blocks, lowest first, in place.

    Yields all that is done after every block.

    Args:
        model: float32; its blocks become the quantized ones.
        blocks: to quantize, by name, lowest first and none left out.
        method: how.
        stream: calibration text before the first block; ``None`` for methods that need none.
        store: holds blocks that an earlier call finished, and is given the others.
    """
    done = FinishedBlocks()
    for number, (name, block) in enumerate(blocks.items()):
        kept = store.load(number)
        if kept is None:
            weights, records = _quantize_block(model, name, block, method, stream)
            # Folds change norms and biases, so that all that is not packed belongs to the outcome.
            others = {f"{name}.{part}": values.detach() for part, values in block.named_parameters()}
            store.save(number, weights, others, [asdict(record) for record in records])
        else:
            weights, others, found = kept
            records = [LayerRecord(**record) for record in found]
            _restore(model, block, method, stream, kept=(weights, others))
            done.resumed += 1
        for module in block.modules():
            if isinstance(module, QuantizedLinear):
                module.forget_unpacked()
        done.weights |= weights
        done.records += records
        yield done


def _restore(
    model: PreTrainedModel,
    block: nn.Module,
    method: Method,
    stream: BlockStream | None,
    *,
    kept: tuple[dict[str, PackedWeight], dict[str, Tensor]],
) -> None:
    """Take a finished block from the store, the calibration text passing it as it did the first time."""
    weights, others = kept
    if stream is not None and method.propagation == "full":
        stream.advance(block)
    install(model, weights)
    with torch.no_grad():
        for name, values in others.items():
            model.get_parameter(name).copy_(values)
    if stream is not None and method.propagation == "quantized":
        stream.advance(block)


def _quantize_block(
    model: PreTrainedModel, name: str, block: nn.Module, method: Method, stream: BlockStream | None
) -> tuple[dict[str, PackedWeight], list[LayerRecord]]:
    weights: dict[str, PackedWeight] = {}
    records: list[LayerRecord] = []

    def fit(linears: tuple[str, ...], inputs: Mapping[str, InputStatistics], nearest: Mapping[str, float]) -> None:
        for linear in linears:
            layer = LinearLayer(f"{name}.{linear}", _weight(block, linear).clone(), inputs.get(linear))
            weights[layer.name], record = _fit(layer, method, nearest.get(linear))
            records.append(record)
        install(model, {layer: weights[layer] for layer in (f"{name}.{linear}" for linear in linears)})

    with torch.no_grad():
        if stream is None:
            fit(LINEARS, {}, {})
        elif method.propagation == "full":
            seen = stream.observe(block, LINEAR_GROUPS, hessian=method.needs == "hessian", where=name)
            calibrated = CalibratedBlock(name, block, seen, stream.attention_calls(block))
            stream.advance(block)
            nearest = _losses_of_rounding(block, seen, method)
            method.fold(calibrated)
            fit(LINEARS, calibrated.inputs, nearest)
        else:
            with stream.remembering(block) as remember:
                for group in LINEAR_GROUPS:
                    seen = stream.observe(block, (group,), hessian=method.needs == "hessian", where=name)
                    fit(group, seen, _losses_of_rounding(block, seen, method))
                    remember()
                stream.advance(block)
    return weights, records


def _fit(layer: LinearLayer, method: Method, nearest: float | None) -> tuple[PackedWeight, LayerRecord]:
    original_mn = layer.weight.clone()
    packed = method.fit(layer)
    hessian_nn = None if layer.inputs is None else layer.inputs.hessian
    loss = None if hessian_nn is None else proxy_loss(original_mn, packed.dequantize(), hessian_nn)
    return packed, LayerRecord(layer.name, packed.nominal_bits, packed.stored_bits, loss, nearest)


def _losses_of_rounding(block: nn.Module, seen: Mapping[str, InputStatistics], method: Method) -> dict[str, float]:
    """Proxy loss of rounding to nearest, by the Linear's name; empty for methods without grids or second moments."""
    if not isinstance(method, Grouped):
        return {}
    grid = {"symmetric": method.symmetric, "mse": method.mse} if isinstance(method, UniformGrid) else {}
    losses = {}
    for linear, inputs in seen.items():
        if inputs.hessian is not None:
            weight_mn = _weight(block, linear)
            rounded = round_to_nearest(weight_mn, method.bits, method.columns_of(weight_mn.shape[1]), **grid)
            losses[linear] = proxy_loss(weight_mn, rounded.dequantize(), inputs.hessian)
    return losses


def _weight(block: nn.Module, linear: str) -> Tensor:
    return block.get_parameter(f"{linear}.weight").detach().float()
