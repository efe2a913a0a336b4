"""Messages and conversations in the shapes of OpenAI's chat API.

A ``Conversation`` is an ordered, immutable tuple of ``Message``; a message has a role and content made of text, image
or audio parts. ``from_openai`` reads what an API client sends, ``to_openai`` writes it back. Nothing here touches a
tokenizer: rendering lives in ``models/chat``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

from corral.core.errors import DataError

Role = Literal["system", "developer", "user", "assistant", "tool"]
ROLES: Final[tuple[str, ...]] = get_args(Role)

Target = Literal["prompt", "response"]
TARGETS: Final[tuple[Target, ...]] = get_args(Target)
TargetChoice = Literal["auto", "prompt", "response"]
TargetMode = Literal["prompt", "response", "both"]


def targets_of(mode: TargetMode) -> tuple[Target, ...]:
    """The targets that a mode names, prompt first."""
    return TARGETS if mode == "both" else (mode,)


_SHOWN_CHARACTERS: Final = 40


@dataclass(frozen=True, slots=True)
class TextPart:
    """A run of text."""

    text: str

    def to_openai(self) -> dict[str, Any]:
        """As a typed content part."""
        return {"type": "text", "text": self.text}


@dataclass(frozen=True, slots=True)
class ImagePart:
    """An image by URL or ``data:`` URI; nothing is fetched or decoded here."""

    url: str

    def to_openai(self) -> dict[str, Any]:
        """As a typed content part."""
        return {"type": "image_url", "image_url": {"url": self.url}}


@dataclass(frozen=True, slots=True)
class AudioPart:
    """Audio as base64 with its container format (``wav``, ``mp3``)."""

    data: str
    format: str

    def to_openai(self) -> dict[str, Any]:
        """As a typed content part."""
        return {"type": "input_audio", "input_audio": {"data": self.data, "format": self.format}}


Part = TextPart | ImagePart | AudioPart


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A function call that an assistant asked for; ``arguments`` is the raw JSON text."""

    id: str
    name: str
    arguments: str

    def to_openai(self) -> dict[str, Any]:
        """As one entry of ``tool_calls``."""
        return {"id": self.id, "type": "function", "function": {"name": self.name, "arguments": self.arguments}}


@dataclass(frozen=True, slots=True)
class Message:
    """One turn: a role and its parts."""

    role: Role
    content: tuple[Part, ...]
    tool_calls: tuple[ToolCall, ...] = ()

    @classmethod
    def of(cls, role: Role, text: str) -> Message:
        """A message of one text part."""
        return cls(role, (TextPart(text),))

    @property
    def text(self) -> str:
        """The text parts and tool-call arguments, joined by newlines: everything in the turn that words can harm by."""
        texts = [part.text for part in self.content if isinstance(part, TextPart)]
        texts += [f"{call.name}({call.arguments})" for call in self.tool_calls]
        return "\n".join(texts)

    @classmethod
    def from_openai(cls, value: object, *, where: str = "message") -> Message:
        """Read one OpenAI message object.

        Raises:
            DataError: unknown role, missing or mistyped content, unknown part type; names the field.
        """
        if not isinstance(value, Mapping):
            raise DataError(f"expected an object with `role` and `content`, got {type(value).__name__}", where=where)
        role = value.get("role")
        if role not in ROLES:
            problem = "role is missing" if role is None else f"unknown role `{str(role)[:_SHOWN_CHARACTERS]}`"
            raise DataError(problem, where=f"{where}.role", hint=f"Use one of {', '.join(ROLES)}.")
        calls = _tool_calls(value.get("tool_calls"), f"{where}.tool_calls")
        parts = _parts(value.get("content"), f"{where}.content")
        # A model that refuses under structured outputs has its words here, beside a null content.
        if isinstance(refusal := value.get("refusal"), str):
            parts += (TextPart(refusal),)
        if not parts and not calls:
            raise DataError("content is missing", where=f"{where}.content")
        return cls(role, parts, calls)

    def to_openai(self) -> dict[str, Any]:
        """As an OpenAI message object; one text part becomes a plain string."""
        out: dict[str, Any] = {"role": self.role}
        if len(self.content) == 1 and isinstance(self.content[0], TextPart):
            out["content"] = self.content[0].text
        else:
            out["content"] = [part.to_openai() for part in self.content] or None
        if self.tool_calls:
            out["tool_calls"] = [call.to_openai() for call in self.tool_calls]
        return out


@dataclass(frozen=True, slots=True)
class Conversation:
    """An ordered tuple of messages, with an optional id that outputs repeat."""

    messages: tuple[Message, ...]
    id: str | None = None

    @classmethod
    def user(cls, text: str, *, id: str | None = None) -> Conversation:
        """A conversation of one user message."""
        return cls((Message.of("user", text),), id)

    @classmethod
    def exchange(cls, prompt: str, response: str, *, id: str | None = None) -> Conversation:
        """A user message and the assistant's reply."""
        return cls((Message.of("user", prompt), Message.of("assistant", response)), id)

    @classmethod
    def from_openai(cls, value: object, *, where: str = "messages", id: str | None = None) -> Conversation:
        """Read a list of OpenAI message objects, or an object with a ``messages`` list and an optional ``id``.

        Raises:
            DataError: not a list, empty, or a malformed message; names the index and field.
        """
        if isinstance(value, Mapping):
            if "messages" not in value:
                raise DataError("no `messages` in the object", where=where)
            given = value.get("id")
            id = str(given) if given is not None else id
            value = value["messages"]
        if not isinstance(value, Sequence) or isinstance(value, str | bytes):
            raise DataError(f"expected a list of messages, got {type(value).__name__}", where=where)
        if not value:
            raise DataError("the list of messages is empty", where=where)
        return cls(tuple(Message.from_openai(m, where=f"{where}[{i}]") for i, m in enumerate(value)), id)

    def to_openai(self) -> list[dict[str, Any]]:
        """As a list of OpenAI message objects."""
        return [message.to_openai() for message in self.messages]

    def target(self, choice: TargetChoice = "auto") -> Target:
        """What ``auto`` judges: the response when the assistant spoke last, else the prompt."""
        if choice != "auto":
            return choice
        return "response" if self.messages and self.messages[-1].role == "assistant" else "prompt"

    def judged_index(self, target: Target) -> int | None:
        """Index of the message that ``target`` names, or ``None`` when there is none.

        ``prompt`` is the last message that is not the assistant's (user, tool result or system text);
        ``response`` is the last message, when the assistant wrote it.
        """
        if target == "response":
            return len(self.messages) - 1 if self.messages and self.messages[-1].role == "assistant" else None
        for index in range(len(self.messages) - 1, -1, -1):
            if self.messages[index].role != "assistant":
                return index
        return None


def _parts(content: object, where: str) -> tuple[Part, ...]:
    if content is None:
        return ()
    if isinstance(content, str):
        return (TextPart(content),)
    if not isinstance(content, Sequence) or isinstance(content, bytes):
        raise DataError(f"expected text or a list of parts, got {type(content).__name__}", where=where)
    return tuple(_part(part, f"{where}[{i}]") for i, part in enumerate(content))


def _part(part: object, where: str) -> Part:
    if isinstance(part, Mapping):
        match part.get("type"):
            case "text" | "input_text" | "output_text" if isinstance(part.get("text"), str):
                return TextPart(part["text"])
            case "refusal" if isinstance(part.get("refusal"), str):
                return TextPart(part["refusal"])
            case "image_url" | "input_image":
                image = part.get("image_url")
                url = image.get("url") if isinstance(image, Mapping) else image
                if isinstance(url, str):
                    return ImagePart(url)
            case "input_audio":
                audio = part.get("input_audio")
                if isinstance(audio, Mapping) and isinstance(audio.get("data"), str):
                    return AudioPart(audio["data"], str(audio.get("format", "")))
            case _:
                pass
    raise DataError(
        "not a content part that can be read",
        where=where,
        hint='Use {"type": "text", "text": ...}, {"type": "image_url", ...} or {"type": "input_audio", ...}.',
    )


def _tool_calls(calls: object, where: str) -> tuple[ToolCall, ...]:
    if calls is None:
        return ()
    if not isinstance(calls, Sequence) or isinstance(calls, str | bytes):
        raise DataError(f"expected a list, got {type(calls).__name__}", where=where)
    out = []
    for i, call in enumerate(calls):
        function = call.get("function") if isinstance(call, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise DataError("expected an object with `function.name`", where=f"{where}[{i}]")
        arguments = function.get("arguments", "")
        if not isinstance(arguments, str):
            raise DataError("expected `function.arguments` as JSON text", where=f"{where}[{i}].function.arguments")
        out.append(ToolCall(str(call.get("id", "")), function["name"], arguments))
    return tuple(out)
