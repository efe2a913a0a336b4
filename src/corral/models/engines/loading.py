"""The engine of a model by its reference: a directory of MoGU's parts decodes as MoGU does, any other model plainly."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from corral.models.engines.torch import TorchEngine
from corral.models.reference import ModelRef
from corral.models.routing.record import RoutingRecord, has_routing

if TYPE_CHECKING:
    import torch


def load_engine(
    ref: str | Path | ModelRef,
    *,
    dtype: torch.dtype | None = None,
    device: str | torch.device = "cpu",
    **options: Any,
) -> TorchEngine:
    """Model and tokenizer, loaded here.

    Args:
        ref: where the model comes from.
        dtype: of the weights; ``None`` keeps the stored dtype.
        device: where to put it.
        options: of ``TorchEngine``.

    Raises:
        NotFoundError: nothing at ``ref``, or nothing that can be read.
        MissingDependencyError: an embedded model's package is not installed.
        DataError: routing parts that do not fit their base.
    """
    parsed = ModelRef.parse(ref)
    if parsed.kind != "folder" or not has_routing(Path(parsed.name)):
        return TorchEngine.load(parsed, dtype=dtype, device=device, **options)
    from corral.models.chat import ChatTokenizer
    from corral.models.engines.first_tokens import FirstTokensSwitch
    from corral.models.loading import load_causal_lm, load_tokenizer

    return FirstTokensSwitch(
        load_causal_lm(parsed, dtype=dtype, device=device),
        ChatTokenizer(load_tokenizer(parsed)),
        first_tokens=RoutingRecord.read(Path(parsed.name)).first_tokens,
        name=str(ref),
        **options,
    )
