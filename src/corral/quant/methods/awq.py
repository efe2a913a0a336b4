"""AWQ: channels that are often large are made finer by scaling them up before rounding (arXiv 2306.00978).

For every norm, and for the Linears behind which the scale can be folded, t = clamp(mean|x|^r, 1e-4) over the geometric
mean of its extremes, r the best of {0, 1/20, ..., 19/20}: the one whose rounded weights change the module's output
least. Then each group's range is clipped where that changes the outputs of some rows least. Searched in float32.

AutoAWQ's later form also divides by how large the weights of a channel are beside those of their groups, to the power
1 - r (``scaling: duo``). Unless told otherwise, both forms are searched; ``scaling: activations`` is the paper's alone.

Deviations: the output of attention is compared on some thousand tokens, and that of the other modules on 512 rows. The
fold into ``v_proj`` needs as many value channels as ``o_proj`` reads, so grouped-query models go without.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar, Final, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own name for it

from corral.models.quantized import AffineWeight
from corral.quant.blocks import ATTENTION, BEFORE, FEED_FORWARD, LINEAR_GROUPS, NORMS, CalibratedBlock
from corral.quant.folding import Folds, can_fold, fold
from corral.quant.grids import fit_grid
from corral.quant.methods.base import Grouped, LinearLayer, Needs, Propagation
from corral.quant.methods.rtn import round_to_nearest

STEPS: Final = 20
CLIP_STEPS: Final = 10
_LEAST_SCALE: Final = 1e-4
_NO_ZERO: Final = 1e-6  # so that a group of zeros divides by something
_CLIP_ROWS: Final = 128  # of the weight at a time, so that the partial sums stay in memory
_NOT_CLIPPED: Final = ("q_proj", "k_proj")
_QUERY_KEY_VALUE, _OUTPUT, _GATE_UP, _DOWN = LINEAR_GROUPS

Output = Callable[[], Tensor]
Scaling = Literal["activations", "duo", "both"]


class Awq(Grouped):
    """Settings of AWQ.

    Attributes:
        clip: search for smaller ranges of groups.
        scaling: what channels are scaled by: their magnitude in the input (the paper), or that over the weights'
            magnitude too (AutoAWQ), or whichever changes the output least.
    """

    needs: ClassVar[Needs] = "hessian"  # to report what is lost; the search itself looks at magnitudes and rows
    propagation: ClassVar[Propagation] = "full"
    folds: ClassVar[Folds] = NORMS | BEFORE

    clip: bool = True
    scaling: Scaling = "both"

    def fold(self, block: CalibratedBlock) -> None:
        """See ``Method``: attention's input, attention's output, the feed-forward layer's input, its output."""
        self._fold(block, _QUERY_KEY_VALUE, lambda: _attention_output(block))
        if can_fold(block.block, _OUTPUT, self.folds[_OUTPUT]):
            self._fold(block, _OUTPUT, lambda: _linear_output(block, _OUTPUT[0]))
        self._fold(block, _GATE_UP, lambda: block.block.get_submodule(FEED_FORWARD)(block.inputs[_GATE_UP[0]].rows))
        self._fold(block, _DOWN, lambda: _linear_output(block, _DOWN[0]))

    def fit(self, layer: LinearLayer) -> AffineWeight:
        """See ``Method``."""
        size = self.columns_of(layer.weight.shape[1])
        weight_mn = layer.weight
        if self.clip and layer.inputs is not None and not layer.name.endswith(_NOT_CLIPPED):
            weight_mn = clipped(weight_mn, layer.inputs.rows, self.bits, size)
        return round_to_nearest(weight_mn, self.bits, size)

    def _fold(self, block: CalibratedBlock, group: tuple[str, ...], output: Output) -> None:
        """Search the scale of a group's input and fold it into the norm, or the Linear, that makes that input."""
        linears = [block.linear(name) for name in group]
        size = self.columns_of(linears[0].in_features)
        candidates = candidate_scales(block.inputs[group[0]].mean_abs, linears, size, self.scaling)
        scales_n, _ = best_scales(linears, candidates, output, self.bits, size)
        fold(block.block, group, self.folds[group], scales_n)
        for name in group:
            block.inputs[name] = block.inputs[name].divided(scales_n)


def candidate_scales(
    mean_abs_n: Tensor, linears: Sequence[nn.Linear], group_size: int, scaling: Scaling
) -> list[Tensor]:
    """Scales (n,) of the input that several Linears share: one for every r, for both forms after one another.

    The first is always that of no scaling.

    Args:
        mean_abs_n: mean |x| of each channel.
        linears: the Linears.
        group_size: columns of a group.
        scaling: the form.
    """
    powers = [step / STEPS for step in range(STEPS)]
    by_activations = [_scales(mean_abs_n.pow(power)) for power in powers]
    found = by_activations[: 1 if scaling == "duo" else STEPS]  # with a power of 0, none
    if scaling != "activations":
        weights_n = _relative_magnitude(linears, group_size)
        found += [_scales(mean_abs_n.pow(power) / (weights_n.pow(1 - power) + _LEAST_SCALE)) for power in powers]
    return found


def _relative_magnitude(linears: Sequence[nn.Linear], group_size: int) -> Tensor:
    """Mean over all rows of |w| over the largest of its group (n,)."""
    weight_mn = torch.cat([linear.weight.detach() for linear in linears])
    groups_mGg = weight_mn.abs().view(len(weight_mn), -1, group_size)
    return (groups_mGg / (groups_mGg.amax(-1, keepdim=True) + _NO_ZERO)).view_as(weight_mn).mean(0)


def best_scales(
    linears: list[nn.Linear], candidates: Sequence[Tensor], output: Output, bits: int, group_size: int
) -> tuple[Tensor, list[float]]:
    """The best of some scales (n,) of the input that several Linears share, and the error of each in their order.

    Args:
        linears: the Linears; they are as before when this returns.
        candidates: the scales.
        output: computes what the rounded Linears are judged by, from the Linears as they are.
        bits: of a code.
        group_size: columns of a group.
    """
    reference = output()
    originals = [linear.weight.detach().clone() for linear in linears]
    errors: list[float] = []
    for scales_n in candidates:
        for linear, original_mn in zip(linears, originals, strict=True):
            rounded = round_to_nearest(original_mn * scales_n, bits, group_size).dequantize()
            linear.weight.data = rounded / scales_n
        errors.append(float((output() - reference).square().mean()))
    for linear, original_mn in zip(linears, originals, strict=True):
        linear.weight.data = original_mn
    return candidates[errors.index(min(errors))], errors


def clipped(weight_mn: Tensor, rows_Rn: Tensor, bits: int, group_size: int) -> Tensor:
    """The weight with each group's magnitudes cut where its rounded share of the outputs changes least.

    Args:
        weight_mn: the weight.
        rows_Rn: inputs.
        bits: of a code.
        group_size: g, divides n.
    """
    inputs_GRg = rows_Rn.view(len(rows_Rn), -1, group_size).transpose(0, 1)
    parts = [_clipped(part, inputs_GRg, bits, group_size) for part in torch.split(weight_mn, _CLIP_ROWS)]
    return torch.cat(parts)


def _clipped(weight_mn: Tensor, inputs_GRg: Tensor, bits: int, group_size: int) -> Tensor:
    groups_mGg = weight_mn.view(len(weight_mn), -1, group_size)
    largest = groups_mGg.abs().amax(-1, keepdim=True)
    best, least = largest, torch.full_like(largest, torch.inf)
    for step in range(CLIP_STEPS):
        bound = largest * (1 - step / STEPS)
        cut = groups_mGg.clamp(-bound, bound)
        change_mGg = fit_grid(cut, bits).round(cut) - groups_mGg
        # (G, R, g) @ (G, g, m): what each group's change adds to each output of each row
        lost = (inputs_GRg @ change_mGg.permute(1, 2, 0)).square().mean(1).t()[..., None]
        better = lost < least
        best, least = torch.where(better, bound, best), torch.where(better, lost, least)
    return groups_mGg.clamp(-best, best).view_as(weight_mn)


def _scales(wanted_n: Tensor) -> Tensor:
    scales_n = wanted_n.clamp_min(_LEAST_SCALE)
    return scales_n / (scales_n.max() * scales_n.min()).sqrt()


def _attention_output(block: CalibratedBlock) -> Tensor:
    attention = block.block.get_submodule(ATTENTION)
    return torch.cat([attention(**call)[0].flatten(0, 1) for call in block.attention_calls])


def _linear_output(block: CalibratedBlock, name: str) -> Tensor:
    return F.linear(block.inputs[name].rows, block.linear(name).weight)
