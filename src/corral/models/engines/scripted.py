"""An engine that answers from a script: for tests, dry runs and demonstrations without a model."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

from corral.core.errors import EngineError
from corral.data.messages import Conversation
from corral.models.engines.base import CompletionLogprobs, FinishReason, Generation, GenerationSettings, Prompt
from corral.models.prompts import PlainText, Prefilled, Unescaped

Reply = Mapping[str, str] | Callable[[Prompt], str]


class ScriptedEngine:
    """Answers each prompt by looking it up or calling a function; a token is one byte of UTF-8.

    Settings are honoured as far as they apply to a fixed answer: ``stop`` and ``max_new_tokens`` cut it (at a whole
    character), sampling settings change nothing.

    Args:
        reply: from the text of the prompt (of a conversation, its last message) to the answer, or a function of the
            prompt. It may raise, to act a failing engine.
        default: the answer to prompts that a mapping does not have; ``None`` makes them an EngineError.
        logprob: log-likelihood of a completion after a prompt, in nats; by default every byte costs ln 256.
        name: as ``Engine.name``.
    """

    def __init__(
        self,
        reply: Reply,
        *,
        default: str | None = None,
        logprob: Callable[[Prompt, str], float] | None = None,
        name: str = "scripted",
    ) -> None:
        self._reply = reply
        self._default = default
        self._logprob = logprob or _uniform_bytes
        self._name = name

    @property
    def name(self) -> str:
        """The name given."""
        return self._name

    def generate(self, prompts: Sequence[Prompt], settings: GenerationSettings) -> list[Generation]:
        """Answer each prompt; same length and order as given.

        Raises:
            EngineError: the script has no answer.
        """
        return [self._generate(prompt, settings) for prompt in prompts]

    def stream(self, prompt: Prompt, settings: GenerationSettings) -> Iterator[str]:
        """The answer, one character at a time.

        Raises:
            EngineError: the script has no answer.
        """
        yield from self._generate(prompt, settings).text

    def logprobs(self, pairs: Sequence[tuple[Prompt, str]]) -> list[CompletionLogprobs]:
        """The scripted likelihood, spread evenly over the completion's bytes; ``greedy`` when it is the answer."""
        out = []
        for prompt, completion in pairs:
            ids = tuple(completion.encode())
            each = self._logprob(prompt, completion) / max(len(ids), 1)
            greedy = self._answer(prompt) == completion
            out.append(CompletionLogprobs(ids, (each,) * len(ids), greedy, len(_text(prompt).encode())))
        return out

    def _generate(self, prompt: Prompt, settings: GenerationSettings) -> Generation:
        text = self._answer(prompt)
        cuts = [position for stop in settings.stop if (position := text.find(stop)) >= 0]
        text = text[: min(cuts)] if cuts else text
        data = text.encode()
        reason: FinishReason = "stop"
        if len(data) > settings.max_new_tokens:
            reason = "length"
            text = data[: settings.max_new_tokens].decode(errors="ignore")
        return Generation(text, tuple(text.encode()), reason, len(_text(prompt).encode()))

    def _answer(self, prompt: Prompt) -> str:
        if callable(self._reply):
            return self._reply(prompt)
        answer = self._reply.get(_text(prompt), self._default)
        if answer is None:
            raise EngineError("the script has no answer to the prompt", hint="Give a default.")
        return answer


def _text(prompt: Prompt) -> str:
    match prompt:
        case str(text) | PlainText(text):
            return text
        case Prefilled(conversation) | Unescaped(conversation):
            return _text(conversation)
        case Conversation(messages):
            return messages[-1].text if messages else ""


def _uniform_bytes(_prompt: Prompt, completion: str) -> float:
    return -math.log(256) * len(completion.encode())
