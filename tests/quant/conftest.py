"""A tiny random Llama, and Linears with inputs of uneven and correlated channels."""

from __future__ import annotations

import pytest
import torch

from corral.models.tiny import write_tiny_llama
from corral.quant.methods.base import LinearLayer
from corral.quant.statistics import InputAccumulator


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    return write_tiny_llama(tmp_path_factory.mktemp("model") / "tiny", weight_std=0.1, layers=2)


@pytest.fixture(scope="session")
def make_layer():
    def make(rows=16, columns=64, *, tokens=512, seed=0, dead=()):
        generator = torch.Generator().manual_seed(seed)
        mixing = torch.randn(columns, columns, generator=generator) / columns**0.5 + torch.eye(columns)
        inputs = torch.randn(tokens, columns, generator=generator) @ mixing
        inputs *= torch.rand(columns, generator=generator) * 3 + 0.1
        inputs[:, list(dead)] = 0
        counted = InputAccumulator(columns, tokens, hessian=True)
        counted.add(inputs)
        return LinearLayer("layer", torch.randn(rows, columns, generator=generator) * 0.1, counted.finish("layer"))

    return make
