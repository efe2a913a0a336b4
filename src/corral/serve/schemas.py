"""What clients send, in OpenAI's shapes. Fields that are not listed are refused: what is not known cannot be judged."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from corral.serve.errors import RequestError

_Name = Annotated[str, Field(min_length=1, max_length=64)]
_MODEL_NAME: Final = r"^[A-Za-z0-9._:/@+-]{1,256}$"
_TokenId = Annotated[str, Field(pattern=r"^[0-9]{1,9}$")]
_Model = Annotated[str, Field(pattern=_MODEL_NAME)]
_M = TypeVar("_M", bound=BaseModel)


class _Shape(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, protected_namespaces=())


class ImageUrl(_Shape):
    """Where an image is; ``data:`` URIs, and remote addresses only where the operator allows them."""

    url: Annotated[str, Field(min_length=1)]
    detail: Literal["auto", "low", "high"] | None = None


class TextInput(_Shape):
    """A typed part of text."""

    type: Literal["text"]
    text: str


class ImageInput(_Shape):
    """A typed part of an image."""

    type: Literal["image_url"]
    image_url: ImageUrl


InputPart = Annotated[TextInput | ImageInput, Field(discriminator="type")]


class ModerationExtension(_Shape):
    """What Corral adds to a moderation request.

    Attributes:
        target: judge the input as a user's prompt or as an assistant's response.
        guards: ask these too; the policy's own are always asked.
    """

    target: Literal["prompt", "response"] = "prompt"
    guards: Annotated[list[_Name], Field(max_length=16)] = []


class ModerationRequest(_Shape):
    """``POST /v1/moderations``: a text, several texts (a result each), or typed parts (one result for all)."""

    input: str | Annotated[list[str], Field(min_length=1)] | Annotated[list[InputPart], Field(min_length=1)]
    model: _Model | None = None
    corral: ModerationExtension = ModerationExtension()


class ChatExtension(_Shape):
    """What Corral adds to a chat request.

    Attributes:
        guards: ask these too; the policy's own are always asked.
    """

    guards: Annotated[list[_Name], Field(max_length=16)] = []


class StreamOptions(_Shape):
    """Options of a stream."""

    include_usage: bool = False


class ChatRequest(_Shape):
    """``POST /v1/chat/completions``.

    Every text in it is judged, wherever it stands. Not offered: ``logprobs`` (tokens that were not chosen would leave
    unjudged), ``audio`` and other modalities than text.
    """

    messages: Annotated[list[dict[str, JsonValue]], Field(min_length=1)]
    model: _Model | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[int, Field(ge=1, le=8)] | None = None
    max_tokens: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    stop: str | Annotated[list[str], Field(max_length=4)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    logit_bias: dict[_TokenId, Annotated[float, Field(ge=-100, le=100)]] | None = None
    tools: Annotated[list[dict[str, JsonValue]], Field(max_length=128)] | None = None
    tool_choice: str | dict[str, JsonValue] | None = None
    parallel_tool_calls: bool | None = None
    response_format: dict[str, JsonValue] | None = None
    prediction: dict[str, JsonValue] | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None
    verbosity: Literal["low", "medium", "high"] | None = None
    modalities: list[Literal["text"]] | None = None
    metadata: dict[str, str] | None = None
    store: Literal[False] | None = None
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    service_tier: Literal["auto", "default", "flex", "priority", "scale"] | None = None
    corral: ChatExtension = ChatExtension()


_SHOWN_PROBLEMS: Final = 3


def is_model_name(text: str) -> bool:
    """Whether a text has the shape of a model's name."""
    return re.fullmatch(_MODEL_NAME, text) is not None


def parse_request(shape: type[_M], body: bytes, content_type: str) -> _M:
    """The request in a body.

    Raises:
        RequestError: 415 for another type than JSON (which also keeps web pages of other origins from posting),
            400 for what does not fit; the message names fields and never quotes values.
    """
    if content_type.partition(";")[0].strip().lower() != "application/json":
        raise RequestError(415, "Send `Content-Type: application/json`.", code="unsupported_media_type")
    try:
        return shape.model_validate_json(body)
    except ValidationError as error:
        problems = error.errors(include_url=False, include_input=False, include_context=False)
        lines = [f"{_field(item)}: {item['msg']}" for item in problems[:_SHOWN_PROBLEMS]]
        code = "unknown_parameter" if problems[0]["type"] == "extra_forbidden" else "invalid_value"
        raise RequestError(400, "; ".join(lines), code=code, param=_field(problems[0])) from None


def _field(item: Any) -> str:
    return ".".join(str(part) for part in item["loc"])[:200] or "body"
