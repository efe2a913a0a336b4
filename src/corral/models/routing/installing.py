"""Putting gated projections into a model, finding them, and taking them out without a trace."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from corral.core.errors import ConfigError
from corral.models.routing.gated import (
    ROUTER_WIDTH,
    CollapsedRouter,
    FaithfulRouter,
    GateControl,
    GatedProjection,
    Gates,
    LoraExpert,
    Router,
    require_plain_projection,
)
from corral.models.sites import blocks

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel

RouterForm = Literal["faithful", "collapsed"]
Part = Literal["unwill", "glad", "router"]


@dataclass(frozen=True, slots=True)
class RoutingShape:
    """What gated projections are made of.

    Attributes:
        layers: those that are gated, lowest first.
        rank: of the experts.
        alpha: of the experts; their scale is ``alpha / rank``.
        dropout: of an expert's input while it trains.
        router: ``faithful``, as published, or ``collapsed``.
        router_width: of a faithful router.
    """

    layers: tuple[int, ...]
    rank: int = 8
    alpha: float = 16
    dropout: float = 0.0
    router: RouterForm = "faithful"
    router_width: int = ROUTER_WIDTH


@dataclass(frozen=True)
class Routing:
    """The gated projections of one model.

    Attributes:
        control: their mode.
        gated: layer to projection, lowest first.
    """

    control: GateControl
    gated: Mapping[int, GatedProjection]

    @property
    def has_glad(self) -> bool:
        """Whether there is an eager expert."""
        return all(each.glad is not None for each in self.gated.values())

    def modules(self, part: Part) -> Iterator[nn.Module]:
        """The modules of one part, layer by layer."""
        for each in self.gated.values():
            if part == "router":
                yield from (each.unwill_router, each.glad_router)
            elif (expert := each.unwill if part == "unwill" else each.glad) is not None:
                yield expert

    def parameters(self, part: Part) -> list[nn.Parameter]:
        """The parameters of one part."""
        return [parameter for module in self.modules(part) for parameter in module.parameters()]

    def train_only(self, part: Part, model: PreTrainedModel) -> None:
        """Mark the parameters of one part, and no other of the model, as those that are trained.

        Raises:
            ConfigError: the part is not there.
        """
        chosen = self.parameters(part)
        if not chosen:
            raise ConfigError(f"there is no `{part}` expert to train", where=part)
        model.requires_grad_(False)
        for parameter in chosen:
            parameter.requires_grad_(True)


def install_routing(model: PreTrainedModel, shape: RoutingShape, *, glad: bool = False) -> Routing:
    """Gate the attention outputs of some layers, with fresh experts and routers: the model computes what it did.

    New weights are float32 and on the device of the projection that they stand beside.

    Args:
        model: a Llama for causal language modelling; changed in place.
        shape: of what is put in.
        glad: whether there is an eager expert.

    Raises:
        ConfigError: no such layer, or an ``o_proj`` that cannot be gated; then nothing is changed.
    """
    stack = blocks(model.base_model)
    if not shape.layers or any(not 0 <= layer < len(stack) for layer in shape.layers):
        raise ConfigError(f"`{list(shape.layers)}`: the model has layers 0 to {len(stack) - 1}", where="layers")
    plain = {layer: _plain_projection(stack, layer) for layer in sorted(set(shape.layers))}
    control = GateControl()
    gated = {layer: _gated(projection, layer, control, shape, glad=glad) for layer, projection in plain.items()}
    for layer, module in gated.items():
        _attention(stack, layer).o_proj = module
    return Routing(control, gated)


def remove_routing(model: PreTrainedModel) -> None:
    """Put the model's own projections back; does nothing to a model without gates."""
    stack = blocks(model.base_model)
    for layer, module in _found(model).items():
        _attention(stack, layer).o_proj = module.projection


def routing_of(model: PreTrainedModel) -> Routing | None:
    """The gates of a model, ``None`` when it has none."""
    found = _found(model)
    return Routing(next(iter(found.values())).control, found) if found else None


@contextmanager
def recorded_gates(model: PreTrainedModel) -> Iterator[Mapping[int, Gates]]:
    """Layer to its gates in the last routed forward pass of the block.

    Raises:
        ConfigError: the model has no gates.
    """
    routing = routing_of(model)
    if routing is None:
        raise ConfigError("the model has no gates", hint="Load a directory that MoGU's training wrote.")
    with routing.control.recorded() as record:
        yield record


def collapse_routers(routing: Routing) -> None:
    """Replace faithful routers by the vectors that they equal, in place."""
    for each in routing.gated.values():
        each.unwill_router = as_collapsed(*each.unwill_router.collapsed())
        each.glad_router = as_collapsed(*each.glad_router.collapsed())


def as_collapsed(weight_I: Tensor, bias: Tensor) -> CollapsedRouter:
    """A router with these weights, on their device."""
    import torch

    router = CollapsedRouter(len(weight_I)).to(weight_I.device)
    with torch.no_grad():
        router.weight_I.copy_(weight_I)
        router.bias.copy_(bias)
    return router


def _gated(
    projection: nn.Linear, layer: int, control: GateControl, shape: RoutingShape, *, glad: bool
) -> GatedProjection:
    inputs, outputs = projection.in_features, projection.out_features

    def expert() -> LoraExpert:
        return LoraExpert(inputs, outputs, rank=shape.rank, alpha=shape.alpha, dropout=shape.dropout)

    def router() -> Router:
        return FaithfulRouter(inputs, shape.router_width) if shape.router == "faithful" else CollapsedRouter(inputs)

    made = GatedProjection(
        projection,
        layer,
        control,
        unwill=expert(),
        glad=expert() if glad else None,
        routers=(router(), router()),
    )
    device = projection.weight.device
    for module in (made.unwill, made.glad, made.unwill_router, made.glad_router):
        if module is not None:
            module.to(device)
    return made.train(projection.training)


def _plain_projection(stack: nn.ModuleList, layer: int) -> nn.Linear:
    where = f"layers.{layer}.self_attn.o_proj"
    return require_plain_projection(getattr(getattr(stack[layer], "self_attn", None), "o_proj", None), where)


def _attention(stack: nn.ModuleList, layer: int) -> Any:
    return stack[layer].self_attn


def _found(model: PreTrainedModel) -> dict[int, GatedProjection]:
    found = {}
    for layer, block in enumerate(blocks(model.base_model)):
        module = getattr(getattr(block, "self_attn", None), "o_proj", None)
        if isinstance(module, GatedProjection):
            found[layer] = module
    return found
