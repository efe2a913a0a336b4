"""``corral quantize`` as a user meets it."""

from __future__ import annotations

import json

import pytest

from corral.cli.main import main
from corral.models.tiny import write_tiny_llama


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return write_tiny_llama(tmp_path_factory.mktemp("model") / "tiny", weight_std=0.1, layers=2)


def test_a_model_is_quantized_and_both_counts_of_bits_are_printed(tiny, tmp_path, capsys):
    arguments = ["quantize", str(tiny), "--method", "gptq", "--bits", "3", "--group-size", "16", "--windows", "4"]
    assert main([*arguments, "--length", "64", "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert "3.000 as papers count, 4.188 with all that is stored" in printed
    assert "256 tokens of packaged, " in printed and " distinct (seed 0)" in printed
    assert (tmp_path / "out" / "tokenizer.json").is_file()


def test_the_report_is_json_on_demand(tiny, tmp_path, capsys):
    arguments = ["quantize", str(tiny), "--method", "rtn", "--group", "channel", "--set", "symmetric=true", "--json"]
    assert main([*arguments, "--out", str(tmp_path / "out")]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["method"] == {"name": "rtn", "bits": 4, "group_size": None, "symmetric": True, "mse": False}
    assert report["layout"] == "compressed-tensors"
    assert report["calibration"] is None


def test_a_plan_says_what_a_run_leaves_and_writes_nothing(tiny, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = ["quantize", str(tiny), "--method", "gptq", "--group", "16", "--windows", "4", "--length", "64"]
    assert main([*arguments, "--plan", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert not out.exists()
    assert main([*arguments, "--out", str(out), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert plan["tensor_bytes"] == report["tensor_bytes"]
    assert plan["stored_bits"] == pytest.approx(report["bits"]["stored"])
    assert plan["calibration_tokens"] == report["calibration"]["tokens"]
    assert sum(shape["count"] for shape in plan["shapes"]) == len(report["layers"])
    assert main([*arguments, "--plan"]) == 0
    assert "32 x 64" in capsys.readouterr().out


def test_without_a_folder_or_a_plan_nothing_is_done(tiny, capsys):
    assert main(["quantize", str(tiny), "--method", "rtn"]) == 2
    assert "Give `--out FOLDER`, or `--plan`." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--method", "gptqq"], "no quantization method is named `gptqq`"),
        (["--method", "rtn", "--group-size", "few"], "`few` is not a number of columns"),
        (["--method", "rtn", "--group-size", "24"], "groups of `24` do not divide"),
        (["--method", "rtn", "--bits", "9"], "bits: Input should be less than or equal to 8, got `9`"),
        (["--method", "nf4", "--bits", "3"], "`nf4` has a fixed number of these"),
        (["--method", "rtn", "--set", "symetric=true"], "unknown setting `symetric`"),
        (["--method", "gptq", "--group", "16", "--calibration", "nowhere.txt"], "no file and no corpus is called"),
    ],
)
def test_mistakes_are_explained_without_a_traceback(tiny, tmp_path, capsys, options, message):
    assert main(["quantize", str(tiny), *options, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not (tmp_path / "out").exists()


def test_text_that_a_method_does_not_read_is_said_to_be_unread(tiny, tmp_path, capsys):
    arguments = ["quantize", str(tiny), "--method", "rtn", "--group", "16", "--calibration", "some.txt"]
    assert main([*arguments, "--out", str(tmp_path / "out")]) == 0
    assert "`rtn` looks at weights alone; `some.txt` is not read" in capsys.readouterr().err
