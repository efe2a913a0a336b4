"""MoGU's parts on disk: a record, and a safetensors file each for the reluctant expert, the eager one and the routers.

The base model is not copied: the record names it and the revision of its weights. The eager expert is a file of its own
so that it can be left out, or kept under lock: a trained one makes the model comply. Routers are stored collapsed.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from corral.core.errors import DataError
from corral.core.files import atomic_directory, atomic_write_json, sha256_file
from corral.core.progress import milestone
from corral.models.routing.gated import CollapsedRouter, LoraExpert
from corral.models.routing.installing import Part, Routing, RoutingShape, install_routing
from corral.models.routing.record import PARTS, RECORD, RoutingRecord, stored_base
from corral.models.sites import blocks

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from transformers import PreTrainedModel

FIRST_TOKENS: Final = 5
"""Tokens of an answer that the gated model writes (arXiv 2405.14488, section 3.4)."""


def save_routing(
    model: PreTrainedModel,
    routing: Routing,
    folder: Path,
    *,
    base: str,
    base_revision: str,
    first_tokens: int = FIRST_TOKENS,
) -> RoutingRecord:
    """Write the parts of a gated model; an existing folder is replaced.

    Args:
        model: it.
        routing: its gates.
        folder: to be written.
        base: reference of the model without gates.
        base_revision: of its weights.
        first_tokens: that the gated model writes before the base goes on.
    """
    first = next(iter(routing.gated.values()))
    with atomic_directory(folder, replace=True) as staged:
        tensors = {"unwill": _experts(routing, "unwill"), "router": _routers(routing)}
        if routing.has_glad:
            tensors["glad"] = _experts(routing, "glad")
        for part, named in tensors.items():
            save_file(named, staged / PARTS[part])
        record = RoutingRecord(
            base=stored_base(base, folder),
            base_revision=base_revision,
            base_layers=len(blocks(model.base_model)),
            inputs=first.in_features,
            outputs=first.out_features,
            layers=tuple(routing.gated),
            rank=len(first.unwill.a_RI),
            alpha=first.unwill.scale * len(first.unwill.a_RI),
            glad="trained" if routing.has_glad else "base",
            first_tokens=first_tokens,
            parts={part: sha256_file(staged / PARTS[part]) for part in sorted(tensors)},
        )
        atomic_write_json(staged / RECORD, record.model_dump(mode="json"))
    return record


def load_routed(
    folder: Path, *, dtype: torch.dtype | None = None, device: str | torch.device = "cpu"
) -> PreTrainedModel:
    """The base model with the gates of a directory, in mode ``routed``.

    Without the file of a trained eager expert its place is taken by the base model, which is said.

    Args:
        folder: holds ``routing.json``.
        dtype: of the base and the experts; ``None`` keeps the base's. Routers are float32.
        device: where to put it.

    Raises:
        NotFoundError: no record, or no base model.
        DataError: a base of other weights or sizes, or a part that is missing or differs from its record.
    """
    from corral.models.loading import load_causal_lm, weights_revision

    record = RoutingRecord.read(folder)
    base = record.base_reference(folder)
    found = weights_revision(base)
    if found != record.base_revision:
        raise DataError(
            f"was trained on revision `{record.base_revision}` of `{base}`, which is now `{found}`",
            where=str(folder / RECORD),
            hint="Give the base model back, or train the parts anew on this one.",
        )
    model = load_causal_lm(base, dtype=dtype, device=device)
    tensors = {part: _read(folder, part, record) for part in ("unwill", "router")}
    glad = _read_glad(folder, record)
    _check_sizes(model, record, folder)
    shape = RoutingShape(record.layers, rank=record.rank, alpha=record.alpha, router="collapsed")
    routing = install_routing(model, shape, glad=glad is not None)
    _check_projections(routing, record, folder)
    _fill_experts(routing, "unwill", tensors["unwill"], folder)
    if glad is not None:
        _fill_experts(routing, "glad", glad, folder)
    _fill_routers(routing, tensors["router"], folder)
    experts: tuple[Part, ...] = ("unwill", "glad")
    for part in experts:
        for module in routing.modules(part):
            module.to(model.dtype)
    return model.requires_grad_(requires_grad=False).eval()


def _experts(routing: Routing, part: str) -> dict[str, Tensor]:
    tensors = {}
    for layer, each in routing.gated.items():
        expert: LoraExpert = getattr(each, part)
        tensors[f"layers.{layer}.a"] = expert.a_RI.detach().float().cpu().contiguous()
        tensors[f"layers.{layer}.b"] = expert.b_OR.detach().float().cpu().contiguous()
    return tensors


def _routers(routing: Routing) -> dict[str, Tensor]:
    tensors = {}
    for layer, each in routing.gated.items():
        for gate, router in (("unwill", each.unwill_router), ("glad", each.glad_router)):
            weight_I, bias = router.collapsed()
            tensors[f"layers.{layer}.{gate}.weight"] = weight_I.float().cpu().contiguous()
            tensors[f"layers.{layer}.{gate}.bias"] = bias.float().cpu().reshape(1)
    return tensors


def _read(folder: Path, part: str, record: RoutingRecord) -> dict[str, Tensor]:
    path = folder / PARTS[part]
    if not path.is_file():
        raise DataError(f"the part `{part}` is missing", where=str(path), hint="Copy the whole directory.")
    if sha256_file(path) != record.parts.get(part):
        raise DataError(f"the part `{part}` differs from its record", where=str(path), hint="Copy it again.")
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except SafetensorError as error:
        raise DataError(f"the part `{part}` cannot be read", where=str(path)) from error
    return tensors


def _read_glad(folder: Path, record: RoutingRecord) -> dict[str, Tensor] | None:
    if record.glad == "base":
        return None
    if not (folder / PARTS["glad"]).is_file():
        milestone(f"warning: {folder} comes without its eager expert; the base model takes its place")
        return None
    return _read(folder, "glad", record)


def _check_sizes(model: PreTrainedModel, record: RoutingRecord, folder: Path) -> None:
    layers = len(blocks(model.base_model))
    if layers != record.base_layers:
        raise DataError(
            f"is for a model of {record.base_layers} layers, the base has {layers}", where=str(folder / RECORD)
        )


def _check_projections(routing: Routing, record: RoutingRecord, folder: Path) -> None:
    for layer, each in routing.gated.items():
        found, recorded = (each.in_features, each.out_features), (record.inputs, record.outputs)
        if found != recorded:
            raise DataError(
                f"is for projections of {recorded[0]} inputs and {recorded[1]} outputs, layer {layer} of the base has "
                f"{found[0]} and {found[1]}",
                where=str(folder / RECORD),
            )


def _fill_experts(routing: Routing, part: str, tensors: Mapping[str, Tensor], folder: Path) -> None:
    for layer, each in routing.gated.items():
        expert: LoraExpert = getattr(each, part)
        for name, parameter in (("a", expert.a_RI), ("b", expert.b_OR)):
            _fill(parameter, tensors, f"layers.{layer}.{name}", folder / PARTS[part])


def _fill_routers(routing: Routing, tensors: Mapping[str, Tensor], folder: Path) -> None:
    for layer, each in routing.gated.items():
        for gate in ("unwill", "glad"):
            router: CollapsedRouter = getattr(each, f"{gate}_router")
            _fill(router.weight_I, tensors, f"layers.{layer}.{gate}.weight", folder / PARTS["router"])
            _fill(router.bias.view(1), tensors, f"layers.{layer}.{gate}.bias", folder / PARTS["router"])


def _fill(parameter: Tensor, tensors: Mapping[str, Tensor], name: str, path: Path) -> None:
    import torch

    stored = tensors.get(name)
    if stored is None or stored.shape != parameter.shape:
        shape = None if stored is None else tuple(stored.shape)
        raise DataError(f"`{name}` has shape `{shape}`, the base needs `{tuple(parameter.shape)}`", where=str(path))
    with torch.no_grad():
        parameter.copy_(stored)
