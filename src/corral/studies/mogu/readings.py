"""Reading gates and what the routers read, prompt by prompt, and a linear probe on the same.

The mean over layers and tokens of a router's logit is a linear function of the inputs of all projections, averaged over
tokens and laid side by side. So that is what the probe gets: it could be the router, were it trained as one.

Legend: N prompts, L gated layers, B sequences, T tokens, I inputs of a projection.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from corral.core.errors import ConfigError
from corral.data.messages import Conversation
from corral.models.batching import pad, token_budget_batches
from corral.models.chat import ChatTokenizer
from corral.models.routing.installing import Routing, routing_of
from corral.models.routing.reading import projection_inputs

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

Floats = NDArray[np.float64]
_BATCH_TOKENS = 2048


@dataclass(frozen=True)
class GateReader:
    """Reads prompts with a gated model."""

    model: PreTrainedModel
    chat: ChatTokenizer

    @property
    def routing(self) -> Routing:
        """Of the model.

        Raises:
            ConfigError: it has none.
        """
        found = routing_of(self.model)
        if found is None:
            raise ConfigError("the model has no gates")
        return found

    def gates(self, prompts: Sequence[Conversation]) -> Floats:
        """Mean gates over each prompt's tokens, (N, L, 2): reluctant, eager."""
        import torch

        control = self.routing.control

        def read(batch: Any) -> list[Floats]:
            mask_BT = batch.attention_mask_BT.bool()
            with control.using("routed"), control.recorded() as gates:
                self._forward(batch)
            stacked = torch.stack([torch.stack(list(each)) for each in gates.values()])  # (L, 2, B, T)
            means = _mean_over_tokens(stacked, mask_BT)
            return [means[..., row].double().numpy() for row in range(len(mask_BT))]

        return np.stack(self._batched(prompts, read))

    def inputs(self, prompts: Sequence[Conversation]) -> Floats:
        """Inputs of the gated projections in the base model, averaged over each prompt's tokens, (N, L * I)."""
        import torch

        routing = self.routing

        def read(batch: Any) -> list[Floats]:
            mask_BT = batch.attention_mask_BT.bool()
            with routing.control.using("base"), projection_inputs(self.model, list(routing.gated)) as found:
                self._forward(batch)
            stacked = torch.stack([found[layer].float().movedim(-1, 0) for layer in routing.gated])  # (L, I, B, T)
            means = _mean_over_tokens(stacked, mask_BT)
            return [means[..., row].flatten().double().numpy() for row in range(len(mask_BT))]

        return np.stack(self._batched(prompts, read))

    def _forward(self, batch: Any) -> None:
        import torch

        with torch.no_grad():
            self.model.base_model(
                input_ids=batch.input_ids_BT,
                attention_mask=batch.attention_mask_BT,
                position_ids=batch.position_ids_BT,
                use_cache=False,
            )

    def _batched(self, prompts: Sequence[Conversation], read: Any) -> list[Floats]:
        ids = [self.chat.encode_prompt(prompt) for prompt in prompts]
        found: dict[int, Floats] = {}
        for batch in token_budget_batches([len(each) for each in ids], _BATCH_TOKENS):
            found |= dict(zip(batch, read(pad([ids[i] for i in batch], side="left")), strict=True))
        return [found[i] for i in range(len(ids))]


class LinearProbe:
    """Logistic regression on standardised inputs.

    Args:
        inputs: (N, D) of the training prompts.
        malicious: (N,) their labels.
    """

    def __init__(self, inputs: Floats, malicious: Sequence[bool]) -> None:
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        # More inputs than prompts: strongly regularised, as the routers are by their few steps.
        self._fit = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=2000))
        self._fit.fit(inputs, np.asarray(malicious))

    def scores(self, inputs: Floats) -> Floats:
        """Log-odds of malice, (N,)."""
        found: Floats = self._fit.decision_function(inputs)
        return found


def gap(gates_NL2: Floats) -> Floats:
    """Mean over layers of how far the reluctant gate is open beyond the eager one, (N,)."""
    difference: Floats = (gates_NL2[..., 0] - gates_NL2[..., 1]).mean(axis=1)
    return difference


def _mean_over_tokens(values: Tensor, mask_BT: Tensor) -> Tensor:
    """(..., B, T) to (..., B), over the real tokens."""
    return values.masked_fill(~mask_BT, 0.0).sum(dim=-1) / mask_BT.sum(dim=-1)
