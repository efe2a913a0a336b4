"""Stacked weights share memory with the model, and models that compute something else are told apart."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from corral.models.packed.matrices import Matrix, Rows, stack_rows, stacked
from corral.models.packed.weights import is_plain_llama, model_weights, weights_state


def test_parameters_become_views_of_the_stacked_matrix_and_keep_their_values():
    weights = [nn.Parameter(torch.randn(rows, 4)) for rows in (3, 2, 2)]
    before = torch.cat([weight.detach().clone() for weight in weights])
    stacked = stack_rows(weights)
    assert torch.equal(stacked, before)
    assert torch.equal(torch.cat(list(weights)), before)
    with torch.no_grad():
        weights[1].zero_()
    assert not stacked[3:5].any()
    assert stack_rows(weights).data_ptr() == stacked.data_ptr()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("reorder", [False, True])
def test_a_product_is_that_of_torch(dtype, reorder):
    torch.manual_seed(0)
    weight, inputs = torch.randn(24, 16).to(dtype), torch.randn(5, 16).to(dtype)
    torch.testing.assert_close(Matrix(weight, reorder=reorder)(Rows(inputs)), inputs @ weight.t())
    halves = [nn.Parameter(half) for half in weight.split(12)]
    torch.testing.assert_close(stacked(halves, reorder=reorder)(Rows(inputs)), inputs @ weight.t())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("reorder", [False, True])
def test_a_gated_product_is_the_activation_of_one_times_the_other(dtype, reorder):
    torch.manual_seed(0)
    gate, up = torch.randn(2, 24, 16)
    inputs = torch.randn(5, 16).to(dtype)
    matrices = [Matrix(weight.to(dtype), reorder=reorder) for weight in (gate, up)]
    expected = nn.functional.silu(inputs.float() @ gate.to(dtype).t().float()) * (
        inputs.float() @ up.to(dtype).t().float()
    )
    product = matrices[0].gated(matrices[1], Rows(inputs))
    assert product.dtype == dtype
    tolerance = 1e-5 if dtype == torch.float32 else 0.02
    torch.testing.assert_close(product.float(), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("reorder_bytes", [0, 2**30])
def test_the_model_computes_and_saves_as_before(make_llama, tmp_path, monkeypatch, reorder_bytes):
    monkeypatch.setattr("corral.models.packed.weights.REORDER_BYTES", reorder_bytes)
    model = make_llama()
    ids = torch.tensor([[1, 2, 3]])
    before = model(ids).logits
    model_weights(model)
    torch.testing.assert_close(model(ids).logits, before)
    model.save_pretrained(tmp_path)
    assert torch.equal(type(model).from_pretrained(tmp_path)(ids).logits, model(ids).logits)


def test_a_change_of_weights_is_seen(make_llama):
    model = make_llama()
    model_weights(model)
    state = weights_state(model)
    assert weights_state(model) == state
    with torch.no_grad():
        model.model.norm.weight.mul_(2)
    assert weights_state(model) != state


def test_a_plain_llama_is_known_in_both_dtypes(make_llama):
    assert is_plain_llama(make_llama())
    assert is_plain_llama(make_llama(torch.bfloat16))


@pytest.mark.parametrize(
    "change",
    [
        lambda model: model.half(),
        lambda model: model.train(),
        lambda model: model.model.layers[0].register_forward_hook(lambda *_: None),
        lambda model: setattr(model, "lm_head", nn.Sequential(model.lm_head)),
        lambda model: setattr(model.model.layers[1].mlp, "up_proj", _Scaled(48, 64, bias=False)),
        lambda model: setattr(model.config, "rope_parameters", {"rope_type": "llama3", "rope_theta": 1e4}),
        lambda model: setattr(model.config, "hidden_act", "gelu"),
    ],
)
def test_a_model_that_computes_something_else_is_told_apart(make_llama, change):
    model = make_llama()
    change(model)
    assert not is_plain_llama(model)


class _Scaled(nn.Linear):
    """A layer that a library might put in the place of another."""
