"""A streamed reply as it grows: the upstream's events, read without trust and within a budget."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from corral.serve.chat.hold_back import HoldBack
from corral.serve.chat.measures import MEASURES, read_measures
from corral.serve.chat.reply import MOST_CALLS, TEXT_FIELDS, call_id, finish_reason, tool_call, unreadable, usage_of
from corral.serve.errors import RequestError


class Budget:
    """What one stream may take over all its choices. What is held back of it is a part of its characters.

    Args:
        chars: of texts and tool calls.
        windows: decisions.
        seconds: from now to the end.
        clock: seconds, never going back.
    """

    def __init__(
        self, *, chars: int, windows: int, seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._most_chars = self._chars = chars
        self._most_windows = self._windows = windows
        self._seconds = seconds
        self._clock = clock
        self._ends_at = clock() + seconds

    def take_chars(self, count: int) -> None:
        """Read more characters.

        Raises:
            RequestError: 502, more than there may be.
        """
        self._chars -= count
        if self._chars < 0:
            said = f"The reply has more than {self._most_chars} characters."
            raise RequestError(502, said, code="reply_too_long")

    def take_window(self) -> None:
        """Judge once more.

        Raises:
            RequestError: 502, more often than may be; 504, the time is over.
        """
        self.seconds_left()
        self._windows -= 1
        if self._windows < 0:
            said = f"The reply takes more than {self._most_windows} windows to judge."
            raise RequestError(502, said, code="reply_too_long")

    def seconds_left(self) -> float:
        """Seconds until the stream has to end.

        Raises:
            RequestError: 504, there are none.
        """
        if (left := self._ends_at - self._clock()) <= 0:
            raise self.too_slow()
        return left

    def too_slow(self) -> RequestError:
        """The refusal of a stream whose time is over."""
        return RequestError(504, f"The reply took more than {self._seconds:g} s.", code="stream_timeout")


@dataclass(slots=True)
class _Call:
    """A tool call that grows."""

    name: list[str] = field(default_factory=list)
    arguments: list[str] = field(default_factory=list)


@dataclass(slots=True)
class GrowingChoice:
    """One reply.

    Attributes:
        index: among several.
        texts: by field, what is held back.
        reason: why it ended, once the upstream says so.
        opened: the client was told of it.
        ended: nothing more of it is read.
        measures: of the model while it answered, once the upstream says them.
    """

    index: int
    texts: dict[str, HoldBack] = field(default_factory=dict)
    calls: dict[int, _Call] = field(default_factory=dict)
    reason: str | None = None
    opened: bool = False
    ended: bool = False
    measures: dict[str, float] = field(default_factory=dict)


class GrowingReply:
    """All choices of a streamed reply.

    Args:
        budget: of the stream.
        most: choices that were asked for.
        request_id: of the request; tool calls are named after it.
        sizes: window and overlap of what is held back.

    Attributes:
        choices: by index.
        usage: counts of tokens, once the upstream says them.
    """

    def __init__(self, budget: Budget, *, most: int, request_id: str, sizes: tuple[int | None, int]) -> None:
        self.choices: dict[int, GrowingChoice] = {}
        self.usage: dict[str, Any] | None = None
        self._budget = budget
        self._most = most
        self._request_id = request_id
        self._sizes = sizes

    def read(self, event: Mapping[str, Any]) -> Iterator[tuple[GrowingChoice, dict[str, Any]]]:
        """Add an event: each choice that it is about and that has not ended, and what is new of it, in OpenAI's shape.

        Raises:
            RequestError: 502 for an event that cannot be read, or that the budget has no room for.
        """
        self.usage = usage_of(event.get("usage")) or self.usage
        choices = event.get("choices") or []
        if not isinstance(choices, list):
            raise unreadable()
        for given in choices:
            choice = self._choice(given)
            if not choice.ended:
                yield choice, self._added(choice, given)

    def calls_of(self, choice: GrowingChoice) -> list[dict[str, Any]]:
        """The tool calls of a choice, whole."""
        return [
            tool_call(call_id(self._request_id, choice.index, number), "".join(call.name), "".join(call.arguments))
            for number, call in sorted(choice.calls.items())
        ]

    def _choice(self, given: object) -> GrowingChoice:
        index = given.get("index", 0) if isinstance(given, Mapping) else None
        if not isinstance(index, int) or not 0 <= index < self._most:
            raise unreadable()
        return self.choices.setdefault(index, GrowingChoice(int(index)))

    def _added(self, choice: GrowingChoice, given: Mapping[str, Any]) -> dict[str, Any]:
        delta = given.get("delta") or {}
        calls = (delta.get("tool_calls") or []) if isinstance(delta, Mapping) else None
        if not isinstance(calls, list):
            raise unreadable()
        added: dict[str, Any] = {}
        for name in TEXT_FIELDS:
            if text := self._piece(delta, name):
                choice.texts.setdefault(name, HoldBack(*self._sizes)).push(text)
                added[name] = text
        if pieces := [self._added_call(choice, piece) for piece in calls]:
            added["tool_calls"] = pieces
        if given.get("finish_reason") is not None:
            choice.reason = finish_reason(given["finish_reason"])
        choice.measures |= read_measures(given.get(MEASURES))
        return added

    def _added_call(self, choice: GrowingChoice, piece: object) -> dict[str, Any]:
        function = (piece.get("function") or {}) if isinstance(piece, Mapping) else None
        if not isinstance(piece, Mapping) or not isinstance(function, Mapping):
            raise unreadable()
        number = piece.get("index", len(choice.calls))
        if not isinstance(number, int) or not 0 <= number < MOST_CALLS:
            raise unreadable()
        shown: dict[str, Any] = {"index": int(number)}
        if number not in choice.calls:
            choice.calls[number] = _Call()
            shown |= {"id": call_id(self._request_id, choice.index, number), "type": "function"}
        call = choice.calls[number]
        texts = {"name": self._piece(function, "name"), "arguments": self._piece(function, "arguments")}
        call.name.append(texts["name"])
        call.arguments.append(texts["arguments"])
        return shown | {"function": {name: text for name, text in texts.items() if text}}

    def _piece(self, given: Mapping[str, Any], name: str) -> str:
        text = given.get(name)
        if text is None:
            return ""
        if not isinstance(text, str):
            raise unreadable()
        self._budget.take_chars(len(text))
        return text
