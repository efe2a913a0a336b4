"""What the openai engine asks of one model: prompts as request bodies, and answers to the prompts that were sent."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import AsyncGenerator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from corral.core.errors import ConfigError, DataError, EngineError
from corral.data.messages import Conversation
from corral.models.engines.base import GenerationSettings, Prompt
from corral.models.engines.openai_connection import ServerConnection
from corral.models.engines.openai_replies import prompt_tokens

if TYPE_CHECKING:
    from corral.models.chat import ChatTokenizer

ServerPrompt = Prompt | Sequence[int]
"""A prompt, or the token ids of one."""

# Servers apply the sampling defaults of a model's generation_config.json, or their own, unless told otherwise. The
# names are those of vLLM and SGLang, then of llama.cpp; each ignores what it does not know.
PLAIN_SAMPLING: Final[Mapping[str, Any]] = {
    "top_k": -1,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "repeat_penalty": 1.0,
}


class ModelRequest(NamedTuple):
    """Where a prompt goes, the field that holds it, and its token ids where they are known."""

    path: Literal["completions", "chat/completions"]
    body: dict[str, Any]
    ids: list[int] | None


class ModelClient:
    """One model behind a connection.

    Args:
        connection: to its server.
        model: as the server names it.
        chat: the model's tokenizer.
        extensions: send fields that OpenAI's API does not have.

    Attributes:
        can_force: whether the server may know how to be held to one token (see ``openai_scoring``).
    """

    def __init__(
        self, connection: ServerConnection, model: str, *, chat: ChatTokenizer | None, extensions: bool
    ) -> None:
        self.connection = connection
        self.model = model
        self.chat = chat
        self.extensions = extensions
        self.can_force = extensions

    def request(self, prompt: ServerPrompt) -> ModelRequest:
        """Token ids wherever they can be had, else text for the server to tokenise.

        Raises:
            ConfigError: a prompt that goes beyond the chat template, and no tokenizer.
            DataError: an empty prompt, or one that cannot be rendered.
        """
        if not isinstance(prompt, Prompt):
            return ids_request(list(prompt))
        if self.chat is not None:
            return ids_request(self.chat.encode_prompt(prompt))
        if isinstance(prompt, Conversation):
            return ModelRequest("chat/completions", {"messages": prompt.to_openai()}, None)
        if not isinstance(prompt, str):
            raise ConfigError(
                f"a `{type(prompt).__name__}` prompt needs the model's tokenizer",
                where="chat",
                hint="Pass a ChatTokenizer.",
            )
        if not prompt:
            raise DataError("the prompt is empty")
        return ModelRequest("completions", {"prompt": prompt}, None)

    async def post(
        self, request: ModelRequest, options: Mapping[str, Any], extensions: Mapping[str, Any]
    ) -> dict[str, Any]:
        """The server's answer.

        Raises:
            DataError: the prompt does not fit the context.
            EngineError: the request failed for good, or the server read another prompt than the one sent.
        """
        reply = await self.connection.post(request.path, self._body(request, options, extensions))
        read = prompt_tokens(reply)
        if request.ids is not None and read not in (len(request.ids), None):
            raise EngineError(
                f"the server read {read} tokens of a prompt of {len(request.ids)}",
                hint="It shortens prompts or adds to them; switch that off, since nothing may be cut silently.",
            )
        return reply

    def events(
        self, request: ModelRequest, options: Mapping[str, Any], extensions: Mapping[str, Any]
    ) -> AsyncGenerator[dict[str, Any]]:
        """The objects of a streamed answer.

        Raises:
            DataError: the prompt does not fit the context.
            EngineError: the request failed for good, or the stream broke off.
        """
        return self.connection.events(request.path, self._body(request, {**options, "stream": True}, extensions))

    def require_chat(self) -> ChatTokenizer:
        """The tokenizer.

        Raises:
            ConfigError: there is none.
        """
        if self.chat is None:
            raise ConfigError("scoring needs the model's tokenizer", where="chat", hint="Pass a ChatTokenizer.")
        return self.chat

    @cached_property
    def ids_by_text(self) -> Mapping[str, int]:
        """Tokens by their text alone, without those that share it (parts of a character, a word with its blank)."""
        backend = self.require_chat().backend
        ids = sorted(backend.get_vocab(with_added_tokens=True).values())
        texts = backend.decode_batch([[token] for token in ids], skip_special_tokens=False)
        count = Counter(texts)
        return {text: token for text, token in zip(texts, ids, strict=True) if count[text] == 1}

    def _body(self, request: ModelRequest, options: Mapping[str, Any], extensions: Mapping[str, Any]) -> dict[str, Any]:
        return {"model": self.model, **request.body, **options, **(extensions if self.extensions else {})}


def ids_request(ids: list[int]) -> ModelRequest:
    """A prompt of token ids.

    Raises:
        DataError: there are none.
    """
    if not ids:
        raise DataError("the prompt is empty")
    return ModelRequest("completions", {"prompt": ids}, ids)


def sampling_fields(settings: GenerationSettings, index: int) -> dict[str, Any]:
    """The settings in OpenAI's terms, for the prompt at ``index`` of a call."""
    body: dict[str, Any] = {
        "max_tokens": settings.max_new_tokens,
        "temperature": settings.temperature,
        "top_p": settings.top_p,
    }
    if settings.stop:
        body["stop"] = list(settings.stop)
    if settings.temperature > 0.0:
        # Equal prompts of one call differ, as in the torch engine. 31 bits: servers read it as a C int.
        body["seed"] = random.Random(f"{settings.seed}/{index}").getrandbits(31)  # noqa: S311 - sampling, not secrets
    return body
