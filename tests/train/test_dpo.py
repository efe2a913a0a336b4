"""Preference training: the loss is the closed form over pairs, the reference is the model as it comes in."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from corral.core.errors import DataError
from corral.data.examples import PreferenceExample, PromptCompletionExample
from corral.data.messages import Conversation
from corral.models.engines.torch import TorchEngine
from corral.models.loading import load_causal_lm
from corral.train import dpo
from corral.train.dpo import encode_preferences, train_dpo
from corral.train.fine_tuning import FineTuned, load_chat
from corral.train.fine_tuning_settings import DpoConfig, SftConfig
from corral.train.sft import train_sft

SMALL: dict[str, Any] = {
    "first_trained_layer": 1,
    "rank": 2,
    "alpha": 4,
    "max_tokens": 120,
    "precision": "fp32",
    "save_every": 2,
}


def settings(**changes: object) -> DpoConfig:
    return DpoConfig.model_validate({**SMALL, "batch_tokens": 320, "learning_rate": 1e-2, **changes})


def rows(n: int = 8) -> list[PreferenceExample]:
    return [
        PreferenceExample(
            Conversation.user(f"Is it hot? {i}"), chosen="yes" + "!" * (i % 3), rejected="no" * (1 + i % 2)
        )
        for i in range(n)
    ]


def weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def logged(folder: Path, name: str) -> list[float]:
    newest = max(folder.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    log = json.loads((newest / "trainer_state.json").read_text())["log_history"]
    return [line[name] for line in log if name in line]


def tuned_adapter(base: Path, folder: Path) -> Path:
    """An adapter that has learnt something, to go on from."""
    examples = [PromptCompletionExample(row.prompt, row.rejected) for row in rows()]
    config = SftConfig.model_validate({**SMALL, "batch_tokens": 160, "learning_rate": 3e-2})
    train_sft(examples, str(base), config, folder / "sft").save_adapter(folder / "adapter")
    return folder / "adapter"


def sides(model: torch.nn.Module, base: Path, examples: list[PreferenceExample]) -> list[tuple[float, float]]:
    """Log-likelihoods of both sides with their ends, from the engine, which scores text that follows a prompt."""
    chat = load_chat(str(base))
    engine = TorchEngine(model, chat)
    end = [int(chat.tokenizer.eos_token_id)]
    found = []
    for row in examples:
        prompt = chat.encode_prompt(row.prompt)
        pairs = [(prompt, chat.encode_text(text) + end) for text in (row.chosen, row.rejected)]
        chosen, rejected = (each.total for each in engine.token_logprobs(pairs))
        found.append((chosen, rejected))
    return found


def test_both_sides_follow_the_same_prompt_and_end_their_turn(tiny_base: Path) -> None:
    chat = load_chat(str(tiny_base))
    row = encode_preferences(
        [PreferenceExample(Conversation.user("x"), "yes", "no", rejected_complete=False)], chat, max_tokens=120
    )[0]
    assert row.prompt_ids == chat.encode_prompt(Conversation.user("x"))
    assert chat.backend.decode(row.chosen_ids, skip_special_tokens=False) == "yes<|im_end|>"
    assert chat.backend.decode(row.rejected_ids, skip_special_tokens=False) == "no"
    assert row.tokens == 2 * (len(row.prompt_ids) + 4)
    with pytest.raises(DataError, match="empty") as caught:
        encode_preferences([PreferenceExample(Conversation.user("x"), "yes", "")], chat, max_tokens=120)
    assert caught.value.where == "rows[0].rejected"


def test_the_first_loss_is_log_two_since_the_reference_is_the_model_as_it_comes_in(
    tiny_base: Path, tmp_path: Path
) -> None:
    """Also with an adapter: against the bare base the margins would not be zero."""
    adapter = tuned_adapter(tiny_base, tmp_path)
    bare, with_adapter = (
        load_causal_lm(tiny_base, dtype=torch.float32),
        dpo.prepare_model(str(tiny_base), settings(), adapter=adapter).merged(),
    )
    (without,), (having,) = (sides(model, tiny_base, rows(1)) for model in (bare, with_adapter))
    assert without[0] - without[1] != pytest.approx(having[0] - having[1], abs=1e-3)
    config = settings(learning_rate=1e-9, epochs=10, batch_tokens=4000)
    train_dpo(rows(), str(tiny_base), config, tmp_path / "dpo", adapter=adapter)
    assert logged(tmp_path / "dpo", "loss")[0] == pytest.approx(math.log(2), abs=1e-5)
    assert logged(tmp_path / "dpo", "rewards/margins")[0] == pytest.approx(0.0, abs=1e-4)


@pytest.mark.parametrize("accumulation", [1, 4])
def test_the_loss_is_the_closed_form_meaned_over_the_pairs_of_a_step(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, accumulation: int
) -> None:
    """Rafailov et al., equation 7, on log-likelihoods of the engine; batches of one pair and of several weigh alike."""
    reference = dict(
        zip(map(str, rows()), sides(load_causal_lm(tiny_base, dtype=torch.float32), tiny_base, rows()), strict=True)
    )
    shifted = {key: (chosen - 3.0, rejected + 2.0 * i) for i, (key, (chosen, rejected)) in enumerate(reference.items())}
    monkeypatch.setattr(
        dpo._DpoTrainer,
        "_precompute_ref_logps",
        lambda self, dataset, name, size: dataset.add_column(
            "ref_chosen_logps", [c for c, _ in shifted.values()]
        ).add_column("ref_rejected_logps", [r for _, r in shifted.values()]),
    )
    budget = 4000 if accumulation == 1 else 320
    config = settings(learning_rate=1e-9, beta=0.3, epochs=10, batch_tokens=budget)
    batches = dpo.batches_of(
        [row.tokens for row in encode_preferences(rows(), load_chat(str(tiny_base)), max_tokens=120)], config
    )
    config = config.model_copy(update={"accumulation": len(batches) // 10})
    assert (config.accumulation > 1) == (accumulation > 1)
    train_dpo(rows(), str(tiny_base), config, tmp_path)
    expected = 0.0
    for key, (chosen, rejected) in reference.items():
        ref_chosen, ref_rejected = shifted[key]
        margin = 0.3 * ((chosen - ref_chosen) - (rejected - ref_rejected))
        expected += math.log1p(math.exp(-margin)) / len(reference)
    assert logged(tmp_path, "loss")[0] == pytest.approx(expected, abs=1e-4)


def test_training_raises_the_margin_of_what_is_preferred(tiny_base: Path, tmp_path: Path) -> None:
    tuned = train_dpo(rows(), str(tiny_base), settings(epochs=15), tmp_path)
    before = sides(load_causal_lm(tiny_base, dtype=torch.float32), tiny_base, rows())
    after = sides(tuned.merged(), tiny_base, rows())
    margins = [[chosen - rejected for chosen, rejected in side] for side in (before, after)]
    assert all(later > earlier for earlier, later in zip(*margins, strict=True))


def test_the_chosen_sides_likelihood_can_be_held_up(tiny_base: Path, tmp_path: Path) -> None:
    def chosen(tuned: FineTuned) -> float:
        return sum(side[0] for side in sides(tuned.merged(), tiny_base, rows()))

    alone = train_dpo(rows(), str(tiny_base), settings(epochs=10), tmp_path / "alone")
    held = train_dpo(rows(), str(tiny_base), settings(epochs=10, chosen_nll_weight=1.0), tmp_path / "held")
    assert chosen(held) > chosen(alone)


@pytest.mark.parametrize("adapter", [False, True], ids=["from the base", "from an adapter"])
def test_resumed_training_equals_uninterrupted_training_bit_for_bit(
    tiny_base: Path, tmp_path: Path, killed_at_the_fourth_step: Callable[..., None], adapter: bool
) -> None:
    begun = tuned_adapter(tiny_base, tmp_path) if adapter else None
    config = settings(epochs=2)

    def train(folder: str) -> FineTuned:
        return train_dpo(rows(), str(tiny_base), config, tmp_path / folder, adapter=begun)

    whole = weights(train("whole").merged())
    killed_at_the_fourth_step(dpo._DpoTrainer, lambda: train("resumed"))
    assert [path.name for path in (tmp_path / "resumed").glob("checkpoint-*")] == ["checkpoint-2"]
    resumed = weights(train("resumed").merged())
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
