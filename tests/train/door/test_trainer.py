"""Training with DOOR: the loss of a step by hand, and a killed run that ends as if it had not been killed."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from corral.core.config import Config, load_config
from corral.core.errors import DataError
from corral.core.runs import Run
from corral.data.examples import PreferenceExample, PromptCompletionExample
from corral.data.messages import Conversation
from corral.models.loading import load_causal_lm
from corral.train.derta.rows import Example
from corral.train.door import trainer as module
from corral.train.door.rows import DoorRow, build_door_rows
from corral.train.door.settings import DoorConfig
from corral.train.door.trainer import RECORD, train_door
from corral.train.fine_tuning import FineTuned, load_chat


def settings(**changes: Any) -> DoorConfig:
    values: dict[str, Any] = {
        "first_trained_layer": 1,
        "rank": 2,
        "alpha": 4,
        "max_tokens": 140,
        "batch_tokens": 300,
        "learning_rate": 1e-2,
        "precision": "fp32",
        "save_every": 2,
        "preference": {"learning_rate": 1e-2, "batch_tokens": 600},
    }
    return load_config(DoorConfig, {**values, **changes})


def examples(triples: int = 5) -> list[tuple[str, Example]]:
    made: list[Example] = [
        PreferenceExample(Conversation.user(f"Make it {i}"), chosen="S no.", rejected=f"Take a {'b ' * (1 + i % 3)}c")
        for i in range(triples)
    ]
    made += [PromptCompletionExample(Conversation.user(f"Is it {i}?"), "yes") for i in range(2)]
    return [(f"file:{i}", each) for i, each in enumerate(made, start=1)]


def nll(model: torch.nn.Module, row: DoorRow) -> float:
    """``-log P(targets | what is read)``, a loop over the row by itself."""
    log_probs = model(torch.tensor([row.input_ids])).logits[0].log_softmax(-1)
    return -sum(
        log_probs[place - 1, token].item() for place, token in enumerate(row.target_ids, start=len(row.read_ids))
    )


@pytest.fixture
def run(tmp_path: Path):
    class Nothing(Config):
        pass

    with Run.create(tmp_path / "runs", "door/test", Nothing()) as made:
        yield made


@pytest.mark.parametrize("accumulated", [False, True], ids=["one batch", "accumulated"])
def test_the_first_step_is_the_sum_of_its_terms_by_hand(
    tiny_base: Path, tmp_path: Path, run: Run, accumulated: bool
) -> None:
    config = settings(learning_rate=1e-9, batch_tokens=120 if accumulated else 20_000)
    rows = build_door_rows(examples(), load_chat(str(tiny_base)), config).rows
    if accumulated:
        batches = module.batches_of([len(row.input_ids) for row in rows], config)
        config = config.model_copy(update={"accumulation": len(batches)})
        assert config.accumulation > 2
    train_door(examples(), str(tiny_base), config, tmp_path / "checkpoints", run=run)
    model = load_causal_lm(tiny_base, dtype=torch.float32)
    by_kind = {kind: [nll(model, row) for row in rows if row.kind == kind] for kind in ("help", "refuse")}
    means = {kind: sum(values) / len(values) for kind, values in by_kind.items()}
    # The model is its own reference before the first step: NPO is 2/beta log 2 of every row.
    means["unlearn"] = 2 / config.beta * math.log(2)
    (first,) = [line for line in run.logged() if "loss" in line]
    for kind, value in means.items():
        assert first[f"loss/{kind}"] == pytest.approx(value, rel=1e-5)
    assert [first[f"rows/{kind}"] for kind in ("help", "refuse", "unlearn")] == [2, 5, 5]
    expected = 0.8 * means["help"] + 0.2 * (means["refuse"] + means["unlearn"])
    assert first["loss"] == pytest.approx(expected, rel=1e-5)
    assert json.loads((run.artefacts / RECORD).read_text())["rows"] == {"help": 2, "refuse": 5, "unlearn": 5}


def test_weights_are_those_of_the_preference_trained_model(tiny_base: Path, tmp_path: Path, run: Run) -> None:
    config = settings(weighted=True, learning_rate=1e-9, batch_tokens=20_000, tau=2.0)
    train_door(examples(), str(tiny_base), config, tmp_path / "checkpoints", run=run)
    chat = load_chat(str(tiny_base))
    rows = [row for row in build_door_rows(examples(), chat, config).rows if row.kind == "refuse"]
    before = load_causal_lm(tiny_base, dtype=torch.float32)
    weigher = module.prepare_model(str(tiny_base), config, adapter=tmp_path / "checkpoints" / "weigher" / "adapter")
    losses = []
    for row in rows:
        ids = torch.tensor([row.input_ids])
        of = [model(ids).logits[0].log_softmax(-1) for model in (before, weigher.model.eval())]
        places = list(enumerate(row.target_ids, start=len(row.read_ids)))
        reference, preferred = ([each[place - 1, token].item() for place, token in places] for each in of)
        weights = [math.exp((b - a) / 2.0) for a, b in zip(reference, preferred, strict=True)]
        assert any(abs(weight - 1) > 1e-3 for weight in weights)
        losses.append(-sum(w * a for w, a in zip(weights, reference, strict=True)))
    (first,) = [line for line in run.logged() if "loss" in line]
    assert first["loss/refuse"] == pytest.approx(sum(losses) / len(losses), rel=1e-4)


@pytest.mark.parametrize("weighted", [False, True], ids=["door", "w-door"])
def test_resumed_training_equals_uninterrupted_training_bit_for_bit(
    tiny_base: Path, tmp_path: Path, killed_at_the_fourth_step: Callable[..., None], weighted: bool
) -> None:
    config = settings(epochs=3, weighted=weighted)

    def train(folder: str) -> FineTuned:
        return train_door(examples(), str(tiny_base), config, tmp_path / folder)

    whole = {name: p.detach().clone() for name, p in train("whole").merged().named_parameters()}
    killed_at_the_fourth_step(module._DoorTrainer, lambda: train("resumed"))
    resumed = dict(train("resumed").merged().named_parameters())
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_the_safe_answer_becomes_likelier_and_the_harmful_one_less(tiny_base: Path, tmp_path: Path) -> None:
    config = settings(epochs=10, learning_rate=3e-2)
    tuned = train_door(examples(), str(tiny_base), config, tmp_path).merged()
    base = load_causal_lm(tiny_base, dtype=torch.float32)
    rows = build_door_rows(examples(), load_chat(str(tiny_base)), config).rows
    for kind, sign in (("refuse", -1), ("unlearn", 1)):
        changes = [nll(tuned, row) - nll(base, row) for row in rows if row.kind == kind]
        assert sign * sum(changes) > 0


def test_examples_without_a_triple_are_refused(tiny_base: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no triple"):
        train_door(examples(0), str(tiny_base), settings(), tmp_path)
