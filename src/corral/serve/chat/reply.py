"""What the model behind the gateway answered, read without trust, and what the client gets of it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from corral.core.errors import DataError
from corral.data.messages import Conversation, Message, TextPart
from corral.serve.chat.measures import MEASURES, read_measures
from corral.serve.errors import RequestError
from corral.serve.moderation import Outcome
from corral.serve.moderations import decision_json
from corral.serve.policies import ServePolicy
from corral.serve.schemas import is_model_name

TEXT_FIELDS: Final = ("content", "refusal", "reasoning_content", "reasoning")
"""Fields of a reply that hold text for people; each is judged on its own."""

FILTERED: Final = "content_filter"
_REASONS: Final = frozenset({"stop", "length", "tool_calls", "function_call", FILTERED})

MOST_CALLS: Final = 128
"""Tool calls of one reply."""

_USAGE: Final[Mapping[str, tuple[str, ...]]] = {
    "prompt_tokens": (),
    "completion_tokens": (),
    "total_tokens": (),
    "prompt_tokens_details": ("cached_tokens", "audio_tokens"),
    "completion_tokens_details": (
        "reasoning_tokens", "audio_tokens", "accepted_prediction_tokens", "rejected_prediction_tokens",
    ),
}  # fmt: skip
_LARGEST_COUNT: Final = 2**53


@dataclass(frozen=True, slots=True)
class Choice:
    """One reply.

    Attributes:
        index: among several.
        texts: by field.
        tool_calls: in OpenAI's shape.
        reason: why it ended.
        measures: of the model while it answered.
    """

    index: int
    texts: Mapping[str, str]
    tool_calls: tuple[dict[str, Any], ...]
    reason: str
    measures: Mapping[str, float] = field(default_factory=dict)

    def judged(self, conversation: Conversation) -> list[Conversation]:
        """The conversation with each part of the reply as its last message; empty parts are not judged."""
        turns = [Message("assistant", (TextPart(text),)) for text in self.texts.values() if text.strip()]
        if self.tool_calls:
            turns.append(called(self.tool_calls))
        return [answered(conversation, turn) for turn in turns]

    @property
    def size(self) -> int:
        """Characters that the model chose."""
        called = (call["function"] for call in self.tool_calls)
        return sum(map(len, self.texts.values())) + sum(len(each["name"]) + len(each["arguments"]) for each in called)

    def message(self) -> dict[str, Any]:
        """As an OpenAI message."""
        message: dict[str, Any] = {"role": "assistant", "content": self.texts.get("content")}
        message |= {name: text for name, text in self.texts.items() if name != "content"}
        if self.tool_calls:
            message["tool_calls"] = list(self.tool_calls)
        return message


def answered(conversation: Conversation, turn: Message) -> Conversation:
    """The conversation with one more turn."""
    return Conversation((*conversation.messages, turn))


def called(tool_calls: Sequence[Mapping[str, Any]]) -> Message:
    """A turn that calls tools.

    Raises:
        RequestError: 502 where they cannot be read.
    """
    try:
        return Message.from_openai({"role": "assistant", "content": None, "tool_calls": list(tool_calls)})
    except DataError:
        raise unreadable() from None


def read_choices(reply: Mapping[str, Any], *, request_id: str, most: int, max_chars: int) -> list[Choice]:
    """The replies in a ``chat.completion`` object.

    Raises:
        RequestError: 502 for anything else, more replies than ``most``, or more characters in all of them.
    """
    given = reply.get("choices")
    if not isinstance(given, list) or not 0 < len(given) <= most:
        raise unreadable()
    choices = [_choice(index, choice, request_id) for index, choice in enumerate(given)]
    if sum(choice.size for choice in choices) > max_chars:
        raise RequestError(502, f"The reply has more than {max_chars} characters.", code="reply_too_long")
    return choices


def _choice(index: int, choice: object, request_id: str) -> Choice:
    message = choice.get("message") if isinstance(choice, Mapping) else None
    if not isinstance(choice, Mapping) or not isinstance(message, Mapping):
        raise unreadable()
    texts = {}
    for name in TEXT_FIELDS:
        text = message.get(name)
        if text is not None and not isinstance(text, str):
            raise unreadable()
        if text is not None:
            texts[name] = text
    given = message.get("tool_calls") or []
    if not isinstance(given, list) or len(given) > MOST_CALLS:
        raise unreadable()
    calls = (_read_call(call, call_id(request_id, index, number)) for number, call in enumerate(given))
    reason = finish_reason(choice.get("finish_reason"))
    return Choice(index, texts, tuple(calls), reason, read_measures(choice.get(MEASURES)))


def _read_call(call: object, id: str) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping):
        raise unreadable()
    name, arguments = function.get("name"), function.get("arguments", "")
    if not isinstance(name, str) or not isinstance(arguments, str):
        raise unreadable()
    return tool_call(id, name, arguments)


def call_id(request_id: str, choice: int, number: int) -> str:
    """What a tool call is named by: the upstream's own id is text that nobody judges."""
    return f"call_{request_id}_{choice}_{number}"


def tool_call(id: str, name: str, arguments: str) -> dict[str, Any]:
    """A tool call in OpenAI's shape."""
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


def finish_reason(reason: object) -> str:
    """The reason that was given, where it is a known one."""
    return reason if isinstance(reason, str) and reason in _REASONS else "stop"


def completion(reply: Mapping[str, Any], request_id: str, model: str | None) -> dict[str, Any]:
    """The frame of an answer: id, time, model and usage."""
    frame: dict[str, Any] = {
        "id": f"chatcmpl-{request_id}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": shown_model(reply, model),
    }
    if (usage := usage_of(reply.get("usage"))) is not None:
        frame["usage"] = usage
    return frame


def shown_model(reply: Mapping[str, Any], model: str | None) -> str:
    """The model that answered, where it says so in the shape of a name, or the one asked for."""
    named = reply.get("model")
    return named if isinstance(named, str) and is_model_name(named) else model or "upstream"


def usage_of(given: object) -> dict[str, Any] | None:
    """The counts of tokens that are known, and nothing else; ``None`` where there are none."""
    if not isinstance(given, Mapping):
        return None
    found: dict[str, Any] = {}
    for name, inner in _USAGE.items():
        value = given.get(name)
        if inner and isinstance(value, Mapping):
            found[name] = {each: value[each] for each in inner if each in value and _is_count(value[each])}
        elif not inner and _is_count(value):
            found[name] = value
    return found or None


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _LARGEST_COUNT


def refused_choice(index: int, policy: ServePolicy) -> dict[str, Any]:
    """What stands in place of a message that was stopped."""
    return {
        "index": index,
        "message": {"role": "assistant", "content": policy.message, "refusal": policy.message},
        "finish_reason": FILTERED,
        "logprobs": None,
    }


def extension(policy: ServePolicy, request_id: str, outcomes: Mapping[str, Sequence[Outcome]]) -> dict[str, Any]:
    """The ``corral`` object of an answer: what was decided at each stage."""
    return {
        "request_id": request_id,
        "mode": policy.mode,
        "policy": policy.id,
        "policy_hash": policy.hash,
        "decisions": [
            {"stage": stage} | decision_json(outcome) for stage, decided in outcomes.items() for outcome in decided
        ],
    }


def unreadable() -> RequestError:
    """The refusal of an answer that is not what was asked for."""
    return RequestError(502, "The model's server gave an answer that cannot be read.", code="upstream_unreadable")
