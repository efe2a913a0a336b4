"""IEC: IR-QLoRA's adapter, a LoRA whose halves are bridged by constant matrices (arXiv 2402.05445, section 3.3).

x' = A x + l1 (means of the r consecutive groups of n / r inputs) and y = B x' + l2 (each x' repeated m / r times), l1
and l2 starting at 0: then it is LoRA. Means and repeats are multiplications by constant matrices, so it merges:
dW = alpha / r (B + l2 R) (A + l1 M).

Legend: m outputs, n inputs, r rank.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own name for it
from transformers import set_seed

from corral.core.errors import ConfigError
from corral.models.loading import load_causal_lm
from corral.train.fine_tuning import FineTuned
from corral.train.fine_tuning_settings import FineTuningConfig
from corral.train.lora_targets import LINEARS
from corral.train.trained_layers import check_trained_layers

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class ElasticLora(nn.Module):
    """What the adapter adds to a layer's output.

    Args:
        inputs: n.
        outputs: m.
        rank: r; divides both.
        alpha: the sum is multiplied by alpha / r.
        seed: of A; B starts at zero.

    Raises:
        ConfigError: the rank does not divide both sides.
    """

    def __init__(self, inputs: int, outputs: int, *, rank: int, alpha: float, seed: int = 0) -> None:
        super().__init__()
        if rank < 1 or inputs % rank or outputs % rank:
            raise ConfigError(
                f"rank `{rank}` does not divide {inputs} inputs and {outputs} outputs",
                where="rank",
                hint=f"For example {math.gcd(inputs, outputs)}.",
            )
        bound = inputs**-0.5  # of Kaiming's uniform initialisation as LoRA uses it
        start_rn = torch.rand(rank, inputs, generator=torch.Generator().manual_seed(seed)) * 2 * bound - bound
        self.down = nn.Parameter(start_rn)
        self.up = nn.Parameter(torch.zeros(outputs, rank))
        self.bridge_in = nn.Parameter(torch.zeros(()))
        self.bridge_out = nn.Parameter(torch.zeros(()))
        self.rank, self.scale = rank, alpha / rank

    def forward(self, inputs: Tensor) -> Tensor:
        """(..., m) of inputs (..., n)."""
        means = inputs.reshape(*inputs.shape[:-1], self.rank, -1).mean(-1)
        between = F.linear(inputs, self.down) + self.bridge_in * means
        repeated = between.repeat_interleave(len(self.up) // self.rank, -1)
        added: Tensor = self.scale * (F.linear(between, self.up) + self.bridge_out * repeated)
        return added

    @torch.no_grad()
    def delta(self) -> Tensor:
        """dW (m, n): what a merge adds to the weight."""
        outputs, inputs = len(self.up), self.down.shape[1]
        unit = torch.eye(self.rank, device=self.down.device)
        means_rn = unit.repeat_interleave(inputs // self.rank, 1) * (self.rank / inputs)
        repeats_mr = unit.repeat_interleave(outputs // self.rank, 0)
        return self.scale * (self.up + self.bridge_out * repeats_mr) @ (self.down + self.bridge_in * means_rn)


class ElasticLinear(nn.Module):
    """A frozen Linear and the adapter beside it.

    Args:
        linear: stays as it is.
        adapter: is trained.
    """

    def __init__(self, linear: nn.Linear, adapter: ElasticLora) -> None:
        super().__init__()
        self.linear = linear.requires_grad_(False)
        self.adapter = adapter

    def forward(self, inputs: Tensor) -> Tensor:
        """(..., m) of inputs (..., n)."""
        computed: Tensor = self.linear(inputs) + self.adapter(inputs)
        return computed

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """The Linear with the adapter added to its weight, in place."""
        self.linear.weight += self.adapter.delta().to(self.linear.weight)
        return self.linear


class ElasticModel:
    """A model with an adapter beside each Linear of its upper layers; in the place of peft's wrapper.

    Args:
        model: frozen, and changed in place.
        first_layer: layers below stay as they are.
        rank: of every adapter.
        alpha: likewise.
        seed: of their starts.

    Raises:
        ConfigError: ``first_layer`` is not one of the layers, or the rank does not divide both sides of a Linear.
    """

    def __init__(self, model: PreTrainedModel, *, first_layer: int, rank: int, alpha: float, seed: int) -> None:
        check_trained_layers(first_layer, model.config.num_hidden_layers)
        model.requires_grad_(False)
        self.model = model
        blocks: Any = model.base_model.layers
        for number, block in enumerate(blocks[first_layer:]):
            for place, name in enumerate(LINEARS):
                owner, linear = _named(block, name)
                sizes = (linear.in_features, linear.out_features)
                start = seed * len(blocks) * len(LINEARS) + number * len(LINEARS) + place
                adapter = ElasticLora(*sizes, rank=rank, alpha=alpha, seed=start)
                setattr(owner, name, ElasticLinear(linear, adapter))

    def merge_and_unload(self) -> PreTrainedModel:
        """The model with ordinary Linears again, what was learnt added to them: there is no way back."""
        for module in list(self.model.modules()):
            for name, child in list(module.named_children()):
                if isinstance(child, ElasticLinear):
                    setattr(module, name, child.merged())
        return self.model


def prepare_elastic(base: str, config: FineTuningConfig) -> FineTuned:
    """The model in float32 with elastic adapters to train, in the place of ``fine_tuning.prepare_model``.

    What comes of it is kept merged (``save_model``): no other program reads such an adapter.

    Raises:
        NotFoundError: nothing at ``base``.
        ConfigError: see ``ElasticModel``, or ``full`` is set.
    """
    if config.full:
        raise ConfigError("elastic adapters are for a base that stays as it is", where="full", hint="Unset `full`.")
    set_seed(config.seed)
    model: Any = load_causal_lm(base, dtype=torch.float32)
    adapted = ElasticModel(
        model, first_layer=config.first_trained_layer, rank=config.rank, alpha=config.alpha, seed=config.seed
    )
    return FineTuned(model, adapted, base)


def _named(block: nn.Module, name: str) -> tuple[nn.Module, nn.Linear]:
    """The Linear of that last name in a block, and the module that holds it."""
    for owner in block.modules():
        child = dict(owner.named_children()).get(name)
        if isinstance(child, nn.Linear):
            return owner, child
    raise ConfigError(f"a layer has no Linear `{name}`", hint="Elastic adapters are for Llama-like models.")
