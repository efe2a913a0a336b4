"""Quantizing a whole model: what is written, what is refused, and how an interrupted run goes on."""

from __future__ import annotations

import json
import struct
from collections import Counter

import pytest
import torch
from transformers import GemmaConfig, GemmaForCausalLM, LlamaForCausalLM, MistralConfig, MistralForCausalLM

from corral.core.errors import ConfigError, DataError, RunError, UserError
from corral.models.chat import ChatTokenizer
from corral.models.loading import load_causal_lm, load_tokenizer
from corral.models.quantized import QuantizedLinear
from corral.models.quantized.linear import quantized_linears
from corral.models.routing.files import save_routing
from corral.models.routing.installing import RoutingShape, install_routing
from corral.quant import blocks
from corral.quant.block_store import SUFFIX
from corral.quant.blocks import BlockStream
from corral.quant.calibration import CalibrationSettings, calibration
from corral.quant.methods.awq import Awq
from corral.quant.methods.base import LinearLayer
from corral.quant.methods.gptq import Gptq
from corral.quant.methods.nf4 import Nf4
from corral.quant.methods.quip import Quip
from corral.quant.methods.rtn import Rtn
from corral.quant.methods.smoothquant import SmoothQuant
from corral.quant.quantize import quantize
from corral.quant.statistics import proxy_loss

IDS = torch.arange(5, 37)[None]
TEXT = CalibrationSettings(windows=8, length=64)
GPTQ = Gptq(bits=4, group_size=16)


@pytest.fixture(scope="module")
def biased(tiny, tmp_path_factory):
    """With biases everywhere, and as many value channels as attention's output reads, so that AWQ folds into both."""
    config = load_causal_lm(tiny).config
    config.attention_bias = config.mlp_bias = True
    config.num_key_value_heads = config.num_attention_heads
    torch.manual_seed(0)
    made = LlamaForCausalLM(config)
    with torch.no_grad():
        for name, values in made.named_parameters():
            if name.endswith(".bias"):
                values.normal_(std=0.1)
    folder = tmp_path_factory.mktemp("model") / "biased"
    made.save_pretrained(folder)
    load_tokenizer(tiny).save_pretrained(folder)
    return folder


def logits(folder):
    with torch.no_grad():
        return load_causal_lm(folder)(IDS).logits


def test_only_linears_of_blocks_are_packed_and_the_rest_is_as_it_was(tiny, tmp_path):
    report = quantize(tiny, "gptq", GPTQ, tmp_path / "out", text=TEXT, layout="corral")
    before, after = load_causal_lm(tiny), load_causal_lm(tmp_path / "out")
    assert len(quantized_linears(after)) == len(report.layers) == 14
    assert torch.equal(before.model.embed_tokens.weight, after.model.embed_tokens.weight)
    assert torch.equal(before.model.norm.weight, after.model.norm.weight)
    assert load_tokenizer(tmp_path / "out").get_vocab() == load_tokenizer(tiny).get_vocab()
    assert (logits(tmp_path / "out") - logits(tiny)).square().mean() < 0.1 * logits(tiny).var()


def test_the_report_counts_what_the_file_holds(tiny, tmp_path):
    for number, (name, method, layout) in enumerate(
        [("gptq", GPTQ, "corral"), ("gptq", GPTQ, "compressed-tensors"), ("nf4", Nf4(), "corral")]
    ):
        report = quantize(tiny, name, method, tmp_path / str(number), text=TEXT, layout=layout)
        file = "packed.safetensors" if layout == "corral" else "model.safetensors"
        data = (tmp_path / str(number) / file).read_bytes()
        header = 8 + struct.unpack("<Q", data[:8])[0]
        assert len(data) == report.file_bytes == header + report.tensor_bytes
        others = sum(p.nbytes for p in load_causal_lm(tmp_path / str(number)).parameters())
        stored = 8 * (report.tensor_bytes - others) / report.bits.weights
        assert report.bits.stored == pytest.approx(stored)


def test_each_layer_is_fitted_to_the_outputs_of_quantized_layers_before_it(tiny, tmp_path):
    """Sequential calibration by hand: the second block sees what the first, quantized, makes of the text."""
    quantize(tiny, "gptq", GPTQ, tmp_path / "out", text=TEXT)
    made = load_causal_lm(tmp_path / "out")
    windows = calibration(TEXT, ChatTokenizer(load_tokenizer(tiny)), context=512).windows_WT
    stream = BlockStream(made, windows)
    stream.advance(made.model.layers[0])
    original = load_causal_lm(tiny).model.layers[1]
    seen = stream.observe(original, (("self_attn.q_proj",),), hessian=True, where="block")["self_attn.q_proj"]
    expected = GPTQ.fit(LinearLayer("q", original.self_attn.q_proj.weight.detach(), seen))
    found = made.model.layers[1].self_attn.q_proj.packed
    assert torch.equal(found.dequantize(), expected.dequantize())


@pytest.mark.parametrize(
    ("model", "name", "method"),
    [
        ("tiny", "gptq", GPTQ),
        ("tiny", "awq", Awq(bits=4, group_size=16)),
        ("biased", "awq", Awq(bits=4, group_size=16)),
    ],
)
def test_an_interrupted_run_goes_on_and_ends_as_an_uninterrupted_one(model, name, method, tmp_path, request):
    source, whole, parts = request.getfixturevalue(model), tmp_path / "whole", tmp_path / "parts"
    quantize(source, name, method, whole, text=TEXT)

    def interrupt(done, _total):
        if done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        quantize(source, name, method, parts, text=TEXT, on_block=interrupt)
    assert not parts.exists()
    report = quantize(source, name, method, parts, text=TEXT)
    assert report.resumed_blocks == 1
    assert (parts / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert not (tmp_path / f"parts{SUFFIX}").exists()


def test_blocks_of_other_settings_are_not_mixed_in_and_a_broken_one_is_made_anew(tiny, tmp_path):
    def interrupt(_done, _total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        quantize(tiny, "rtn", Rtn(group_size=16), tmp_path / "out", on_block=interrupt)
    with pytest.raises(RunError, match="other settings"):
        quantize(tiny, "rtn", Rtn(group_size=32), tmp_path / "out")
    (tmp_path / f"out{SUFFIX}" / "block-000.safetensors").write_bytes(b"broken")
    assert quantize(tiny, "rtn", Rtn(group_size=16), tmp_path / "out").resumed_blocks == 0


def test_only_the_lowest_blocks_can_be_quantized(tiny, tmp_path):
    quantize(tiny, "rtn", Rtn(bits=4, group_size=16), tmp_path / "out", blocks=1)
    packed = quantized_linears(load_causal_lm(tmp_path / "out"))
    assert {name.split(".")[2] for name in packed} == {"0"}
    with pytest.raises(ConfigError, match="the model has 2"):
        quantize(tiny, "rtn", Rtn(group_size=16), tmp_path / "other", blocks=3)


@pytest.mark.parametrize(
    ("name", "method"),
    [
        ("rtn", Rtn(bits=4, group_size=16)),
        ("rtn", Rtn(bits=4, group_size=32, symmetric=True)),
        ("rtn", Rtn(bits=3, group_size=16)),
        ("rtn", Rtn(bits=8, group_size=None)),
        ("awq", Awq(bits=4, group_size=16)),
    ],
)
def test_compressed_tensors_are_read_by_transformers_with_the_same_logits(tiny, tmp_path, name, method):
    pytest.importorskip("compressed_tensors")
    from transformers import AutoModelForCausalLM

    quantize(tiny, name, method, tmp_path / "theirs", text=TEXT, layout="compressed-tensors")
    quantize(tiny, name, method, tmp_path / "ours", text=TEXT, layout="corral")
    assert torch.equal(logits(tmp_path / "theirs"), logits(tmp_path / "ours"))
    with torch.no_grad():
        theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "theirs")(IDS).logits
    torch.testing.assert_close(theirs, logits(tmp_path / "ours"), atol=1e-5, rtol=1e-5)


def test_integers_of_8_bits_are_read_by_transformers(tiny, tmp_path):
    """Its activations are in units of the largest over 127.5, ours over 127, so the logits are near, not equal."""
    pytest.importorskip("compressed_tensors")
    from transformers import AutoModelForCausalLM

    report = quantize(tiny, "smoothquant", SmoothQuant(), tmp_path / "out", text=TEXT)
    assert report.layout == "compressed-tensors"
    with torch.no_grad():
        theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "out")(IDS).logits
    ours = logits(tmp_path / "out")
    assert (theirs - ours).square().mean() < 1e-3 * ours.var()
    assert (ours - logits(tiny)).square().mean() < 1e-2 * ours.var()


def test_dequantized_folders_are_ordinary_models(tiny, tmp_path):
    quantize(tiny, "quip", Quip(bits=4), tmp_path / "plain", text=TEXT, layout="dequantized")
    quantize(tiny, "quip", Quip(bits=4), tmp_path / "packed", text=TEXT)
    assert not quantized_linears(load_causal_lm(tmp_path / "plain"))
    torch.testing.assert_close(logits(tmp_path / "plain"), logits(tmp_path / "packed"))
    record = json.loads((tmp_path / "plain" / "quantization_record.json").read_text())
    assert record["method"]["name"] == "quip"


def test_what_is_not_quantized_can_be_written_in_another_dtype(tiny, tmp_path):
    quantize(tiny, "nf4", Nf4(), tmp_path / "out", dtype="bfloat16")
    model = load_causal_lm(tmp_path / "out")
    assert model.dtype == torch.bfloat16
    assert model(IDS).logits.isfinite().all()


def test_layouts_that_cannot_hold_the_weights_are_refused(tiny, tmp_path):
    with pytest.raises(ConfigError, match="normal_float"):
        quantize(tiny, "nf4", Nf4(), tmp_path / "out", layout="compressed-tensors")
    with pytest.raises(ConfigError, match="does not round the inputs"):
        quantize(tiny, "smoothquant", SmoothQuant(), tmp_path / "other", text=TEXT, layout="dequantized")


def test_models_of_which_nothing_reads_packed_layers_are_refused_before_any_work(tiny, tmp_path):
    config = load_causal_lm(tiny).config.to_dict()
    for key in ("model_type", "architectures"):
        config.pop(key)
    torch.manual_seed(0)
    MistralForCausalLM(MistralConfig(**config)).save_pretrained(tmp_path / "mistral")
    load_tokenizer(tiny).save_pretrained(tmp_path / "mistral")
    for layout in (None, "corral"):
        with pytest.raises(ConfigError, match="packed layers of a `mistral`"):
            quantize(tmp_path / "mistral", "rtn", Rtn(group_size=16), tmp_path / "out", layout=layout)
    assert not list(tmp_path.glob("out*"))
    quantize(tmp_path / "mistral", "rtn", Rtn(group_size=16), tmp_path / "out", layout="dequantized")
    assert logits(tmp_path / "out").isfinite().all()


def test_models_into_whose_norms_nothing_can_be_folded_are_refused_before_any_work(tiny, tmp_path):
    """Gemma multiplies by 1 + weight."""
    shape = {"vocab_size": load_causal_lm(tiny).config.vocab_size, "hidden_size": 32, "intermediate_size": 64}
    config = GemmaConfig(**shape, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=2, head_dim=8)
    GemmaForCausalLM(config).save_pretrained(tmp_path / "gemma")
    load_tokenizer(tiny).save_pretrained(tmp_path / "gemma")
    for name, method in (("awq", Awq(group_size=16)), ("smoothquant", SmoothQuant())):
        with pytest.raises(ConfigError, match="cannot be folded into the blocks of a `gemma`"):
            quantize(tmp_path / "gemma", name, method, tmp_path / "out", text=TEXT, layout="compressed-tensors")
    assert not list(tmp_path.glob("out*"))


def test_mistakes_are_met_before_any_work(tiny, tmp_path):
    (tmp_path / "there").mkdir()
    with pytest.raises(UserError, match="exists"):
        quantize(tiny, "rtn", Rtn(group_size=16), tmp_path / "there")
    quantize(tiny, "rtn", Rtn(group_size=16), tmp_path / "once")
    with pytest.raises(UserError, match="quantized already"):
        quantize(tmp_path / "once", "rtn", Rtn(group_size=16), tmp_path / "twice")
    with pytest.raises(ConfigError, match="groups of `128` do not divide the 32 columns"):
        quantize(tiny, "rtn", Rtn(group_size=128), tmp_path / "out")
    with pytest.raises(DataError, match="a window takes 65"):
        (tmp_path / "short.txt").write_text("few words")
        short = CalibrationSettings(source=str(tmp_path / "short.txt"), length=65)
        quantize(tiny, "gptq", GPTQ, tmp_path / "out", text=short)


def test_a_model_with_gates_is_refused_by_that_name_before_it_is_read(tiny, tmp_path):
    model = load_causal_lm(tiny)
    routing = install_routing(model, RoutingShape((0,), rank=2, alpha=4, router="collapsed"))
    folder = tmp_path / "mogu"
    save_routing(model, routing, folder, base=str(tiny), base_revision="another")
    with pytest.raises(UserError, match="MoGU's gates") as refused:
        quantize(folder, "rtn", Rtn(group_size=16), tmp_path / "out")
    assert refused.value.where == str(folder)
    assert "routing.json" in refused.value.hint
    assert not (tmp_path / "out").exists()


def test_weights_that_are_not_finite_name_the_layer(tiny, tmp_path):
    broken = load_causal_lm(tiny)
    broken.model.layers[1].mlp.up_proj.weight.data[0, 0] = torch.nan
    broken.save_pretrained(tmp_path / "broken")
    load_tokenizer(tiny).save_pretrained(tmp_path / "broken")
    with pytest.raises(DataError, match=r"model\.layers\.1\.mlp\.up_proj: the weight is not finite"):
        quantize(tmp_path / "broken", "rtn", Rtn(group_size=16), tmp_path / "out")


def test_too_little_text_is_a_warning(tiny, tmp_path):
    little = CalibrationSettings(windows=1, length=16)
    report = quantize(tiny, "gptq", GPTQ, tmp_path / "out", text=little)
    assert "16 distinct tokens of calibration for inputs of 64 channels" in report.warnings[0]
    assert not quantize(tiny, "gptq", GPTQ, tmp_path / "other", text=TEXT).warnings


def test_a_layer_that_is_done_runs_once_over_the_text(tiny, tmp_path, monkeypatch):
    """And says what it would say every time: the outcome is that of running all again, to the bit."""
    monkeypatch.setattr(blocks, "BATCH_TOKENS", 256)  # several batches
    run = Counter()
    forward = QuantizedLinear.forward

    def counted(self, inputs):
        run[id(self)] += 1
        return forward(self, inputs)

    monkeypatch.setattr(QuantizedLinear, "forward", counted)
    tokens = quantize(tiny, "gptq", GPTQ, tmp_path / "once", text=TEXT, layout="corral").calibration["tokens"]
    assert set(run.values()) == {-(-tokens // 256)}
    run.clear()
    monkeypatch.setattr(BlockStream, "_once", lambda _stream, forward: forward)
    quantize(tiny, "gptq", GPTQ, tmp_path / "again", text=TEXT, layout="corral")
    assert max(run.values()) > 2 * -(-tokens // 256)
    once, again = ((tmp_path / name / "packed.safetensors").read_bytes() for name in ("once", "again"))
    assert once == again


def test_the_same_text_many_times_is_little_text(tiny, tmp_path):
    (tmp_path / "short.txt").write_text("some forty characters of text, no more..")
    again = CalibrationSettings(source=str(tmp_path / "short.txt"), windows=16, length=32)
    report = quantize(tiny, "gptq", GPTQ, tmp_path / "out", text=again)
    assert report.calibration["tokens"] == 512
    assert report.calibration["distinct_tokens"] <= 40
    assert report.warnings


def test_losses_are_compared_with_rounding_to_the_grids_of_the_same_settings(tiny, tmp_path):
    """By hand for the first layer, whose inputs are those of the original model."""
    method = Gptq(bits=3, group_size=16, symmetric=True, mse=True)
    report = quantize(tiny, "gptq", method, tmp_path / "out", text=TEXT)
    block = load_causal_lm(tiny).model.layers[0]
    windows = calibration(TEXT, ChatTokenizer(load_tokenizer(tiny)), context=512).windows_WT
    stream = BlockStream(load_causal_lm(tiny), windows)
    seen = stream.observe(block, (("self_attn.q_proj",),), hessian=True, where="block")["self_attn.q_proj"]
    weight = block.self_attn.q_proj.weight.detach()
    nearest = Rtn(**method.model_dump(include={"bits", "group_size", "symmetric", "mse"}))
    expected = proxy_loss(weight, nearest.fit(LinearLayer("q", weight, None)).dequantize(), seen.hessian)
    assert report.layers[0].proxy_loss_rtn == pytest.approx(expected, rel=1e-4)
