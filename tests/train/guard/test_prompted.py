"""Training a model that judges in words: the answer alone is learned, resume is exact, out comes a plain model."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from corral.core.errors import ConfigError, DataError
from corral.data.messages import Conversation
from corral.models.engines.labels import label_logprobs
from corral.models.engines.torch import TorchEngine
from corral.models.loading import load_causal_lm, load_tokenizer
from corral.train.guard import prompted
from corral.train.guard.packing import pack, plan_sequences
from corral.train.guard.prompted import (
    PromptedNetwork,
    build_model,
    encode_prompted,
    load_chat,
    resolve_base,
    save_prompted_guard,
    train_prompted_guard,
)
from corral.train.guard.prompted_rows import PromptedRow
from corral.train.guard.prompted_settings import PromptedGuardConfig


def settings(base: Path, **changes: object) -> PromptedGuardConfig:
    values = {
        "base": str(base),
        "layers": 2,
        "first_trained_layer": 1,
        "rank": 2,
        "alpha": 4,
        "batch_tokens": 160,
        "learning_rate": 1e-2,
        "precision": "fp32",
        "save_every": 2,
    }
    return PromptedGuardConfig.model_validate(values | changes)


def rows(n: int = 16) -> list[PromptedRow]:
    made = []
    for i in range(n):
        answer = "no" if i % 2 else "yes"
        prompt = Conversation.user(f"Is it hot? {'ice' if i % 2 else 'fire'} {i % 5}")
        made.append(PromptedRow(prompt, answer, ((0, len(answer)),), "heat"))
    return made


def weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def test_the_answer_and_the_end_of_the_turn_are_scored_and_the_prompt_is_not(tiny_base: Path) -> None:
    chat = load_chat(settings(tiny_base))
    (row,) = encode_prompted(rows(1), chat)
    assert chat.backend.decode([row.ids[i] for i in row.scored], skip_special_tokens=False) == "yes<|im_end|>"
    assert row.ids[: row.scored[0]] == tuple(chat.encode_prompt(rows(1)[0].prompt))


def test_an_answer_whose_end_is_not_scored_does_not_teach_to_stop(tiny_base: Path) -> None:
    chat = load_chat(settings(tiny_base))
    (row,) = encode_prompted([PromptedRow(Conversation.user("x"), "yes and no\n", ((0, 3), (8, 10)), "")], chat)
    assert chat.decode([row.ids[i] for i in row.scored]) == "yesno"
    assert chat.decode(row.ids).endswith("yes and no")


def test_a_row_that_scores_nothing_is_refused(tiny_base: Path) -> None:
    with pytest.raises(DataError, match="nothing of the answer"):
        encode_prompted([PromptedRow(Conversation.user("x"), "yes", (), "")], load_chat(settings(tiny_base)))


def test_the_loss_of_partly_known_answers_is_the_sum_over_the_known_parts(tiny_base: Path) -> None:
    """By hand: log-probabilities of the engine, which scores whole completions, as differences of prefixes."""
    config = settings(tiny_base)
    chat = load_chat(config)
    answer = "A: yes\nB: no\nC: yes"
    prompt = Conversation.user("three questions")
    row = PromptedRow(prompt, answer, ((0, 7), (13, len(answer))), "q")
    encoded = encode_prompted([row], chat)
    network = PromptedNetwork(build_model(config).base_model.model)
    batch = pack(encoded, plan_sequences(encoded, max_tokens=160, epochs=1, seed=0)[0])
    loss = F.cross_entropy(network(batch), batch["labels"], reduction="sum").item()

    engine = TorchEngine(load_causal_lm(config.base, layers=2, dtype=torch.float32), chat)
    first, upto_second, whole = (engine.logprobs([(prompt, answer[:stop])])[0].total for stop in (7, 13, len(answer)))
    ids = torch.tensor([[*chat.encode_completion(prompt, answer)[0], *chat.encode_text(answer)]])
    log_end = engine.model(ids).logits[0, -1].log_softmax(-1)[chat.tokenizer.eos_token_id].item()
    assert -loss == pytest.approx(first + (whole - upto_second) + log_end, abs=1e-4)


def test_only_adapters_of_the_upper_layers_take_gradients(tiny_base: Path) -> None:
    model = build_model(settings(tiny_base))
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    assert len(names) == 2 * 7
    assert all("lora_" in name and ".layers.1." in name for name in names)


def test_full_training_spares_the_lower_layers_and_what_they_read(tiny_base: Path) -> None:
    names = [n for n, p in build_model(settings(tiny_base, full=True)).named_parameters() if p.requires_grad]
    assert all(n.startswith(("model.layers.1.", "model.norm.")) for n in names)
    every = build_model(settings(tiny_base, full=True, first_trained_layer=0))
    assert all(p.requires_grad for p in every.parameters())


def test_training_learns_the_answer_and_the_saved_model_gives_it(tiny_base: Path, tmp_path: Path) -> None:
    config = settings(tiny_base, epochs=30, full=True, first_trained_layer=0, learning_rate=5e-3)
    model = train_prompted_guard(rows(), config, tmp_path / "checkpoints")
    save_prompted_guard(model, load_chat(config), tmp_path / "model")
    saved = load_causal_lm(tmp_path / "model", dtype=torch.float32)
    engine = TorchEngine(saved, prompted.ChatTokenizer(load_tokenizer(tmp_path / "model")))
    scores = label_logprobs(engine, [row.prompt for row in rows(8)], ("yes", "no"))
    assert [yes > no for yes, no in scores] == [row.answer == "yes" for row in rows(8)]
    for name, weight in weights(model).items():
        torch.testing.assert_close(dict(saved.named_parameters())[name], weight, atol=0, rtol=0)


@pytest.mark.parametrize("full", [False, True], ids=["lora", "full"])
def test_resumed_training_equals_uninterrupted_training_bit_for_bit(
    tiny_base: Path, tmp_path: Path, killed_at_the_fourth_step: Callable[..., None], full: bool
) -> None:
    config = settings(tiny_base, epochs=2, full=full)
    whole = weights(train_prompted_guard(rows(), config, tmp_path / "whole"))
    before = weights(load_causal_lm(tiny_base, layers=2, dtype=torch.float32))
    assert any(not torch.equal(before[name], whole[name]) for name in before)
    killed_at_the_fourth_step(
        prompted._PromptedTrainer, lambda: train_prompted_guard(rows(), config, tmp_path / "resumed")
    )
    assert [path.name for path in (tmp_path / "resumed").glob("checkpoint-*")] == ["checkpoint-2"]
    resumed = weights(train_prompted_guard(rows(), config, tmp_path / "resumed"))
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_the_loss_of_a_step_is_divided_once_by_its_scored_tokens(tiny_base: Path, tmp_path: Path) -> None:
    """Two sequences a step, or both rows in one sequence: the same gradients, so the same weights."""
    two = [rows()[0], PromptedRow(Conversation.user("Is it hot? Neither."), "no, it is mild", ((0, 14),), "other")]
    kept = [
        weights(train_prompted_guard(two, settings(tiny_base, **changes), tmp_path / str(changes["batch_tokens"])))
        for changes in ({"batch_tokens": 160}, {"batch_tokens": 80, "accumulation": 2})
    ]
    for name, weight in kept[0].items():
        torch.testing.assert_close(weight, kept[1][name], atol=1e-5, rtol=1e-4, msg=name)


def test_settings_that_leave_nothing_to_train_are_refused(tiny_base: Path) -> None:
    with pytest.raises(ConfigError, match="first_trained_layer"):
        build_model(settings(tiny_base, first_trained_layer=2))


def test_a_tiny_random_base_is_written_once(tmp_path: Path) -> None:
    config = resolve_base(PromptedGuardConfig(base="tiny:random"), tmp_path / "base")
    assert config.base == str(tmp_path / "base")
    assert load_chat(config).encode_text("ab")
    assert resolve_base(config, tmp_path / "elsewhere") is config


def test_rows_are_written_without_training_libraries() -> None:
    code = (
        "import sys; from corral.train.guard import llama_guard, prompted_settings, wildguard;"
        "print([name for name in ('torch', 'transformers', 'peft') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
