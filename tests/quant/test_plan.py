"""What a quantization is said to leave is what it leaves."""

from __future__ import annotations

import pytest

from corral.core.errors import ConfigError
from corral.models.loading import load_causal_lm, load_skeleton
from corral.quant.calibration import CalibrationSettings
from corral.quant.methods import METHODS
from corral.quant.methods.gptq import Gptq
from corral.quant.methods.quip import Quip
from corral.quant.methods.rtn import Rtn
from corral.quant.methods.smoothquant import SmoothQuant
from corral.quant.plan import plan_quantization
from corral.quant.quantize import quantize

TEXT = CalibrationSettings(windows=8, length=64)
SETTINGS = {
    "rtn": [{"bits": 3, "group_size": 16}, {"bits": 4, "group_size": None, "symmetric": True}],
    "gptq": [{"group_size": 16, "act_order": True}, {"group_size": 16, "act_order": True, "static_groups": True}],
    "awq": [{"bits": 2, "group_size": 32}],
    "smoothquant": [{}],
    "quip": [{"bits": 2}],
    "pb_llm": [{"low_frac": 0.75, "block_size": 48}],
    "billm": [{"block_size": 48}],
    "db_llm": [{"group_size": 16, "refine": 2}],
    "nf4": [{}, {"double": False}, {"block_size": 48, "super_block_size": 7}],
    "icq": [{"points": 2}],
}


@pytest.mark.parametrize("name", sorted(SETTINGS))
def test_expected_bits_are_those_of_a_fitted_layer(name, make_layer):
    for settings in SETTINGS[name]:
        method = METHODS.get(name)(**settings)
        packed = method.fit(make_layer(rows=64, columns=96))
        expected = method.expected_bits(64, 96)
        # PB-LLM's one grid, and streams that end within a byte, are not counted.
        assert expected.stored == pytest.approx(packed.stored_bits, abs=0.02)
        if name == "billm":
            assert packed.nominal_bits <= expected.nominal
        else:
            assert expected.nominal == pytest.approx(packed.nominal_bits, abs=0.01)


def test_every_method_is_among_them():
    assert sorted(SETTINGS) == sorted(METHODS.names())


@pytest.mark.parametrize(
    ("name", "method", "layout"),
    [
        ("rtn", Rtn(bits=4, group_size=16), None),
        ("rtn", Rtn(bits=4, group_size=16, symmetric=True), None),
        ("rtn", Rtn(bits=3, group_size=16), None),
        ("gptq", Gptq(group_size=16, act_order=True), None),
        ("smoothquant", SmoothQuant(), None),
        ("quip", Quip(bits=4), "dequantized"),
    ],
)
def test_the_file_is_of_the_size_and_layout_that_were_planned(tiny, tmp_path, name, method, layout):
    planned = plan_quantization(tiny, name, method, text=TEXT, layout=layout)
    report = quantize(tiny, name, method, tmp_path / "out", text=TEXT, layout=layout)
    assert planned.layout == report.layout
    assert planned.tensor_bytes == pytest.approx(report.tensor_bytes, abs=8 * len(report.layers))
    assert planned.stored_bits == pytest.approx(report.bits.stored, rel=1e-3)
    assert planned.blocks == (2, 2)


def test_a_plan_of_few_blocks_and_what_does_not_fit(tiny):
    planned = plan_quantization(tiny, "rtn", Rtn(group_size=16), blocks=1)
    assert planned.blocks == (1, 2)
    assert planned.calibration_tokens is None
    with pytest.raises(ConfigError, match="groups of `128` do not divide the 32 columns"):
        plan_quantization(tiny, "rtn", Rtn(group_size=128))


def test_a_skeleton_has_the_shapes_of_the_model_and_no_weights(tiny):
    shapes = {name: values.shape for name, values in load_causal_lm(tiny).named_parameters()}
    skeleton = load_skeleton(tiny)
    assert {name: values.shape for name, values in skeleton.named_parameters()} == shapes
    assert all(values.is_meta for values in skeleton.parameters())
