"""What an OpenAI-compatible server answered, read without trust: a field that is missing or wrong is an EngineError.

Two shapes of log-probabilities are in use. OpenAI's completions give parallel lists (vLLM, SGLang); chat completions
give a list of objects, and llama.cpp does so for both.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NoReturn

from corral.core.errors import EngineError
from corral.models.engines.base import FinishReason

Choice = Mapping[str, Any]

# vLLM's way to write a token when asked for ids.
_TOKEN_ID: Final = re.compile(r"token_id:([0-9]{1,9})")
# Rounding may take the logarithm of a certain token just above 0.
_LARGEST_LOGPROB: Final = 1e-3


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token that could come next: its text, its natural-log probability, and its id where the server tells."""

    text: str
    logprob: float
    id: int | None = None


def first_choice(reply: Mapping[str, Any]) -> Choice:
    """The only choice of an answer."""
    choices = reply.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        _missing("choices")
    return choices[0]


def answer_text(choice: Choice) -> str:
    """The text of a completion or of a chat message; a refusal under structured outputs counts as one."""
    message = choice.get("message")
    if isinstance(message, dict):
        candidates = (message.get("content"), message.get("refusal"))
    else:
        candidates = (choice.get("text"), None)
    text = next((text for text in candidates if isinstance(text, str)), None)
    if text is None:
        _missing("text")
    return text


def delta_text(choice: Choice) -> str:
    """The new text of one streamed event, often ""."""
    delta = choice.get("delta")
    text = delta.get("content") if isinstance(delta, dict) else choice.get("text")
    if text is None:
        return ""
    if not isinstance(text, str):
        _missing("text")
    return text


def finish_reason(choice: Choice) -> FinishReason:
    """Why the answer ended; other reasons than the two that a whole answer can have mean that there is none."""
    reason = choice.get("finish_reason")
    if reason is None:
        _missing("finish_reason")
    if reason not in ("stop", "length"):
        raise EngineError(f"the server broke the answer off: finish_reason `{str(reason)[:40]}`")
    return "stop" if reason == "stop" else "length"


def prompt_tokens(reply: Mapping[str, Any]) -> int | None:
    """How many tokens the server read, ``None`` when it does not say."""
    usage = reply.get("usage")
    count = usage.get("prompt_tokens") if isinstance(usage, dict) else None
    return count if type(count) is int else None


def sampled_ids(choice: Choice) -> tuple[int, ...]:
    """The ids of the answer's tokens, empty when the server does not say."""
    ids = choice.get("token_ids")
    if isinstance(ids, list) and all(type(token) is int for token in ids):
        return tuple(ids)
    return ()


def next_tokens(choice: Choice) -> tuple[TokenLogprob, ...]:
    """The likeliest first tokens of an answer, the one that was sampled included."""
    logprobs = choice.get("logprobs")
    if not isinstance(logprobs, dict):
        _missing("logprobs")
    content = logprobs.get("content")
    found = _from_objects(content) if isinstance(content, list) else _from_lists(logprobs)
    if not found:
        _missing("logprobs.top_logprobs")
    return found


def echoed_logprobs(choice: Choice, ids: Sequence[int], start: int) -> tuple[tuple[float, ...], bool]:
    """Log-probabilities of ``ids[start:]`` in an answer that echoes its prompt, and whether each is the likeliest.

    Args:
        choice: asked for with ``echo`` and ``logprobs``; may go on after the prompt.
        ids: of the prompt.
        start: at least 1, since nothing precedes the first token.
    """
    logprobs = choice.get("logprobs")
    if not isinstance(logprobs, dict):
        _missing("logprobs")
    tokens, values, tops = (_list(logprobs, field) for field in ("tokens", "token_logprobs", "top_logprobs"))
    if min(len(tokens), len(values), len(tops)) < len(ids):
        raise EngineError(
            f"the server scored {min(len(tokens), len(values), len(tops))} tokens of {len(ids)}", hint=_NO_ECHO
        )
    scores = []
    greedy = True
    for i in range(start, len(ids)):
        if _token_id(tokens[i]) not in (ids[i], None):
            raise EngineError(f"the server scored another token than the one at position {i}", hint=_NO_ECHO)
        if not isinstance(tops[i], dict) or not tops[i]:
            _missing(f"logprobs.top_logprobs[{i}]")
        score = _logprob(values[i])
        scores.append(score)
        greedy = greedy and score >= max(_logprob(value) for value in tops[i].values())
    return tuple(scores), greedy


_NO_ECHO: Final = "Does it support `echo` with `logprobs`? If not, set prompt_logprobs=False."


def _from_objects(content: list[Any]) -> tuple[TokenLogprob, ...]:
    first = content[0] if content else None
    if not isinstance(first, dict):
        return ()
    found: dict[tuple[str, int | None], TokenLogprob] = {}
    for entry in (first, *(first.get("top_logprobs") or ())):
        if not isinstance(entry, dict):
            _missing("logprobs.content[0].top_logprobs")
        text, given = str(entry.get("token", "")), entry.get("id")
        token = TokenLogprob(text, _logprob(entry.get("logprob")), given if isinstance(given, int) else _token_id(text))
        found[token.text, token.id] = token
    return tuple(found.values())


def _from_lists(logprobs: Mapping[str, Any]) -> tuple[TokenLogprob, ...]:
    tops = _list(logprobs, "top_logprobs")
    first = tops[0] if tops else None
    if not isinstance(first, dict):
        return ()
    return tuple(TokenLogprob(text, _logprob(value), _token_id(text)) for text, value in first.items())


def _token_id(text: object) -> int | None:
    match = _TOKEN_ID.fullmatch(text) if isinstance(text, str) else None
    return int(match[1]) if match else None


def _logprob(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        _missing("a log-probability")
    if not -math.inf < value <= _LARGEST_LOGPROB:
        raise EngineError(
            f"`{str(value)[:40]}` is not a log-probability",
            hint="The server's weights may be damaged, or its dtype too narrow.",
        )
    return float(max(value, -sys.float_info.max))  # JSON knows integers that no float can hold


def _list(logprobs: Mapping[str, Any], field: str) -> list[Any]:
    value = logprobs.get(field)
    if not isinstance(value, list):
        _missing(f"logprobs.{field}")
    return value


def _missing(field: str) -> NoReturn:
    raise EngineError(f"the server's answer has no usable `{field}`", hint="Is it an OpenAI-compatible server?")
