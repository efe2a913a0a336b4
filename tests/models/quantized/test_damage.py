"""A folder that lost or changed a part of its weights is refused with the part's name, never run with other weights."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from corral.core.errors import ConfigError, DataError
from corral.models.head_trimming import trim_head
from corral.models.loading import load_backbone, load_causal_lm, load_inference_decoder
from corral.models.quantized import AffineWeight
from corral.models.quantized.compressed_tensors import pack_words, unpack_words
from corral.models.quantized.linear import refuse_quantized
from corral.models.tiny import write_tiny_llama
from corral.quant.calibration import CalibrationSettings
from corral.quant.methods.gptq import Gptq
from corral.quant.methods.icq import Icq
from corral.quant.methods.pb_llm import PbLlm
from corral.quant.methods.rtn import Rtn
from corral.quant.methods.smoothquant import SmoothQuant
from corral.quant.quantize import quantize
from corral.train.guard.prompted import PromptedGuardConfig, build_model

LAYER = "model.layers.0.mlp.up_proj"
TEXT = CalibrationSettings(windows=4, length=32)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return write_tiny_llama(tmp_path_factory.mktemp("model") / "tiny", weight_std=0.1, layers=2)


@pytest.fixture(scope="module")
def written(tiny, tmp_path_factory):
    """A folder of every kind of optional tensor."""
    root = tmp_path_factory.mktemp("quantized")
    gptq = Gptq(bits=4, group_size=16, act_order=True, damping=0.1)
    quantize(tiny, "rtn", Rtn(bits=4, group_size=16), root / "asymmetric", layout="compressed-tensors")
    quantize(tiny, "rtn", Rtn(bits=4, group_size=16), root / "corral", layout="corral")
    quantize(tiny, "gptq", gptq, root / "ordered", text=TEXT)
    quantize(tiny, "icq", Icq(points=2), root / "icq")
    quantize(tiny, "pb_llm", PbLlm(damping=0.1), root / "pb_llm", text=TEXT)
    quantize(tiny, "smoothquant", SmoothQuant(), root / "integers", text=TEXT)
    return root


@pytest.fixture
def copied(written, tmp_path):
    def copy(name):
        return shutil.copytree(written / name, tmp_path / name)

    return copy


def change_tensors(folder, change):
    (path,) = folder.glob("*.safetensors")
    state = load_file(path)
    change(state)
    save_file(state, path, {"format": "pt"})


def change_json(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def weights_scheme(config):
    return config["quantization_config"]["config_groups"]["group_0"]["weights"]


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("corral", "zeros"),
        ("ordered", "group_index"),
        ("icq", "shift_codes"),
        ("asymmetric", "weight_zero_point"),
        ("asymmetric", "weight_scale"),
        ("integers", "weight_scale"),
    ],
)
def test_a_tensor_that_is_gone_is_missed(copied, name, tensor):
    folder = copied(name)
    change_tensors(folder, lambda state: state.pop(f"{LAYER}.{tensor}"))
    with pytest.raises(DataError, match=r"layers\.0\.mlp\.up_proj"):
        load_causal_lm(folder)


@pytest.mark.parametrize(
    ("name", "setting", "value"),
    [
        ("corral", "activation_bits", 1),
        ("corral", "group_size", 0),
        ("corral", "bits", "4"),
        ("icq", "block_size", 0),
        ("icq", "super_block_size", 0),
        ("pb_llm", "block_size", 0),
        ("pb_llm", "binary_entries", 1),
        ("pb_llm", "rows", -64),
    ],
)
def test_numbers_that_make_no_sense_are_named(copied, name, setting, value):
    folder = copied(name)
    change_json(folder / "quantization.json", lambda about: about["layers"][LAYER].update({setting: value}))
    with pytest.raises(DataError, match=setting):
        load_causal_lm(folder)


def test_a_layer_without_an_entry_or_a_norm_is_named(copied):
    folder = copied("corral")
    change_json(folder / "quantization.json", lambda about: about["layers"].pop(LAYER))
    with pytest.raises(DataError, match=r"`model\.layers\.0\.mlp\.up_proj"):
        load_causal_lm(folder)
    folder = copied("icq")
    change_tensors(folder, lambda state: state.pop("model.norm.weight"))
    with pytest.raises(DataError, match=r"no `model\.norm\.weight`"):
        load_causal_lm(folder)


@pytest.mark.parametrize(
    ("setting", "value", "named"),
    [
        ("num_hidden_layers", 1, r"model\.layers\.1\.self_attn"),
        ("num_hidden_layers", 3, r"model\.layers\.2\."),
        ("intermediate_size", 32, r"mlp\.\w+_proj"),
        ("model_type", "mistral", "mistral"),
    ],
)
def test_a_config_of_another_model_is_refused(copied, setting, value, named):
    folder = copied("corral")
    change_json(folder / "config.json", lambda config: config.update({setting: value}))
    with pytest.raises(DataError, match=named):
        load_causal_lm(folder)
    if setting == "num_hidden_layers":
        with pytest.raises(DataError):
            load_backbone(folder)


def test_zero_points_are_there_exactly_where_a_scheme_has_them(copied):
    folder = copied("asymmetric")
    change_json(folder / "config.json", lambda config: weights_scheme(config).update(symmetric=True))
    with pytest.raises(DataError, match="weight_zero_point"):
        load_causal_lm(folder)


@pytest.mark.parametrize("bits", [3, 5, 0, 9])
def test_codes_of_another_width_are_refused(copied, bits):
    folder = copied("asymmetric")
    change_json(folder / "config.json", lambda config: weights_scheme(config).update(num_bits=bits))
    with pytest.raises(DataError, match="compressed-tensors"):
        load_causal_lm(folder)


def test_words_that_several_widths_would_fill_are_told_apart_by_their_rest():
    words = pack_words(torch.full((1, 16), 15), 4)
    assert pack_words(torch.zeros(1, 16, dtype=torch.int64), 3).shape == words.shape
    with pytest.raises(DataError, match="bits after 16 codes of 3 bits"):
        unpack_words(words, 3, 16)


def test_asymmetric_activations_are_refused(copied):
    folder = copied("integers")

    def change(config):
        config["quantization_config"]["config_groups"]["group_0"]["input_activations"]["symmetric"] = False

    change_json(folder / "config.json", change)
    with pytest.raises(DataError, match="not in a scheme that can be read"):
        load_causal_lm(folder)


def test_zero_points_of_integers_are_applied(copied):
    """By hand: (code - zero point) times scale."""
    folder = copied("integers")
    before = load_causal_lm(folder).get_submodule(LAYER).packed
    assert isinstance(before, AffineWeight)
    zeros = torch.arange(-3, before.rows - 3, dtype=torch.int8)[:, None]
    change_json(folder / "config.json", lambda config: weights_scheme(config).update(symmetric=False))
    with pytest.raises(DataError, match="weight_zero_point"):
        load_causal_lm(folder)

    def add(state):
        for name in [name for name in state if name.endswith(".weight_scale")]:
            layer = name.removesuffix(".weight_scale")
            state[f"{layer}.weight_zero_point"] = torch.zeros(len(state[name]), 1, dtype=torch.int8)
        state[f"{LAYER}.weight_zero_point"] = zeros

    change_tensors(folder, add)
    after = load_causal_lm(folder).get_submodule(LAYER).packed
    expected = before.dequantize() - zeros.float() * before.scales.float()
    torch.testing.assert_close(after.dequantize(), expected)


def test_the_inference_decoder_refuses_layers_that_round_their_inputs(written):
    with pytest.raises(DataError, match="rounds its inputs"):
        load_inference_decoder(written / "integers")


def test_the_inference_decoder_refuses_weights_of_other_libraries(tiny, tmp_path):
    folder = shutil.copytree(tiny, tmp_path / "foreign")
    change_json(folder / "config.json", lambda config: config.update(quantization_config={"quant_method": "fp8"}))
    with pytest.raises(DataError, match="cannot be read here"):
        load_inference_decoder(folder)


def test_packed_layers_are_not_trained_or_written_as_matrices(written, tiny):
    model = load_causal_lm(written / "corral")
    with pytest.raises(ConfigError, match="cannot be trained"):
        refuse_quantized(model, "trained")
    with pytest.raises(ConfigError, match="cannot be trimmed"):
        trim_head(model, [1, 2])
    with pytest.raises(ConfigError, match="cannot be trained"):
        build_model(PromptedGuardConfig(base=str(written / "corral")))
    refuse_quantized(load_causal_lm(tiny), "trained")
