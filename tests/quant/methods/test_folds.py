"""AWQ and SmoothQuant move scales without changing what a block computes."""

from __future__ import annotations

import pytest
import torch
import transformers
from transformers import LlamaConfig, LlamaForCausalLM

from corral.core.errors import ConfigError
from corral.quant.blocks import LINEAR_GROUPS, LINEARS, BlockStream, CalibratedBlock, llama_blocks
from corral.quant.folding import check_folds
from corral.quant.methods import awq
from corral.quant.methods.awq import STEPS, Awq, best_scales, candidate_scales, clipped
from corral.quant.methods.rtn import round_to_nearest
from corral.quant.methods.smoothquant import SmoothQuant, smoothing_scales

WINDOWS = torch.randint(0, 60, (4, 32), generator=torch.Generator().manual_seed(0))


def model(key_value_heads=2):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=60,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=key_value_heads,
        initializer_range=0.3,
    )
    made = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for block in made.model.layers:
            block.input_layernorm.weight.copy_(torch.rand(32) * 3 + 0.1)
    return made


def calibrated(made):
    stream = BlockStream(made, WINDOWS)
    name, block = next(iter(llama_blocks(made).items()))
    seen = stream.observe(block, LINEAR_GROUPS, hessian=False, where=name)
    return CalibratedBlock(name, block, seen, stream.attention_calls(block))


def logits(made):
    with torch.no_grad():
        return made(WINDOWS).logits


@pytest.mark.parametrize("method", [Awq(bits=3, group_size=16), SmoothQuant(alpha=0.5)])
@pytest.mark.parametrize("key_value_heads", [2, 4])
def test_folds_preserve_the_function(method, key_value_heads):
    made = model(key_value_heads)
    before = logits(made)
    weights = {name: made.model.layers[0].get_submodule(name).weight.clone() for name in LINEARS}
    with torch.no_grad():
        method.fold(calibrated(made))
    torch.testing.assert_close(logits(made), before, atol=1e-4, rtol=1e-5)
    changed = {
        name for name in LINEARS if not torch.equal(weights[name], made.model.layers[0].get_submodule(name).weight)
    }
    assert {"self_attn.q_proj", "mlp.up_proj"} <= changed
    # Fewer value channels than ``o_proj`` reads leave nowhere to fold its scale.
    assert ("self_attn.o_proj" in changed) == (isinstance(method, Awq) and key_value_heads == 4)


def others(kind, **settings):
    """A tiny random model of another architecture whose modules are named as in a Llama."""
    module = getattr(transformers, f"{kind}ForCausalLM")
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=60,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        **settings,
    )
    torch.manual_seed(0)
    return module(config).eval()


def checked(made, method):
    check_folds(llama_blocks(made), method.folds, BlockStream(made, WINDOWS), model_type=made.config.model_type)


@pytest.mark.parametrize("method", [Awq(group_size=16), SmoothQuant()])
@pytest.mark.parametrize("kind", ["Gemma", "Gemma2", "Cohere", "Olmo2"])
def test_blocks_that_a_fold_would_change_are_refused(kind, method):
    """Norms of 1 + weight, norms after the layer, one norm for two layers, or no norm before."""
    made = others(kind, **({"pad_token_id": 0} if kind == "Cohere" else {}))
    with pytest.raises(ConfigError, match="cannot be folded into the blocks of a `"):
        checked(made, method)


@pytest.mark.parametrize("method", [Awq(group_size=16), SmoothQuant()])
@pytest.mark.parametrize("kind", ["Llama", "Mistral", "Qwen2", "Qwen3"])
def test_blocks_of_llamas_kin_are_folded_and_trying_leaves_them_as_they_were(kind, method):
    made = others(kind)
    before = {name: values.clone() for name, values in made.state_dict().items()}
    checked(made, method)
    assert all(torch.equal(values, before[name]) for name, values in made.state_dict().items())


def test_a_norm_with_a_bias_is_refused():
    """Dividing the weight alone would leave the bias as it was."""
    made = model()
    for block in made.model.layers:
        block.input_layernorm = torch.nn.LayerNorm(32)
        torch.nn.init.ones_(block.input_layernorm.bias)
    with pytest.raises(ConfigError, match="after a fold into its `input_layernorm`"):
        checked(made, SmoothQuant())


def test_each_kind_of_block_is_tried():
    made = model()
    made.model.layers[1].input_layernorm = torch.nn.LayerNorm(32)
    torch.nn.init.ones_(made.model.layers[1].input_layernorm.bias)
    with pytest.raises(ConfigError, match=r"`model\.layers\.1` computes something else"):
        checked(made, Awq(group_size=16))


def test_the_statistics_of_a_folded_input_are_those_that_are_seen_then():
    made = model(4)
    block = calibrated(made)
    with torch.no_grad():
        Awq(bits=3, group_size=16).fold(block)
    again = calibrated(made).inputs
    for name in LINEARS:
        torch.testing.assert_close(block.inputs[name].rows, again[name].rows, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(block.inputs[name].max_abs, again[name].max_abs, atol=1e-4, rtol=1e-4)


def test_scales_over_the_weights_magnitude_are_autoawqs():
    """Closed form on a Linear of two rows: its weights beside the largest of each group of two, averaged."""
    linear = torch.nn.Linear(4, 2, bias=False)
    linear.weight.data = torch.tensor([[1.0, 2.0, -4.0, 1.0], [-3.0, 3.0, 0.0, 5.0]])
    mean_abs = torch.tensor([0.5, 2.0, 1.0, 4.0])
    relative = torch.tensor([0.75, 1.0, 0.5, 0.625])
    unscaled, *found = candidate_scales(mean_abs, [linear], 2, "duo")
    assert torch.equal(unscaled, torch.ones(4))
    assert len(found) == STEPS
    for step, scales in enumerate(found):
        wanted = mean_abs ** (step / STEPS) / (relative ** (1 - step / STEPS) + 1e-4)
        torch.testing.assert_close(scales, wanted / (wanted.max() * wanted.min()).sqrt(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("scaling", ["activations", "duo", "both"])
def test_the_search_of_awq_is_no_worse_than_without_scales(scaling):
    block = calibrated(model())
    linears = [block.linear(name) for name in LINEAR_GROUPS[2]]
    rows = block.inputs["mlp.up_proj"].rows
    before = [linear.weight.clone() for linear in linears]
    with torch.no_grad():
        candidates = candidate_scales(block.inputs["mlp.up_proj"].mean_abs, linears, 16, scaling)
        scales, errors = best_scales(linears, candidates, lambda: block.block.get_submodule("mlp")(rows), 3, 16)
        reference = block.block.get_submodule("mlp")(rows)
        for linear, weight in zip(linears, before, strict=True):
            linear.weight.data = round_to_nearest(weight, 3, 16).dequantize()
        unscaled = float((block.block.get_submodule("mlp")(rows) - reference).square().mean())
        for linear, weight in zip(linears, before, strict=True):
            linear.weight.data = weight.clone()
    assert len(errors) == {"activations": STEPS, "duo": STEPS + 1, "both": 2 * STEPS}[scaling]
    assert torch.equal(scales, candidates[errors.index(min(errors))])
    assert min(errors) <= unscaled * (1 + 1e-5)
    assert scales.max() * scales.min() == pytest.approx(1, rel=1e-4)
    assert all(torch.equal(linear.weight, weight) for linear, weight in zip(linears, before, strict=True))


def test_clipping_lowers_the_change_of_each_groups_share_of_the_outputs(monkeypatch):
    torch.manual_seed(1)
    weight, rows = torch.randn(6, 32), torch.randn(50, 32)
    weight[:, 5] *= 6  # an outlier that the others pay for
    cut = clipped(weight, rows, 3, 16)

    def lost(values):
        change = (round_to_nearest(values, 3, 16).dequantize() - weight).view(6, 2, 16)
        return torch.einsum("rgk,mgk->mgr", rows.view(50, 2, 16), change).square().mean(-1)

    assert (lost(cut) <= lost(weight) * (1 + 1e-5)).all()
    assert lost(cut).sum() < lost(weight).sum()
    monkeypatch.setattr(awq, "_CLIP_ROWS", 4)
    torch.testing.assert_close(clipped(weight, rows, 3, 16), cut)


def test_smoothing_scales_follow_the_formula():
    inputs, weights = torch.tensor([8.0, 0.0]), torch.tensor([2.0, 0.5])
    expected = torch.tensor([8**0.75 / 2**0.25, (1e-5) ** 0.75 / 0.5**0.25])
    torch.testing.assert_close(smoothing_scales(inputs, weights, 0.75), expected)


def test_smoothing_evens_out_the_inputs():
    made = model()
    made.model.layers[0].input_layernorm.weight.data[3] = 40.0
    block = calibrated(made)
    before = block.inputs["self_attn.q_proj"].max_abs
    with torch.no_grad():
        SmoothQuant().fold(block)
    after = block.inputs["self_attn.q_proj"].max_abs
    assert after.max() / after.median() < before.max() / before.median()
