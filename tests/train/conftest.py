"""A tiny random Llama, a base model that trains in a second, and a kill in the middle of training it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import TrainerCallback

from corral.models.tiny import write_tiny_llama


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_llama(tmp_path_factory.mktemp("models") / "tiny")


class _Kill(TrainerCallback):
    """Stops training as a kill would, in the middle of a step that is not saved yet."""

    def on_step_begin(self, args: object, state: Any, control: object, **_: object) -> None:
        if state.global_step == 3:
            raise KeyboardInterrupt


@pytest.fixture
def killed_at_the_fourth_step(monkeypatch: pytest.MonkeyPatch) -> Callable[[type, Callable[[], object]], None]:
    """Runs a training whose trainer is of the given class, and kills it."""

    def run(trainer: Any, train: Callable[[], object]) -> None:
        original = trainer.__init__

        def with_kill(self: Any, **arguments: Any) -> None:
            original(self, **arguments)
            self.add_callback(_Kill())

        with monkeypatch.context() as patched:
            patched.setattr(trainer, "__init__", with_kill)
            with pytest.raises(KeyboardInterrupt):
                train()

    return run
