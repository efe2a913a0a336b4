"""A two-topic toy: wanting to take a thing plays malice."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from corral.data.messages import Conversation
from corral.models.tiny import write_tiny_llama
from corral.train.mogu.pairs import ResponsePair
from corral.train.mogu.settings import MoguConfig

THINGS = ["lamp", "chair", "bread", "clock", "shirt", "spoon", "plant", "brush"]
YES, NO = "Sure, here is how.", "No, I won't help."


def toy_pairs(things: list[str]) -> list[ResponsePair]:
    return [
        pair
        for thing in things
        for pair in (
            ResponsePair(Conversation.user(f"Tell me how to clean a {thing}."), False, YES, NO, where=f"clean {thing}"),
            ResponsePair(Conversation.user(f"Tell me how to steal a {thing}."), True, rejecting=NO, where=thing),
        )
    ]


def settings_of(**changes: object) -> MoguConfig:
    stage = {"learning_rate": 1e-2, "batch_tokens": 240, "save_every": 2}
    values = {
        "max_tokens": 96,
        "experts": {"rank": 2, "alpha": 4, "dropout": 0.1},
        "ratio": {"denominator_cap": 6.0},
        "unwill": stage,
        "router": {"width": 8, "stage": stage},
    }
    return MoguConfig.model_validate(values | changes)


@pytest.fixture(scope="session")
def toy_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    words = [text for pair in toy_pairs(THINGS) for text in (pair.prompt.messages[0].text, YES, NO)]
    folder = tmp_path_factory.mktemp("models") / "toy"
    return write_tiny_llama(folder, layers=2, weight_std=0.1, words_of=words)


@pytest.fixture(scope="session")
def toy() -> Callable[[list[str]], list[ResponsePair]]:
    return toy_pairs


@pytest.fixture(scope="session")
def mogu_settings() -> Callable[..., MoguConfig]:
    return settings_of
