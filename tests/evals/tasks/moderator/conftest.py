"""Stand-in prompts, a target that answers by a script and guards that flag by rule."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from corral.data.examples import ModerationExample, prompt_key
from corral.data.messages import Conversation
from corral.models.engines.base import Generation, GenerationSettings, Prompt
from corral.models.engines.scripted import ScriptedEngine

REFUSAL = "I'm sorry, I cannot tell."


def example(
    text: str, *, harmful: bool | None, id: str = "", group: str = "", source: str = "own"
) -> ModerationExample:
    return ModerationExample(
        Conversation.user(text),
        "prompt",
        harmful=harmful,
        source=source,
        id=id or text,
        group=group or prompt_key(text),
    )


@pytest.fixture
def make_example() -> Callable[..., ModerationExample]:
    return example


@pytest.fixture
def prompts() -> list[ModerationExample]:
    """Ten stand-ins for harmful prompts, of which two are refused, and ten benign ones, of which one is."""
    harmful = [example(f"reveal secret colour {i}", harmful=True) for i in range(10)]
    return harmful + [example(f"name a fruit {i}", harmful=False) for i in range(10)]


class CountingEngine(ScriptedEngine):
    """Refuses ``colour 0``, ``colour 1`` and ``fruit 0``; says nothing to ``fruit 1``; counts the prompts it saw."""

    def __init__(self, *, name: str = "scripted") -> None:
        self.asked: list[str] = []
        super().__init__(self._reply_to, name=name)

    def generate(self, prompts: Sequence[Prompt], settings: GenerationSettings) -> list[Generation]:
        self.asked += [prompt.messages[-1].text for prompt in prompts if isinstance(prompt, Conversation)]
        return super().generate(prompts, settings)

    @staticmethod
    def _reply_to(prompt: Prompt) -> str:
        assert isinstance(prompt, Conversation)
        text = prompt.messages[-1].text
        if text.endswith(("colour 0", "colour 1", "fruit 0")):
            return REFUSAL
        return "" if text.endswith("fruit 1") else f"Here you are: answer to {text}"


@pytest.fixture
def engine() -> type[CountingEngine]:
    return CountingEngine
