"""The openai engine: a model behind any OpenAI-compatible server, such as vLLM, SGLang or llama.cpp.

With the model's tokenizer, prompts are rendered and tokenised here and sent as token ids to ``/completions``, so that
text that people wrote never becomes a control token and nothing depends on the server's chat template; and an answer
to fewer tokens than were sent is refused. Without it, conversations go to ``/chat/completions`` and raw text as text;
scoring completions, which needs to know where tokens begin, is then not possible.

Each prompt is a request of its own: the server batches them, and one that fails does not fail the others.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Self, TypeVar

from corral.core.errors import ConfigError, CorralError, EngineError
from corral.models.engines import openai_replies as replies
from corral.models.engines.base import CompletionLogprobs, Generation, GenerationSettings
from corral.models.engines.openai_client import PLAIN_SAMPLING, ModelClient, ServerPrompt, sampling_fields
from corral.models.engines.openai_connection import API_KEY_VARIABLE, ConnectionSettings, ServerConnection
from corral.models.engines.openai_loop import bounded_map
from corral.models.engines.openai_scoring import score_completion, score_labels

if TYPE_CHECKING:
    from corral.models.chat import ChatTokenizer

_In = TypeVar("_In")
_Out = TypeVar("_Out")
_Answer = Callable[[int, _In], Awaitable[_Out]]


class OpenAIEngine:
    """Generates with and scores by one model of an OpenAI-compatible server.

    ``generate``, ``logprobs`` and ``label_logprobs`` stop at the first request that fails and raise its error; their
    ``_each`` twins return the error in the place of that request's result. Safe to use from several threads. Close it,
    or use it as a context manager, to end its thread and connections before it is garbage.

    What is asked beyond OpenAI's API (see ``extensions``) turns off samplers that ``GenerationSettings`` does not
    know. A server decides what happens when ``max_new_tokens`` do not fit the rest of the context; vLLM refuses.

    Args:
        base_url: such as ``http://127.0.0.1:8000/v1``; without a path, ``/v1`` is meant.
        model: as the server names it.
        api_key: by default from the environment variable ``CORRAL_OPENAI_API_KEY``.
        chat: the model's tokenizer.
        connection: timeouts, retries and concurrency.
        prompt_logprobs: the server scores the tokens of a prompt (``echo`` with ``logprobs``). Without it (llama.cpp)
            each token of a completion takes a request and must be among the likeliest that the server lists.
        extensions: send fields that OpenAI's API does not have; False for servers that refuse unknown ones.

    Raises:
        ConfigError: a URL, key or setting that cannot be used.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        api_key: str | None = None,
        chat: ChatTokenizer | None = None,
        connection: ConnectionSettings | None = None,
        prompt_logprobs: bool = True,
        extensions: bool = True,
    ) -> None:
        if not model:
            raise ConfigError("the model's name is empty", where="model")
        self.chat = chat
        self.prompt_logprobs = prompt_logprobs
        self._connection = ServerConnection(
            base_url,
            # A name of our own: a key for another service must not reach whatever server is named here.
            api_key=os.environ.get(API_KEY_VARIABLE) if api_key is None else api_key,
            settings=connection or ConnectionSettings(),
        )
        self._client = ModelClient(self._connection, model, chat=chat, extensions=extensions)

    @property
    def name(self) -> str:
        """The model, as the server names it."""
        return self._client.model

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Cancel what is under way (its callers get an EngineError) and close the connections."""
        self._connection.close()

    def generate(self, prompts: Sequence[ServerPrompt], settings: GenerationSettings) -> list[Generation]:
        """Complete each prompt; same length and order as given.

        Token ids of the answers are there if the server tells them (vLLM and SGLang do, given the tokenizer).

        Raises:
            DataError: a prompt that cannot be rendered or does not fit the context; names its index.
            EngineError: a request failed for good; names its index. The others are cancelled.
        """
        return self._all("prompts", prompts, lambda i, prompt: self._generate(i, prompt, settings))

    def generate_each(
        self, prompts: Sequence[ServerPrompt], settings: GenerationSettings
    ) -> list[Generation | CorralError]:
        """As ``generate``, with the error of a prompt that failed in its place."""
        return self._each("prompts", prompts, lambda i, prompt: self._generate(i, prompt, settings))

    def stream(self, prompt: ServerPrompt, settings: GenerationSettings) -> Iterator[str]:
        """The text of ``generate`` for one prompt, in pieces as they arrive; giving up early cancels the request.

        Raises:
            DataError: a prompt that cannot be rendered or does not fit the context.
            EngineError: the request failed for good, or the answer broke off.
        """
        return self._connection.loop.iterate(self._pieces(prompt, settings))

    def logprobs(self, pairs: Sequence[tuple[ServerPrompt, str]]) -> list[CompletionLogprobs]:
        """Score each completion after its prompt; same length and order as given.

        Raises:
            ConfigError: the engine has no tokenizer.
            DataError: a pair that cannot be rendered or does not fit the context; names its index.
            EngineError: a request failed for good; names its index. The others are cancelled.
        """
        self._client.require_chat()
        return self._all("pairs", pairs, self._score)

    def logprobs_each(self, pairs: Sequence[tuple[ServerPrompt, str]]) -> list[CompletionLogprobs | CorralError]:
        """As ``logprobs``, with the error of a pair that failed in its place."""
        self._client.require_chat()
        return self._each("pairs", pairs, self._score)

    def label_logprobs(
        self, prompts: Sequence[ServerPrompt], labels: Sequence[str], *, answer_prefixes: Sequence[str] | None = None
    ) -> list[tuple[float, ...]]:
        """Log-probability of each label, in nats, as the beginning of the answer to each prompt, or after its prefix.

        One request a prompt when the labels are single tokens among the likeliest. Otherwise a label's tokens are
        looked up one after the other, with a request for each but the first, or the label is scored as a completion.
        Labels are tokenised on their own, since they begin a turn, and so are prefixes. Without the tokenizer only the
        first way is there, and no prefix.

        Raises:
            ConfigError: a prefix, and the engine has no tokenizer.
            DataError: an empty label, or a prompt that cannot be rendered or does not fit the context.
            EngineError: a request failed for good, or a label is out of the server's reach; names the prompt's index.
        """
        asked = self._with_prefixes(prompts, answer_prefixes)
        return self._all("prompts", asked, lambda _, item: self._score_labels(item, labels))

    def label_logprobs_each(
        self, prompts: Sequence[ServerPrompt], labels: Sequence[str], *, answer_prefixes: Sequence[str] | None = None
    ) -> list[tuple[float, ...] | CorralError]:
        """As ``label_logprobs``, with the error of a prompt that failed in its place."""
        asked = self._with_prefixes(prompts, answer_prefixes)
        return self._each("prompts", asked, lambda _, item: self._score_labels(item, labels))

    async def _generate(self, index: int, prompt: ServerPrompt, settings: GenerationSettings) -> Generation:
        request = self._client.request(prompt)
        extensions = {**PLAIN_SAMPLING, "return_token_ids": request.ids is not None}
        reply = await self._client.post(request, sampling_fields(settings, index), extensions)
        choice = replies.first_choice(reply)
        reason = replies.finish_reason(choice)
        count = len(request.ids) if request.ids is not None else replies.prompt_tokens(reply)
        if count is None:
            raise EngineError(
                "the server does not say how many tokens it read", hint="Give the engine the model's tokenizer."
            )
        ids = replies.sampled_ids(choice)
        if ids and reason == "stop" and self.chat is not None and not self.chat.decode(ids[-1:]):
            ids = ids[:-1]  # the end-of-sequence token
        return Generation(replies.answer_text(choice), ids, reason, count)

    async def _pieces(self, prompt: ServerPrompt, settings: GenerationSettings) -> AsyncGenerator[str]:
        request = self._client.request(prompt)
        finished = False
        async with aclosing(self._client.events(request, sampling_fields(settings, 0), PLAIN_SAMPLING)) as events:
            async for event in events:
                if not event.get("choices"):
                    continue  # counts of tokens come alone
                choice = replies.first_choice(event)
                if piece := replies.delta_text(choice):
                    yield piece
                if choice.get("finish_reason") is not None:
                    replies.finish_reason(choice)
                    finished = True
        if not finished:
            raise EngineError("the server's stream ended before the answer did")

    async def _score(self, _index: int, pair: tuple[ServerPrompt, str]) -> CompletionLogprobs:
        return await score_completion(self._client, *pair, echo=self.prompt_logprobs)

    async def _score_labels(self, asked: tuple[ServerPrompt, str], labels: Sequence[str]) -> tuple[float, ...]:
        prompt, prefix = asked
        return await score_labels(self._client, prompt, labels, answer_prefix=prefix, echo=self.prompt_logprobs)

    def _with_prefixes(
        self, prompts: Sequence[ServerPrompt], answer_prefixes: Sequence[str] | None
    ) -> list[tuple[ServerPrompt, str]]:
        if answer_prefixes is None:
            return [(prompt, "") for prompt in prompts]
        if any(answer_prefixes):
            self._client.require_chat()
        return list(zip(prompts, answer_prefixes, strict=True))

    def _all(self, where: str, items: Sequence[_In], answer: _Answer[_In, _Out]) -> list[_Out]:
        return self._map(items, _located(where, answer))

    def _each(self, where: str, items: Sequence[_In], answer: _Answer[_In, _Out]) -> list[_Out | CorralError]:
        return self._map(items, _kept(_located(where, answer)))

    def _map(self, items: Sequence[_In], answer: _Answer[_In, _Out]) -> list[_Out]:
        return self._connection.loop.run(bounded_map(items, answer, self._connection.settings.concurrency))


def _located(where: str, answer: _Answer[_In, _Out]) -> _Answer[_In, _Out]:
    """Say which item an error is about."""

    async def located(index: int, item: _In) -> _Out:
        try:
            return await answer(index, item)
        except CorralError as error:
            here = f"{where}[{index}]"
            error.where = f"{here}.{error.where}" if error.where else here
            raise

    return located


def _kept(answer: _Answer[_In, _Out]) -> _Answer[_In, _Out | CorralError]:
    """Return an error instead of raising it."""

    async def kept(index: int, item: _In) -> _Out | CorralError:
        try:
            return await answer(index, item)
        except CorralError as error:
            return error

    return kept
