"""``corral train METHOD DATA`` from the outside: a file in, a model directory out, mistakes in one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from corral.cli.main import main
from corral.models.tiny import write_tiny_llama

SMALL = ["first_trained_layer=1", "rank=2", "alpha=4", "max_tokens=140", "batch_tokens=300", "precision=fp32"]
SETTINGS = [word for setting in SMALL for word in ("--set", setting)]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_tiny_llama(tmp_path_factory.mktemp("models") / "tiny"))


@pytest.fixture
def data(tmp_path: Path) -> str:
    path = tmp_path / "triples.jsonl"
    path.write_text(json.dumps({"prompt": "Make it", "chosen": "Sorry, no.", "rejected": "Take a b and c"}) + "\n")
    return str(path)


def test_a_file_is_trained_on_and_the_run_is_printed(
    base: str, data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, runs = tmp_path / "model", tmp_path / "runs"
    words = ["train", "derta", data, "--base", base, "--out", str(out), "--runs", str(runs), *SETTINGS]
    assert main([*words, "--plan"]) == 0
    assert json.loads(capsys.readouterr().out)["settings"]["arm"] == "derta"
    assert main([*words, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["report"] == {"model": str(out), "rows": 1, "set_aside": 0}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {path.name for path in out.iterdir()}
    assert main(words) == 2
    assert "exists" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "derta", "{data}", "--out", "x"], "--base"),
        (["train", "derta", "{data}", "--base", "x"], "--out"),
        (["train", "guard", "{data}", "--base", "x", "--out", "y"], "does not train on a file"),
        (["train", "derta", "{data}", "--config", "derta/tiny"], "two ways"),
        (["train", "derta"], "say what to train on"),
        (["train", "sft", "{data}", "--base", "{base}", "--out", "{out}", "--runs", "{out}-runs"], "completion rows"),
        (["train", "derta", "none.jsonl", "--base", "x", "--out", "y"], "no such file"),
        (["train", "derta", "{data}", "--base", "x", "--out", "y", "--set", "arm=derto"], "arm"),
    ],
)
def test_mistakes_are_the_users_and_say_what_to_do(
    words: list[str], message: str, base: str, data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    filled = [word.format(data=data, base=base, out=tmp_path / "out") for word in words]
    assert main(filled) == 2
    shown = capsys.readouterr().err
    assert message in shown
    assert "Traceback" not in shown
