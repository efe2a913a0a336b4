"""An engine behind a prompt defence: it is asked what the defence makes of each prompt."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from corral.data.messages import Conversation
from corral.models.defences.prompts import PromptDefence
from corral.models.engines.base import CompletionLogprobs, Engine, Generation, GenerationSettings, Prompt
from corral.models.prompts import Prefilled, Unescaped

if TYPE_CHECKING:
    from corral.models.chat import ChatTokenizer


class DefendedEngine:
    """Another engine with a defence in front.

    Prompts without a chat (raw text) pass as they are: a defence by turns has no place in them. What a prompt adds to
    its conversation, the beginning of an answer for example, stays.

    Args:
        engine: answers.
        defence: rewrites.

    Attributes:
        chat: the engine's tokenizer, ``None`` where it has none.
    """

    def __init__(self, engine: Engine, defence: PromptDefence) -> None:
        self._engine = engine
        self._defence = defence
        self.chat: ChatTokenizer | None = getattr(engine, "chat", None)

    @property
    def name(self) -> str:
        """Engine and defence."""
        return f"{self._engine.name} + {self._defence.name}"

    def generate(self, prompts: Sequence[Prompt], settings: GenerationSettings) -> list[Generation]:
        """See ``Engine.generate``."""
        return self._engine.generate(self._rewritten(prompts), settings)

    def stream(self, prompt: Prompt, settings: GenerationSettings) -> Iterator[str]:
        """See ``Engine.stream``."""
        yield from self._engine.stream(self._rewritten([prompt])[0], settings)

    def logprobs(self, pairs: Sequence[tuple[Prompt, str]]) -> list[CompletionLogprobs]:
        """See ``Engine.logprobs``."""
        prompts = self._rewritten([prompt for prompt, _ in pairs])
        return self._engine.logprobs([(prompt, text) for prompt, (_, text) in zip(prompts, pairs, strict=True)])

    def _rewritten(self, prompts: Sequence[Prompt]) -> list[Prompt]:
        conversations = [found for prompt in prompts if (found := _conversation(prompt)) is not None]
        rewritten = iter(self._defence.rewrite(conversations) if conversations else [])
        return [prompt if _conversation(prompt) is None else _with(prompt, next(rewritten)) for prompt in prompts]


def _conversation(prompt: Prompt) -> Conversation | None:
    match prompt:
        case Conversation():
            return prompt
        case Prefilled(conversation) | Unescaped(conversation):
            return conversation
        case _:
            return None


def _with(prompt: Prompt, conversation: Conversation) -> Prompt:
    if isinstance(prompt, Prefilled | Unescaped):
        return replace(prompt, conversation=conversation)
    return conversation
