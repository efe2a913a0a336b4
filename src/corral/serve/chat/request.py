"""Reading a chat request: what is judged of it, and what goes on to the model.

What goes on is rebuilt from what was read, so the model never sees anything that was not judged. Not sent on: ids that
clients choose (tool calls are numbered anew), and fields about the user, which no model reads.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from corral.core.errors import DataError
from corral.data.messages import Conversation, Message, TextPart
from corral.serve.errors import RequestError
from corral.serve.pictures import check_count
from corral.serve.schemas import ChatRequest
from corral.serve.settings import Limits

_MESSAGE_FIELDS: Final = frozenset({"role", "content", "name", "tool_calls", "tool_call_id", "refusal"})
_SENT_ON: Final = (
    "n", "max_tokens", "max_completion_tokens", "temperature", "top_p", "stop", "seed", "presence_penalty",
    "frequency_penalty", "logit_bias", "tools", "tool_choice", "parallel_tool_calls", "response_format", "prediction",
    "reasoning_effort", "verbosity", "modalities", "service_tier",
)  # fmt: skip
_TEXTS: Final = ("tools", "tool_choice", "response_format", "prediction", "stop")
_SCHEMA_WORDS: Final = frozenset({
    "type", "properties", "required", "items", "description", "enum", "const", "anyOf", "oneOf", "allOf", "not",
    "default", "title", "format", "pattern", "minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems",
    "additionalProperties", "strict", "name", "function", "parameters", "json_schema", "schema", "content", "text",
    "$defs", "$ref",
})  # fmt: skip
_PLAIN_VALUES: Final = frozenset({
    "function", "object", "string", "number", "integer", "boolean", "array", "null", "auto", "none", "required",
    "json_schema", "json_object", "text", "content",
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class ReadChat:
    """A chat request that was read.

    Attributes:
        asked: the request.
        conversation: its messages.
        judged: what is judged: for each message the conversation up to it, then the texts of other fields.
        names: by message, the speaker's name.
    """

    asked: ChatRequest
    conversation: Conversation
    judged: tuple[Conversation, ...]
    names: tuple[str | None, ...]

    def body(self) -> dict[str, Any]:
        """What goes on to the model."""
        values = self.asked.model_dump(mode="json", exclude_none=True)
        messages = self.conversation.to_openai()
        ids = _tool_call_ids(self.asked.messages)
        for message, name, given in zip(messages, self.names, self.asked.messages, strict=True):
            if name is not None:
                message["name"] = name
            if message["role"] == "tool" and "tool_call_id" in given:
                message["tool_call_id"] = ids[str(given["tool_call_id"])]
            for call in message.get("tool_calls", ()):
                call["id"] = ids[call["id"]]
        body = {"messages": messages} | {name: values[name] for name in _SENT_ON if name in values}
        if self.asked.model is not None:
            body["model"] = self.asked.model
        if self.asked.stream:
            body["stream_options"] = {"include_usage": True}
        return body


def read_chat(asked: ChatRequest, limits: Limits) -> ReadChat:
    """Read a request's messages.

    Raises:
        RequestError: 400 for a message that cannot be read, is too long, or when there is nothing to judge.
    """
    if len(asked.messages) > limits.inputs:
        raise RequestError(400, f"More than {limits.inputs} messages.", code="too_many_inputs", param="messages")
    messages = tuple(_message(value, f"messages[{i}]", limits) for i, value in enumerate(asked.messages))
    check_count(messages, limits.images, param="messages")
    names = tuple(_name(value, f"messages[{i}]") for i, value in enumerate(asked.messages))
    judged = [
        Conversation(messages[: i + 1])
        for i, message in enumerate(messages)
        if message.text.strip() or any(not isinstance(part, TextPart) for part in message.content)
    ]
    if not judged:
        raise RequestError(400, "There is nothing to judge.", code="empty_input", param="messages")
    other = "\n".join(_other_texts(asked, names))
    if len(other) > limits.text_chars:
        raise RequestError(400, "The tools and formats are too long.", code="text_too_long", param="tools")
    if other.strip():
        judged.append(Conversation.user(other))
    return ReadChat(asked, Conversation(messages), tuple(judged), names)


def with_messages(chat: ReadChat, messages: tuple[Message, ...]) -> ReadChat:
    """The request with its messages replaced, one for one, in what is judged and in what goes on."""
    own = chat.conversation.messages[0]
    judged = (Conversation(messages[: len(each.messages)]) if each.messages[0] is own else each for each in chat.judged)
    return replace(chat, conversation=Conversation(messages), judged=tuple(judged))


def _message(value: Mapping[str, Any], where: str, limits: Limits) -> Message:
    if unknown := sorted(set(value) - _MESSAGE_FIELDS):
        raise RequestError(400, f"`{unknown[0][:64]}` is not known here.", code="unknown_parameter", param=where)
    if value.get("role") == "assistant" and not value.get("content") and not value.get("tool_calls"):
        value = {**value, "content": value.get("content") or ""}  # an empty turn is a turn
    try:
        message = Message.from_openai(value, where=where)
    except DataError as error:
        raise RequestError(400, error.message, code="invalid_value", param=error.where) from None
    if message.tool_calls and message.role != "assistant":
        raise RequestError(400, "Only the assistant calls tools.", code="invalid_value", param=f"{where}.tool_calls")
    if len(message.text) > limits.text_chars:
        raise RequestError(
            400,
            f"The text has more than {limits.text_chars} characters. Split it: nothing is cut silently.",
            code="text_too_long",
            param=where,
        )
    return message


def _name(value: Mapping[str, Any], where: str) -> str | None:
    name = value.get("name")
    if name is not None and not isinstance(name, str):
        raise RequestError(400, "Expected text.", code="invalid_value", param=f"{where}.name")
    return name


def _tool_call_ids(messages: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Ids of our own for the ids in the messages, by order of appearance."""
    ids: dict[str, str] = {}
    for message in messages:
        calls = message.get("tool_calls") or []
        given = [str(call.get("id", "")) for call in calls] if isinstance(calls, list) else []
        if "tool_call_id" in message:
            given.append(str(message["tool_call_id"]))
        for id in given:
            ids.setdefault(id, f"call_{len(ids):09d}")
    return ids


def _other_texts(asked: ChatRequest, names: Sequence[str | None]) -> Iterator[str]:
    """Every text outside of the messages' contents that a model may read."""
    yield from (name for name in names if name)
    for field in _TEXTS:
        yield from _strings(getattr(asked, field))


def _strings(value: Any) -> Iterator[str]:
    """Texts in a JSON value: values and keys, the words of JSON Schema and of the API aside."""
    if isinstance(value, str):
        if value not in _PLAIN_VALUES:
            yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            if key not in _SCHEMA_WORDS:
                yield key
            yield from _strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)
