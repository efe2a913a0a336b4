"""Gated copies of tiny Llamas with experts and routers that do something."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from corral.models.routing.installing import Routing, RoutingShape, install_routing
from corral.models.tiny import write_tiny_llama


@pytest.fixture(scope="session")
def wide_heads() -> LlamaForCausalLM:
    """Heads whose sizes do not add up to the hidden size, two to a key-value head; tied head."""
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=61,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=12,
        max_position_embeddings=64,
        initializer_range=0.2,
        tie_word_embeddings=True,
    )
    return LlamaForCausalLM(config).eval()


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_llama(tmp_path_factory.mktemp("models") / "tiny", weight_std=0.2)


def gate(
    model: LlamaForCausalLM, *, layers: tuple[int, ...] = (0, 1, 2), glad: bool = True, router: str = "faithful"
) -> tuple[LlamaForCausalLM, Routing]:
    """A gated copy whose experts and routers hold random numbers."""
    gated = copy.deepcopy(model)
    shape = RoutingShape(layers, rank=2, alpha=4, router=router, router_width=16)  # type: ignore[arg-type]
    routing = install_routing(gated, shape, glad=glad)
    random = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for part in ("unwill", "glad", "router"):
            for parameter in routing.parameters(part):  # type: ignore[arg-type]
                parameter.copy_(torch.randn(parameter.shape, generator=random) * 0.3)
    return gated.eval(), routing


@pytest.fixture
def gated(wide_heads: LlamaForCausalLM) -> tuple[LlamaForCausalLM, Routing]:
    return gate(wide_heads)


@pytest.fixture
def gate_model():
    return gate
