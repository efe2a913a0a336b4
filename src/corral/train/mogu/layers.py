"""Which layers are gated: all, some, or those whose attention tells malicious prompts best from benign ones.

The choice by separability follows the idea of MoGUv2 (arXiv 2509.06807); the measure, Fisher's, is ours to choose.

Legend: N prompts, I inputs of a projection.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from corral.core.errors import ConfigError
from corral.models.batching import pad, token_budget_batches
from corral.models.routing.reading import projection_inputs
from corral.models.sites import blocks
from corral.train.mogu.settings import RouterConfig

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from corral.models.chat import ChatTokenizer
    from corral.train.mogu.pairs import ResponsePair

_BATCH_TOKENS = 2048


def choose_layers(
    model: PreTrainedModel, chat: ChatTokenizer, pairs: Sequence[ResponsePair], config: RouterConfig
) -> tuple[int, ...]:
    """The layers to be gated, lowest first.

    Raises:
        ConfigError: no such layer, or ``auto`` with prompts of one kind only.
    """
    count = len(blocks(model.base_model))
    if config.layers == "all":
        return tuple(range(count))
    if config.layers != "auto":
        if not config.layers or any(not 0 <= layer < count for layer in config.layers):
            raise ConfigError(f"`{list(config.layers)}`: the model has layers 0 to {count - 1}", where="router.layers")
        return tuple(sorted(set(config.layers)))
    scores = separability(model, chat, pairs)
    kept = max(1, round(config.auto_share * count))
    return tuple(sorted(sorted(scores, key=lambda layer: -scores[layer])[:kept]))


def separability(model: PreTrainedModel, chat: ChatTokenizer, pairs: Sequence[ResponsePair]) -> Mapping[int, float]:
    """Layer to Fisher's score of its projection's inputs at the last token of the prompt.

    Raises:
        ConfigError: prompts of one kind only.
    """
    malicious_N = torch.tensor([pair.malicious for pair in pairs])
    if not 0 < int(malicious_N.sum()) < len(pairs):
        raise ConfigError("`auto` needs malicious and benign prompts", where="router.layers")
    layers = range(len(blocks(model.base_model)))
    prompts = [chat.encode_prompt(pair.prompt) for pair in pairs]
    rows: dict[int, dict[int, Tensor]] = {layer: {} for layer in layers}
    for batch in token_budget_batches([len(ids) for ids in prompts], _BATCH_TOKENS):
        padded = pad([prompts[i] for i in batch], side="left")
        with torch.no_grad(), projection_inputs(model, layers) as found:
            model.base_model(
                input_ids=padded.input_ids_BT,
                attention_mask=padded.attention_mask_BT,
                position_ids=padded.position_ids_BT,
                use_cache=False,
            )
        for layer in layers:
            rows[layer] |= dict(zip(batch, found[layer][:, -1].float(), strict=True))
    return {
        layer: fisher_score(torch.stack([rows[layer][i] for i in range(len(pairs))]), malicious_N) for layer in layers
    }


def fisher_score(states_NI: Tensor, malicious_N: Tensor) -> float:
    """Squared distance of the class means over the sum of the class variances, both summed over dimensions.

    Args:
        states_NI: a row a prompt.
        malicious_N: true for malicious prompts; both kinds occur.
    """
    first, second = states_NI[malicious_N].double(), states_NI[~malicious_N].double()
    between = (first.mean(dim=0) - second.mean(dim=0)).square().sum()
    within = first.var(dim=0, correction=0).sum() + second.var(dim=0, correction=0).sum()
    return float(between / within.clamp(min=1e-12))
