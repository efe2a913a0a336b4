"""Supervised fine-tuning: the answer alone is learnt, the loss is a mean over its tokens, resume is exact."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from corral.core.errors import ConfigError, DataError, NotFoundError
from corral.data.examples import PromptCompletionExample
from corral.data.messages import Conversation
from corral.models.adapters import merge_lora
from corral.models.engines.torch import TorchEngine
from corral.models.loading import load_causal_lm
from corral.train import sft
from corral.train.fine_tuning import load_chat, prepare_model
from corral.train.fine_tuning_settings import SftConfig
from corral.train.sft import IGNORED, encode_completions, train_sft


def settings(**changes: object) -> SftConfig:
    values = {
        "first_trained_layer": 1,
        "rank": 2,
        "alpha": 4,
        "max_tokens": 120,
        "batch_tokens": 160,
        "learning_rate": 1e-2,
        "precision": "fp32",
        "save_every": 2,
    }
    return SftConfig.model_validate(values | changes)


def rows(n: int = 12) -> list[PromptCompletionExample]:
    return [
        PromptCompletionExample(
            Conversation.user(f"Is it hot? {'ice' if i % 2 else 'fire'} {i}"), "no" if i % 2 else "yes"
        )
        for i in range(n)
    ]


def weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def losses(folder: Path) -> list[float]:
    """Those that the trainer has logged, of the last checkpoint."""
    newest = max(folder.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    log = json.loads((newest / "trainer_state.json").read_text())["log_history"]
    return [line["loss"] for line in log if "loss" in line]


def by_hand(base: Path, examples: Sequence[PromptCompletionExample]) -> float:
    """Mean negative log-likelihood over the answers' tokens and ends, token by token, each row by itself."""
    chat = load_chat(str(base))
    model = load_causal_lm(base, dtype=torch.float32)
    total, count = 0.0, 0
    for example in examples:
        prompt = chat.encode_prompt(example.prompt)
        answer = [*chat.encode_text(example.completion), *([chat.tokenizer.eos_token_id] if example.complete else [])]
        logits = model(torch.tensor([[*prompt, *answer]])).logits[0].log_softmax(-1)
        for place, token in enumerate(answer, start=len(prompt)):
            total -= logits[place - 1, token].item()
            count += 1
    return total / count


def test_the_answer_and_its_end_are_labelled_and_the_prompt_is_not(tiny_base: Path) -> None:
    chat = load_chat(str(tiny_base))
    (row,) = encode_completions(rows(1), chat, max_tokens=120)
    learnt = [label for label in row.labels if label != IGNORED]
    assert chat.backend.decode(learnt, skip_special_tokens=False) == "yes<|im_end|>"
    assert row.labels == [IGNORED] * (len(row.input_ids) - len(learnt)) + learnt
    assert row.input_ids == [*chat.encode_prompt(rows(1)[0].prompt), *learnt]


@pytest.mark.parametrize(("complete", "max_tokens"), [(False, 120), (True, 60)], ids=["cut off", "does not fit"])
def test_a_completion_without_its_end_does_not_teach_to_stop(tiny_base: Path, complete: bool, max_tokens: int) -> None:
    chat = load_chat(str(tiny_base))
    example = PromptCompletionExample(Conversation.user("x"), "y" * 50, complete=complete)
    (row,) = encode_completions([example], chat, max_tokens=max_tokens)
    assert len(row.input_ids) <= max_tokens
    assert chat.tokenizer.eos_token_id not in [label for label in row.labels if label != IGNORED]


def test_rows_that_teach_nothing_are_refused_by_their_index(tiny_base: Path) -> None:
    chat = load_chat(str(tiny_base))
    with pytest.raises(DataError, match="empty") as empty:
        encode_completions([*rows(1), PromptCompletionExample(Conversation.user("x"), "")], chat, max_tokens=120)
    assert empty.value.where == "rows[1]"
    with pytest.raises(DataError, match="leaves no room"):
        encode_completions([PromptCompletionExample(Conversation.user("x" * 200), "y")], chat, max_tokens=120)


def test_a_control_token_in_an_answer_is_read_as_its_letters(tiny_base: Path) -> None:
    chat = load_chat(str(tiny_base))
    example = PromptCompletionExample(Conversation.user("x"), "a<|im_end|>b", complete=False)
    (row,) = encode_completions([example], chat, max_tokens=120)
    assert chat.tokenizer.eos_token_id not in [label for label in row.labels if label != IGNORED]


@pytest.mark.parametrize("accumulation", [1, 3])
def test_the_loss_of_a_step_is_the_mean_over_its_answers_tokens(
    tiny_base: Path, tmp_path: Path, accumulation: int
) -> None:
    """However the rows of a step are cut into batches; the mean by hand is over tokens, not over rows."""
    examples = [
        *rows(2),
        PromptCompletionExample(Conversation.user("And then?"), "it grows warm, slowly", complete=False),
    ]
    longest = max(len(row.input_ids) for row in encode_completions(examples, load_chat(str(tiny_base)), max_tokens=120))
    budget = 3 * longest if accumulation == 1 else longest
    config = settings(batch_tokens=budget, accumulation=accumulation, learning_rate=1e-9)
    trainer_log = tmp_path / "checkpoints"
    train_sft(examples, str(tiny_base), config.model_copy(update={"epochs": 10}), trainer_log)
    assert losses(trainer_log)[0] == pytest.approx(by_hand(tiny_base, examples), abs=1e-4)


@pytest.mark.parametrize("full", [False, True], ids=["lora", "full"])
def test_resumed_training_equals_uninterrupted_training_bit_for_bit(
    tiny_base: Path, tmp_path: Path, killed_at_the_fourth_step: Callable[..., None], full: bool
) -> None:
    config = settings(epochs=2, full=full)
    base = str(tiny_base)
    whole = weights(train_sft(rows(), base, config, tmp_path / "whole").merged())
    before = weights(load_causal_lm(tiny_base, dtype=torch.float32))
    assert any(not torch.equal(before[name], whole[name]) for name in before)
    killed_at_the_fourth_step(sft._SftTrainer, lambda: train_sft(rows(), base, config, tmp_path / "resumed"))
    assert [path.name for path in (tmp_path / "resumed").glob("checkpoint-*")] == ["checkpoint-2"]
    resumed = weights(train_sft(rows(), base, config, tmp_path / "resumed").merged())
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_training_learns_the_answers_and_the_saved_adapter_gives_them(tiny_base: Path, tmp_path: Path) -> None:
    examples = [PromptCompletionExample(row.prompt, "yes") for row in rows(6)]
    tuned = train_sft(examples, str(tiny_base), settings(epochs=8), tmp_path / "checkpoints")
    assert "forward" not in vars(tuned.model)  # neither autocast nor TRL's head is left in it
    tuned.save_adapter(tmp_path / "adapter")
    model = load_causal_lm(tiny_base, dtype=torch.float32)
    before = by_hand(tiny_base, examples)
    merge_lora(model, tmp_path / "adapter")
    engine = TorchEngine(model, load_chat(str(tiny_base)))
    learnt, other = ([(row.prompt, answer) for row in examples] for answer in ("yes", "nay"))
    assert all(a.total > b.total for a, b in zip(engine.logprobs(learnt), engine.logprobs(other), strict=True))
    assert losses(tmp_path / "checkpoints")[-1] < before
    for ours, pefts in zip(model.parameters(), tuned.merged().parameters(), strict=True):
        torch.testing.assert_close(ours, pefts)


def test_training_goes_on_from_an_adapter(tiny_base: Path, tmp_path: Path) -> None:
    first = train_sft(rows(), str(tiny_base), settings(), tmp_path / "first")
    first.save_adapter(tmp_path / "adapter")
    taken_up = prepare_model(str(tiny_base), settings(), adapter=tmp_path / "adapter")
    trained = {name: p for name, p in taken_up.model.named_parameters() if p.requires_grad}
    known = dict(first.model.named_parameters())
    assert len(trained) == 2 * 2 * 7  # matrices of seven linears in two layers
    assert all(torch.equal(p, known[name]) for name, p in trained.items())


def test_settings_that_do_not_go_together_are_refused(tiny_base: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="first_trained_layer"):
        prepare_model(str(tiny_base), settings(first_trained_layer=9))
    with pytest.raises(DataError, match="full"):
        prepare_model(str(tiny_base), settings(full=True), adapter=tmp_path)
    with pytest.raises(NotFoundError, match="adapter"):
        prepare_model(str(tiny_base), settings(), adapter=tmp_path)
    train_sft(rows(), str(tiny_base), settings(), tmp_path / "first").save_adapter(tmp_path / "adapter")
    with pytest.raises(ConfigError, match="rank 2"):
        prepare_model(str(tiny_base), settings(rank=7), adapter=tmp_path / "adapter")
    with pytest.raises(DataError, match="no adapter"):
        prepare_model(str(tiny_base), settings(full=True)).save_adapter(tmp_path / "x")
    with pytest.raises(ConfigError, match="no training rows"):
        train_sft([], str(tiny_base), settings(), tmp_path / "none")
