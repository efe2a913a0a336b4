"""The gated output projection of attention: a frozen projection, two LoRA experts, and routers that weigh them.

Source: MoGU (arXiv 2405.14488). With h the input of ``o_proj``,

    o = (a + b) W_o h + s (a B_u A_u h + b B_g A_g h),   a = sigmoid(f_u(h)),   b = sigmoid(f_g(h))

where u is the reluctant expert ("unwill"), g the eager one ("glad") and s = alpha / rank. The gates are two independent
sigmoids, a scalar each for a token and layer. A router f is three Linears without a non-linearity between them, so
that it equals one vector and one bias; ``CollapsedRouter`` is that. Where there is no eager expert, the model as it is
takes its place (B_g A_g = 0).

Ours: the last Linear of a router begins at zero, so that a = b = 0.5 and an untrained mixture is the model itself (with
both gates near zero the output of attention would vanish). Dropout of an expert acts only while that expert trains.

Legend: B sequences, T tokens, I inputs and O outputs of the projection, R rank, H width of a faithful router.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from corral.core.errors import ConfigError

GateMode = Literal["routed", "base", "unwill", "glad"]
"""``routed``: the gates of the routers; ``base``: the plain projection; ``unwill``: a = 1, b = 0; ``glad``: the other
way round."""
GATE_MODES: Final[tuple[GateMode, ...]] = get_args(GateMode)
ROUTER_WIDTH: Final = 512


class Gates(NamedTuple):
    """The gates of one layer in one forward pass, each (B, T), in float32."""

    unwill_BT: Tensor
    glad_BT: Tensor


class GateControl:
    """How the gated projections of one model behave, and what their gates were.

    A mode that is set for a block, and what is recorded in one, hold for the thread that set it; other threads may use
    the model meanwhile.

    Attributes:
        default: the mode outside of such blocks.
    """

    def __init__(self, default: GateMode = "routed") -> None:
        self.default: GateMode = default
        self._modes: dict[int, GateMode] = {}
        self._records: dict[int, dict[int, Gates]] = {}

    @property
    def mode(self) -> GateMode:
        """The mode of this thread."""
        return self._modes.get(threading.get_ident(), self.default)

    @contextmanager
    def using(self, mode: GateMode) -> Iterator[None]:
        """Another mode in the block."""
        thread = threading.get_ident()
        before = self._modes.get(thread)
        self._modes[thread] = mode
        try:
            yield
        finally:
            if before is None:
                del self._modes[thread]
            else:
                self._modes[thread] = before

    @contextmanager
    def recorded(self) -> Iterator[Mapping[int, Gates]]:
        """Layer to its gates in the last routed forward pass of the block; gradients flow through them."""
        thread = threading.get_ident()
        before = self._records.get(thread)
        record: dict[int, Gates] = {}
        self._records[thread] = record
        try:
            yield record
        finally:
            if before is None:
                del self._records[thread]
            else:
                self._records[thread] = before

    def note(self, layer: int, gates: Gates) -> None:
        """Keep the gates of a layer if this thread records them."""
        record = self._records.get(threading.get_ident())
        if record is not None:
            record[layer] = gates


class LoraExpert(nn.Module):
    """What a LoRA adds to a projection: ``alpha / rank * B A h`` (arXiv 2106.09685); B begins at zero.

    Args:
        inputs: I.
        outputs: O.
        rank: R.
        alpha: numerator of the scale.
        dropout: share of the inputs that is dropped while the expert trains.
    """

    def __init__(self, inputs: int, outputs: int, *, rank: int, alpha: float, dropout: float = 0.0) -> None:
        super().__init__()
        self.a_RI = nn.Parameter(torch.empty(rank, inputs))
        self.b_OR = nn.Parameter(torch.zeros(outputs, rank))
        self.scale = alpha / rank
        self.dropout = dropout
        nn.init.kaiming_uniform_(self.a_RI, a=math.sqrt(5))

    def forward(self, h_BTI: Tensor) -> Tensor:
        """What is added, in the dtype of the input."""
        kept = functional.dropout(
            h_BTI.to(self.a_RI.dtype), self.dropout, training=self.training and self.a_RI.requires_grad
        )
        added: Tensor = functional.linear(functional.linear(kept, self.a_RI), self.b_OR) * self.scale
        return added.to(h_BTI.dtype)


class CollapsedRouter(nn.Module):
    """A router as one vector and one bias, computed in float32.

    Args:
        inputs: I.
    """

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.weight_I = nn.Parameter(torch.zeros(inputs))
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, h_BTI: Tensor) -> Tensor:
        """The logit of the gate, (B, T)."""
        logits: Tensor = h_BTI.float() @ self.weight_I.float() + self.bias.float()
        return logits

    def collapsed(self) -> tuple[Tensor, Tensor]:
        """Vector (I,) and bias ()."""
        return self.weight_I.detach(), self.bias.detach()


class FaithfulRouter(nn.Module):
    """A router as published: I to H without a bias, H to I, I to 1, nothing between.

    It computes what a ``CollapsedRouter`` does, and takes another path when it is trained.

    Args:
        inputs: I.
        width: H.
    """

    def __init__(self, inputs: int, width: int = ROUTER_WIDTH) -> None:
        super().__init__()
        self.narrow = nn.Linear(inputs, width, bias=False)
        self.widen = nn.Linear(width, inputs)
        self.score = nn.Linear(inputs, 1)
        nn.init.zeros_(self.score.weight)
        nn.init.zeros_(self.score.bias)

    def forward(self, h_BTI: Tensor) -> Tensor:
        """The logit of the gate, (B, T)."""
        logits: Tensor = self.score(self.widen(self.narrow(h_BTI.float()))).squeeze(-1)
        return logits.float()

    def collapsed(self) -> tuple[Tensor, Tensor]:
        """Vector (I,) and bias () of the same map: w = W3 W2 W1, c = W3 b2 + b3, multiplied in double precision."""
        with torch.no_grad():
            score_1I = self.score.weight.double()
            weight_1I = score_1I @ self.widen.weight.double() @ self.narrow.weight.double()
            bias_1 = score_1I @ self.widen.bias.double() + self.score.bias.double()
        return weight_1I[0].float(), bias_1[0].float()


Router = FaithfulRouter | CollapsedRouter


class GatedProjection(nn.Module):
    """Stands in the place of an ``o_proj``.

    Args:
        projection: the model's own, which is frozen.
        layer: its number, under which gates are recorded.
        control: shared by all gated projections of a model.
        unwill: the reluctant expert.
        glad: the eager one; ``None`` for the model as it is.
        routers: of the reluctant and of the eager gate.
    """

    def __init__(
        self,
        projection: nn.Linear,
        layer: int,
        control: GateControl,
        *,
        unwill: LoraExpert,
        glad: LoraExpert | None,
        routers: tuple[Router, Router],
    ) -> None:
        super().__init__()
        self.projection = projection
        self.layer = layer
        self.control = control
        self.unwill = unwill
        self.glad = glad
        self.unwill_router, self.glad_router = routers

    @property
    def in_features(self) -> int:
        """I."""
        return self.projection.in_features

    @property
    def out_features(self) -> int:
        """O."""
        return self.projection.out_features

    def gates(self, h_BTI: Tensor) -> Gates:
        """What the routers say."""
        return Gates(torch.sigmoid(self.unwill_router(h_BTI)), torch.sigmoid(self.glad_router(h_BTI)))

    def forward(self, h_BTI: Tensor) -> Tensor:
        """The output of attention, (B, T, O)."""
        plain_BTO: Tensor = self.projection(h_BTI)
        mode = self.control.mode
        if mode == "base":
            return plain_BTO
        if mode != "routed":
            expert = self.unwill if mode == "unwill" else self.glad
            alone_BTO: Tensor = plain_BTO if expert is None else plain_BTO + expert(h_BTI)
            return alone_BTO
        gates = self.gates(h_BTI)
        self.control.note(self.layer, gates)
        a_BT1, b_BT1 = (gate_BT[..., None].to(plain_BTO.dtype) for gate_BT in gates)
        mixed_BTO: Tensor = (a_BT1 + b_BT1) * plain_BTO + a_BT1 * self.unwill(h_BTI)
        if self.glad is not None:
            mixed_BTO = mixed_BTO + b_BT1 * self.glad(h_BTI)
        return mixed_BTO


def require_plain_projection(module: nn.Module | None, where: str) -> nn.Linear:
    """The ``o_proj`` of a layer, if it can be gated.

    Raises:
        ConfigError: there is none, it is gated already, or it is quantised or otherwise no plain Linear.
    """
    if isinstance(module, GatedProjection):
        raise ConfigError("the model is gated already", where=where, hint="Remove its routing first.")
    if type(module) is not nn.Linear:
        found = "nothing" if module is None else f"`{type(module).__name__}`"
        raise ConfigError(
            f"expected a plain Linear, found {found}",
            where=where,
            hint="Gates need a Llama whose attention outputs are neither quantised nor adapted: load the plain model.",
        )
    return module
