"""What an engine is: one interface over a model in this process, a server, or a script.

Prompts are conversations, rendered under the model's chat template, raw text, which is trusted as it stands (see
``models/chat``), or what ``models/prompts`` describes, where the engine has the model's tokenizer. An engine never
shortens its input: what does not fit is an error.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, runtime_checkable

from corral.core.errors import ConfigError
from corral.data.messages import Conversation
from corral.models.prompts import PlainText, Prefilled, Unescaped

Prompt = Conversation | str | Prefilled | PlainText | Unescaped
FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class GenerationSettings:
    """How to sample.

    Attributes:
        max_new_tokens: at most so many tokens; fewer when the model's context is full.
        temperature: 0 for greedy decoding, else the divisor of the logits.
        top_p: sample from the smallest set of tokens whose probabilities reach this sum (nucleus sampling,
            arXiv 1904.09751); 1 for all.
        stop: strings that end the text; they are not part of it.
        seed: sampled tokens depend on the seed, the prompt and its index in the call, not on batches or threads.

    Raises:
        ConfigError: a value out of range.
    """

    max_new_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    stop: tuple[str, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise ConfigError(f"`{self.max_new_tokens}` is below 1", where="max_new_tokens")
        if not 0.0 <= self.temperature < float("inf"):
            raise ConfigError(f"`{self.temperature}` is not a finite number of at least 0", where="temperature")
        if not 0.0 < self.top_p <= 1.0:
            raise ConfigError(f"`{self.top_p}` is outside (0, 1]", where="top_p")
        if isinstance(self.stop, str) or "" in self.stop:
            raise ConfigError("expected a tuple of strings that are not empty", where="stop")


@dataclass(frozen=True, slots=True)
class Generation:
    """What a model wrote.

    Attributes:
        text: without control tokens and without the stop string.
        token_ids: all sampled ids but the end-of-sequence token.
        finish_reason: ``stop`` at an end-of-sequence token or a stop string, ``length`` at the limit of tokens.
        prompt_tokens: length of the prompt as the model read it.
        measures: what the engine saw inside the model meanwhile, by name, such as MoGU's mean gates; often nothing.
    """

    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    prompt_tokens: int
    measures: Mapping[str, float] = field(default_factory=dict, compare=False)


@dataclass(frozen=True, slots=True)
class CompletionLogprobs:
    """How likely a model finds a given completion.

    Attributes:
        token_ids: of the completion.
        logprobs: natural logarithm of each token's probability, given the prompt and the tokens before it.
        greedy: every token is the most likely one, so that greedy decoding would write this completion.
        prompt_tokens: length of the prompt as the model read it.
    """

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    greedy: bool
    prompt_tokens: int

    @property
    def total(self) -> float:
        """Log-likelihood of the completion, in nats."""
        return sum(self.logprobs)


@runtime_checkable
class Engine(Protocol):
    """Anything that completes prompts."""

    @property
    def name(self) -> str:
        """The model, as a user would name it."""

    def generate(self, prompts: Sequence[Prompt], settings: GenerationSettings) -> list[Generation]:
        """Complete each prompt; same length and order as given.

        Raises:
            DataError: a prompt that cannot be rendered or does not fit the context; names its index.
            EngineError: the model could not answer.
        """

    def stream(self, prompt: Prompt, settings: GenerationSettings) -> Iterator[str]:
        """The text of ``generate`` for one prompt, in pieces of whole characters as they are sampled.

        Raises:
            DataError: a prompt that cannot be rendered or does not fit the context.
            EngineError: the model could not answer.
        """

    def logprobs(self, pairs: Sequence[tuple[Prompt, str]]) -> list[CompletionLogprobs]:
        """Score each completion after its prompt; same length and order as given.

        Raises:
            DataError: a pair that cannot be rendered or does not fit the context; names its index.
            EngineError: the model could not answer.
        """
