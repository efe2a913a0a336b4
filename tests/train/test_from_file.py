"""Training on a file: an ordinary model directory comes out, rows that cannot be used are named or set aside."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from corral.core.errors import ConfigError, DataError, UserError
from corral.core.runs import list_runs
from corral.models.engines.base import GenerationSettings
from corral.models.engines.torch import TorchEngine
from corral.train.derta import trainer as derta
from corral.train.from_file import REJECTS, plan_training, train_from_file

SMALL = [
    "first_trained_layer=1",
    "rank=2",
    "alpha=4",
    "max_tokens=140",
    "batch_tokens=300",
    "precision=fp32",
    "save_every=2",
]
TRIPLES = [{"prompt": f"Make it {i}", "chosen": "Sorry, no.", "rejected": "Take a b and c"} for i in range(4)]


def written(folder: Path, rows: list[Any]) -> Path:
    path = folder / "rows.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


@pytest.mark.parametrize("method", ["derta", "door", "dpo", "sft"])
def test_a_model_directory_comes_out_that_an_engine_loads(tmp_path: Path, tiny_base: Path, method: Any) -> None:
    rows: list[Any] = TRIPLES if method != "sft" else [{"prompt": "Is it hot?", "completion": "yes"}]
    plan = plan_training(method, written(tmp_path, rows), str(tiny_base), SMALL)
    run = train_from_file(plan, tmp_path / "model", runs=tmp_path / "runs")
    engine = TorchEngine.load(tmp_path / "model")
    (answer,) = engine.generate([TRIPLES[0]["prompt"]], GenerationSettings(max_new_tokens=2))
    assert answer.prompt_tokens > 0
    assert run.status == "finished"
    assert any("loss" in line for line in run.logged()) == (
        method in ("derta", "door")
    )  # the others log every tenth step
    with pytest.raises(UserError, match="exists"):
        train_from_file(plan, tmp_path / "model", runs=tmp_path / "runs")


def test_a_row_that_cannot_be_used_is_named_or_set_aside(tmp_path: Path, tiny_base: Path) -> None:
    bad = [{"prompt": "x", "chosen": "same", "rejected": "same"}, {"prompt": "x", "chosen": "y"}]
    path = written(tmp_path, [*TRIPLES, *bad])
    strict = plan_training("derta", path, str(tiny_base), SMALL)
    with pytest.raises(DataError) as caught:
        train_from_file(strict, tmp_path / "model", runs=tmp_path / "runs")
    assert caught.value.where == f"{path}:6"
    plan = plan_training("derta", path, str(tiny_base), SMALL, keep_going=True)
    run = train_from_file(plan, tmp_path / "model", runs=tmp_path / "runs")
    aside = [json.loads(line) for line in (run.artefacts / REJECTS).read_text().splitlines()]
    assert [line["where"] for line in aside] == [f"{path}:6", f"{path}:5"]
    assert "the same" in aside[1]["reason"]


def test_a_killed_training_is_continued_by_the_same_call(
    tmp_path: Path, tiny_base: Path, killed_at_the_fourth_step: Callable[..., None]
) -> None:
    plan = plan_training("derta", written(tmp_path, TRIPLES), str(tiny_base), [*SMALL, "epochs=3"])

    def train() -> object:
        return train_from_file(plan, tmp_path / "model", runs=tmp_path / "runs")

    killed_at_the_fourth_step(derta._DertaTrainer, train)
    assert not (tmp_path / "model").exists()
    train()
    (run,) = list_runs(tmp_path / "runs")
    assert run.manifest.sessions == 2
    steps = [line["step"] for line in run.logged() if "loss/rto" in line or "loss/prefix" in line]
    assert steps == sorted(set(steps))


def test_what_cannot_be_planned_is_refused(tmp_path: Path, tiny_base: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        plan_training("derta", tmp_path / "none.jsonl", str(tiny_base), [])
    with pytest.raises(ConfigError, match="unknown setting `arms`"):
        plan_training("derta", written(tmp_path, TRIPLES), str(tiny_base), ["arms=derta"])
    empty = plan_training("derta", written(tmp_path, []), str(tiny_base), SMALL)
    with pytest.raises(DataError, match="no training row"):
        train_from_file(empty, tmp_path / "model", runs=tmp_path / "runs")


def test_rows_set_aside_before_a_run_failed_are_kept_and_told(tmp_path: Path, tiny_base: Path) -> None:
    path = written(tmp_path, [{"prompt": "x", "chosen": "y"}, {"kind": ["x"], "prompt": "x", "chosen": "y"}])
    plan = plan_training("derta", path, str(tiny_base), SMALL, keep_going=True)
    with pytest.raises(DataError) as caught:
        train_from_file(plan, tmp_path / "model", runs=tmp_path / "runs")
    (run,) = list_runs(tmp_path / "runs")
    kept = run.artefacts / REJECTS
    assert len(kept.read_text().splitlines()) == 2
    assert caught.value.hint is not None
    assert f"2 rows were set aside ({kept}), the first {path}:1: rejected: the row has none" in caught.value.hint
