"""Folders with packed weights are read like any other model's."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

from corral.core.errors import DataError, NotFoundError
from corral.models.engines.base import GenerationSettings
from corral.models.engines.torch import TorchEngine
from corral.models.loading import load_backbone, load_causal_lm, weights_revision
from corral.models.quantized.folder import is_quantized_folder
from corral.models.quantized.linear import quantized_linears
from corral.models.tiny import write_tiny_llama
from corral.quant.methods.nf4 import Nf4
from corral.quant.quantize import quantize

IDS = torch.tensor([[5, 6, 7, 8]])


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return write_tiny_llama(tmp_path_factory.mktemp("model") / "tiny", weight_std=0.1, layers=2)


@pytest.fixture(scope="module")
def folder(tiny, tmp_path_factory):
    out = tmp_path_factory.mktemp("quantized") / "nf4"
    quantize(tiny, "nf4", Nf4(), out)
    return out


def dequantized_model(tiny, packed):
    model = load_causal_lm(tiny)
    for name, layer in packed.items():
        model.get_submodule(name).weight.data = layer.packed.dequantize()
    return model


def test_a_folder_computes_what_its_dequantized_weights_compute(folder, tiny):
    model = load_causal_lm(folder)
    packed = quantized_linears(model)
    assert len(packed) == 14
    assert torch.equal(model(IDS).logits, dequantized_model(tiny, packed)(IDS).logits)


def test_lower_layers_and_the_stack_alone_are_read(folder):
    whole = load_causal_lm(folder)(IDS, output_hidden_states=True).hidden_states
    torch.testing.assert_close(load_backbone(folder, layers=1)(IDS).last_hidden_state, whole[1])
    assert load_backbone(folder, final_norm=True)(IDS).last_hidden_state.equal(whole[-1])


def test_engines_generate_and_score_with_it(folder, tiny):
    engine = TorchEngine.load(folder)
    (written,) = engine.generate(["some text"], GenerationSettings(max_new_tokens=3))
    assert len(written.token_ids) <= 3
    plain = TorchEngine(dequantized_model(tiny, quantized_linears(engine.model)), engine.chat)
    found, expected = (each.label_logprobs(["some text"], ["yes", "no"])[0] for each in (engine, plain))
    assert found == pytest.approx(expected, abs=1e-3)


def test_another_dtype_is_taken_by_what_is_not_packed(folder):
    model = load_causal_lm(folder, dtype=torch.bfloat16)
    assert model.dtype == torch.bfloat16
    assert model(IDS).logits.dtype == torch.bfloat16
    assert next(iter(quantized_linears(model).values())).packed.tensors()["absmax_scales"].dtype == torch.float32


def test_the_revision_follows_the_numbers_that_say_how_to_read_codes(folder, tmp_path):
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in folder.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    assert weights_revision(copy) == weights_revision(folder)
    described = json.loads((copy / "quantization.json").read_text())
    described["layers"]["model.layers.0.mlp.up_proj"]["block_size"] = 32
    (copy / "quantization.json").write_text(json.dumps(described))
    assert weights_revision(copy) != weights_revision(folder)
    with pytest.raises(DataError, match="up_proj"):
        load_causal_lm(copy)


def test_a_version_of_tomorrow_and_a_missing_file_are_refused(folder, tmp_path):
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in folder.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    described = json.loads((copy / "quantization.json").read_text())
    (copy / "quantization.json").write_text(json.dumps(described | {"schema_version": 9}))
    with pytest.raises(DataError, match="version `9`"):
        load_causal_lm(copy)
    (copy / "packed.safetensors").unlink()
    with pytest.raises(NotFoundError, match=r"packed\.safetensors"):
        load_causal_lm(copy)


def test_other_programs_refuse_the_folder_instead_of_filling_the_gaps(folder):
    from transformers import AutoModelForCausalLM

    assert is_quantized_folder(folder)
    with pytest.raises(OSError, match="no file named"):
        AutoModelForCausalLM.from_pretrained(folder)


def test_the_file_holds_the_tensors_that_are_counted(folder):
    stored = load_file(folder / "packed.safetensors")
    described = json.loads((folder / "quantization.json").read_text())
    packed = [name for name in stored if name.rpartition(".")[0] in described["layers"]]
    bits = 8 * sum(stored[name].nbytes for name in packed)
    assert described["bits"]["stored"] == pytest.approx(bits / described["bits"]["weights"])
    assert "lm_head.weight" not in stored  # tied to the embeddings
