"""Training one head anew on states made by hand: it learns, and nothing else of the guard changes by a bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits
from transformers import TrainerCallback

from corral.core.errors import ConfigError
from corral.guards.default.network import BINARY_HEADS, GuardHeads
from corral.train.guard import refit as module
from corral.train.guard.refit import StateRow, collate_states, refit_heads
from corral.train.guard.refit_settings import HeadRefitConfig

ATTACK = BINARY_HEADS.index("prompt_attack")
WIDTH = 8


def settings(**changes: object) -> HeadRefitConfig:
    values = {"batch_tokens": 64, "epochs": 4, "learning_rate": 5e-2, "save_every": 2}
    return HeadRefitConfig.model_validate(values | changes)


def rows(n: int = 40) -> list[StateRow]:
    """A message is an attack when one of its tokens, anywhere, points along the first axis; half are harmful too."""
    generator = torch.Generator().manual_seed(0)
    made = []
    for i in range(n):
        states = torch.randn(3 + i % 5, WIDTH, generator=generator)
        states[i % len(states), 0] = 6.0 if i % 2 else -6.0
        labels = [-100.0] * len(BINARY_HEADS)
        labels[ATTACK], labels[0] = float(i % 2), float(i % 4 < 2)
        categories = [float(i % 3 == code) for code in range(3)]
        states[(i + 1) % len(states), 1 + i % 3] = 6.0
        made.append(StateRow(states.bfloat16(), labels, categories))
    return made


def heads() -> GuardHeads:
    torch.manual_seed(0)
    return GuardHeads(WIDTH, 3)


def attack_loss(of: GuardHeads) -> float:
    batch = collate_states(rows())
    with torch.inference_mode():
        scores = of(batch["states"], batch["span"]).binary[:, ATTACK]
    return float(binary_cross_entropy_with_logits(scores, batch["binary"][:, ATTACK]))


def test_the_named_head_learns(tmp_path: Path) -> None:
    refitted = refit_heads(heads(), ["prompt_attack"], rows(), settings(epochs=30), tmp_path)
    assert attack_loss(refitted) < 0.5 * attack_loss(heads())


def test_every_other_output_stays_bit_for_bit(tmp_path: Path) -> None:
    before = heads()
    after = refit_heads(before, ["prompt_attack"], rows(), settings(), tmp_path)
    batch = collate_states(rows())
    old, new = (each(batch["states"], batch["span"]) for each in (before, after))
    assert torch.equal(old.categories, new.categories)
    for column, name in enumerate(BINARY_HEADS):
        assert torch.equal(old.binary[:, column], new.binary[:, column]) is (name != "prompt_attack")
    assert torch.equal(before.norm.weight, after.norm.weight)


def test_the_heads_that_were_given_are_not_changed(tmp_path: Path) -> None:
    before = heads()
    refit_heads(before, ["prompt_attack"], rows(), settings(), tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(before.parameters(), heads().parameters(), strict=True))


def test_the_categories_learn_and_no_binary_head_moves(tmp_path: Path) -> None:
    before = heads()
    after = refit_heads(before, ["categories"], rows(), settings(epochs=30), tmp_path)
    batch = collate_states(rows())
    with torch.inference_mode():
        old, new = (each(batch["states"], batch["span"]) for each in (before, after))
    assert torch.equal(old.binary, new.binary)
    right = batch["categories"].argmax(dim=1)
    assert (new.categories.argmax(dim=1) == right).float().mean() > 0.9
    assert (old.categories.argmax(dim=1) == right).float().mean() < 0.7


class Kill(TrainerCallback):
    """Stops training as a kill would, in the middle of a step that is not saved yet."""

    def on_step_begin(self, args: object, state: object, control: object, **_: object) -> None:
        if state.global_step == 5:  # type: ignore[attr-defined]
            raise KeyboardInterrupt


def test_resumed_training_equals_uninterrupted_training_bit_for_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = refit_heads(heads(), ["prompt_attack"], rows(), settings(), tmp_path / "whole")
    original = module._RefitTrainer.__init__
    with monkeypatch.context() as patched:

        def with_kill(self: object, **arguments: object) -> None:
            original(self, **arguments)  # type: ignore[arg-type]
            self.add_callback(Kill())  # type: ignore[attr-defined]

        patched.setattr(module._RefitTrainer, "__init__", with_kill)
        with pytest.raises(KeyboardInterrupt):
            refit_heads(heads(), ["prompt_attack"], rows(), settings(), tmp_path / "resumed")
    assert (tmp_path / "resumed" / "checkpoint-4").is_dir()
    resumed = refit_heads(heads(), ["prompt_attack"], rows(), settings(), tmp_path / "resumed")
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))


def test_a_head_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no head is called `attack`"):
        refit_heads(heads(), ["attack"], rows(), settings(), tmp_path)


def test_rows_that_say_nothing_about_the_head_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="response_refusal"):
        refit_heads(heads(), ["response_refusal"], rows(), settings(), tmp_path)
