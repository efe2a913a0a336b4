"""Training DeRTa's arms: the loss by hand, whatever the batches; drops and resume repeat bit for bit."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from trl import SFTTrainer

from corral.core.config import Config, load_config
from corral.core.errors import DataError
from corral.core.runs import Run
from corral.data.examples import PreferenceExample, PromptCompletionExample
from corral.data.messages import Conversation
from corral.models.loading import load_causal_lm
from corral.train.derta import trainer as module
from corral.train.derta.collator import DertaCollator
from corral.train.derta.rows import DertaRow, Example, build_rows
from corral.train.derta.settings import DertaConfig
from corral.train.derta.trainer import RECORD, train_derta
from corral.train.fine_tuning import FineTuned, load_chat
from corral.train.objectives.refusal import resolve_refusal_token, transition_loss
from corral.train.sft import IGNORED


def settings(**changes: Any) -> DertaConfig:
    values: dict[str, Any] = {
        "first_trained_layer": 1,
        "rank": 2,
        "alpha": 4,
        "max_tokens": 140,
        "batch_tokens": 300,
        "learning_rate": 1e-2,
        "precision": "fp32",
        "save_every": 2,
        "refusal": {"word": "S"},
    }
    return load_config(DertaConfig, {**values, **changes})


def examples(triples: int = 6) -> list[tuple[str, Example]]:
    made: list[Example] = [
        PreferenceExample(
            Conversation.user(f"Make it {i}"), chosen="S no.", rejected=f"Take a {'b ' * (1 + i % 3)}then c"
        )
        for i in range(triples)
    ]
    made += [PromptCompletionExample(Conversation.user(f"Is it {i}?"), "yes") for i in range(2)]
    return [(f"file:{i}", each) for i, each in enumerate(made, start=1)]


def weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def logged(folder: Path, name: str) -> list[float]:
    newest = max(folder.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    log = json.loads((newest / "trainer_state.json").read_text())["log_history"]
    return [line[name] for line in log if name in line]


def rows_of(base: Path, config: DertaConfig, given: list[tuple[str, Example]]) -> tuple[DertaRow, ...]:
    chat = load_chat(str(base))
    token = resolve_refusal_token(chat, config.refusal.word)
    return build_rows(given, chat, config, token.id).rows


def by_hand(base: Path, config: DertaConfig, given: list[tuple[str, Example]]) -> dict[str, tuple[float, int]]:
    """Sum of ``-log P(label | true tokens before)`` and targets by kind: a double loop, each row by itself."""
    model = load_causal_lm(base, dtype=torch.float32)
    collator = DertaCollator(0, config.rto, config.seed)
    sums = {kind: [0.0, 0] for kind in ("help", "plain", "prefix", "rto")}
    for row in rows_of(base, config, given):
        log_probs = model(torch.tensor([row.input_ids])).logits[0].log_softmax(-1)
        for place, label in enumerate(collator.kept_labels(row, 0, width=0)):
            if label != IGNORED:
                sums[row.kind][0] -= log_probs[place - 1, label].item()
                sums[row.kind][1] += 1
    return {kind: (float(nll), int(count)) for kind, (nll, count) in sums.items()}


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    class Nothing(Config):
        pass

    with Run.create(tmp_path / "runs", "derta/test", Nothing()) as made:
        yield made


@pytest.mark.parametrize("accumulated", [False, True], ids=["one batch", "accumulated"])
@pytest.mark.parametrize("rto", [{}, {"weight": 3.0}, {"keep_rate": 0.4}], ids=["plain", "weighted", "dropped"])
def test_the_loss_of_a_step_is_the_double_loop_over_the_count_of_its_targets(
    tiny_base: Path, tmp_path: Path, run: Run, accumulated: bool, rto: dict[str, Any]
) -> None:
    config = settings(rto=rto, learning_rate=1e-9, batch_tokens=300 if accumulated else 20_000)
    if accumulated:
        lengths = [len(row.input_ids) for row in rows_of(tiny_base, config, examples())]
        config = config.model_copy(update={"accumulation": len(module.batches_of(lengths, config))})
        assert config.accumulation > 2
    train_derta(examples(), str(tiny_base), config, tmp_path / "checkpoints", run=run)
    found = by_hand(tiny_base, config, examples())
    count = sum(targets for _, targets in found.values())
    weight = config.rto.weight
    expected = sum(nll * (weight if kind == "rto" else 1.0) for kind, (nll, _) in found.items()) / count
    (first,) = [line for line in run.logged() if "loss" in line]
    assert first["loss"] == pytest.approx(expected, abs=2e-5)
    for kind, (nll, targets) in found.items():
        assert first[f"tokens/{kind}"] == targets
        assert first[f"loss/{kind}"] == pytest.approx(nll / targets, abs=2e-5)
    assert first["rto_share"] == pytest.approx(found["rto"][1] / count)


def test_transition_rows_labels_sum_to_the_papers_loss(tiny_base: Path) -> None:
    """The pure objective, over logits of padded rows, equals the double loop over labels."""
    config = settings()
    rows = [row for row in rows_of(tiny_base, config, examples()) if row.kind == "rto"]
    batch = DertaCollator(0, config.rto, 0)([(0, row) for row in rows])
    model = load_causal_lm(tiny_base, dtype=torch.float32)
    token = resolve_refusal_token(load_chat(str(tiny_base)), "S")
    with torch.no_grad():
        logits = model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    found = transition_loss(logits, batch["labels"] == token.id, token.id)
    assert float(found) == pytest.approx(by_hand(tiny_base, config, examples())["rto"][0], rel=1e-6)


def test_trls_own_loss_on_the_same_labels_is_the_same(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The labels reach TRL unchanged, inside a training step, and its loss is ours when transition rows weigh 1."""
    seen: list[tuple[float, float]] = []
    ours = module._DertaTrainer.compute_loss

    def compare(
        self: Any, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        read = {name: tensor for name, tensor in inputs.items() if name != "kinds"}
        loss = ours(self, model, inputs, return_outputs, num_items_in_batch)
        theirs = SFTTrainer.compute_loss(self, model, dict(read), False, num_items_in_batch)
        seen.append((loss.item(), theirs.item()))
        return loss

    monkeypatch.setattr(module._DertaTrainer, "compute_loss", compare)
    train_derta(examples(), str(tiny_base), settings(), tmp_path)
    assert len(seen) == 3
    for first, second in seen:
        assert first == pytest.approx(second, rel=1e-6)


@pytest.mark.parametrize("full", [False, True], ids=["lora", "full"])
def test_resumed_training_draws_the_same_places_and_equals_uninterrupted_training_bit_for_bit(
    tiny_base: Path, tmp_path: Path, killed_at_the_fourth_step: Callable[..., None], full: bool
) -> None:
    config = settings(epochs=3, full=full, rto={"keep_rate": 0.3})

    def train(folder: str) -> FineTuned:
        return train_derta(examples(), str(tiny_base), config, tmp_path / folder)

    whole = weights(train("whole").merged())
    killed_at_the_fourth_step(module._DertaTrainer, lambda: train("resumed"))
    assert [path.name for path in (tmp_path / "resumed").glob("checkpoint-*")] == ["checkpoint-2"]
    resumed = weights(train("resumed").merged())
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    for name in ("loss", "tokens/rto", "loss/rto"):
        assert logged(tmp_path / "whole", name) == logged(tmp_path / "resumed", name)


def test_refusal_becomes_likely_inside_a_harmful_answer(tiny_base: Path, tmp_path: Path) -> None:
    config = settings(epochs=12, learning_rate=3e-2)
    tuned = train_derta(examples(), str(tiny_base), config, tmp_path).merged()
    base = load_causal_lm(tiny_base, dtype=torch.float32)
    chat = load_chat(str(tiny_base))
    token = resolve_refusal_token(chat, "S")
    inside = chat.encode_prompt(Conversation.user("Make it 9")) + chat.encode_text("Take a b")
    before, after = (
        model(torch.tensor([inside])).logits[0, -1].log_softmax(-1)[token.id].item() for model in (base, tuned)
    )
    assert after > before + 0.3  # so narrow a random model learns slowly


def test_the_dpo_arm_prefers_the_safe_answer_from_the_vanilla_arm_on(tiny_base: Path, tmp_path: Path) -> None:
    config = settings(arm="dpo", dpo={"learning_rate": 1e-2, "epochs": 2})
    tuned = train_derta(examples(), str(tiny_base), config, tmp_path)
    vanilla = train_derta(examples(), str(tiny_base), settings(arm="vanilla"), tmp_path / "vanilla-alone")
    begun = tmp_path / "vanilla" / "adapter"
    assert begun.is_dir()
    stored = module.prepare_model(str(tiny_base), config, adapter=begun)
    theirs = {name: p for name, p in vanilla.model.named_parameters() if p.requires_grad}
    assert all(torch.equal(p, theirs[name]) for name, p in stored.model.named_parameters() if p.requires_grad)
    assert any(not torch.equal(p, theirs[name]) for name, p in tuned.model.named_parameters() if p.requires_grad)


def test_the_run_records_token_rows_and_normalisation(tiny_base: Path, tmp_path: Path, run: Run) -> None:
    train_derta(examples(), str(tiny_base), settings(), tmp_path / "checkpoints", run=run)
    record = json.loads((run.artefacts / RECORD).read_text())
    assert record["arm"] == "derta"
    assert record["refusal_token"]["text"] == "S"
    assert record["rows"] == {"help": 2, "plain": 0, "prefix": 6, "rto": 6}
    assert "optimiser step" in record["normalisation"]


def test_examples_without_any_row_are_refused(tiny_base: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no example gives a row"):
        train_derta(examples(), str(tiny_base), settings(max_tokens=10), tmp_path)
