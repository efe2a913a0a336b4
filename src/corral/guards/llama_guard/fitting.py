"""Fitting a conversation into a model's context without cutting what is judged.

Policy and form of the answer are always whole. A judged message that leaves no room is read in overlapping windows;
older turns fill what is left, the oldest dropped first and counted (see ``guards/windows``). Lengths are counted in
tokens where the tokenizer is at hand, else in bytes of UTF-8, of which no byte-level vocabulary makes more tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from corral.core.errors import ConfigError
from corral.guards.llama_guard.framing import framed
from corral.guards.llama_guard.grammar import format_verdict
from corral.guards.llama_guard.prompts import PolicyPrompt
from corral.guards.llama_guard.turns import Turn
from corral.guards.windows import judged_windows
from corral.models.chat import ChatTokenizer
from corral.models.engines.base import Prompt
from corral.models.plain_text import control_token_ids

MAX_WINDOW: Final = 8192
_MIN_ROOM: Final = 8
# Text cut at a token and tokenised anew may take a few tokens more, at each end, than it had within the whole.
_CUT: Final = 16
_CHAT_TEMPLATE_BYTES: Final = 512


class Meter(Protocol):
    """Counts what a model reads."""

    def spans(self, text: str) -> list[tuple[int, int]]:
        """Characters ``start:stop`` of each token of a text; tokens that share a character repeat it."""

    def length(self, prompt: Prompt) -> int:
        """Tokens of a prompt, chat format included."""


class TokenMeter:
    """Counts with the model's tokenizer.

    Args:
        chat: the tokenizer, with the template that frames prompts.
    """

    def __init__(self, chat: ChatTokenizer) -> None:
        self._chat = chat
        self._control_ids = control_token_ids(chat.backend)

    def spans(self, text: str) -> list[tuple[int, int]]:
        """Characters of each token; of each byte when the text spells a control token, which it is not read as."""
        encoding = self._chat.backend.encode(text, add_special_tokens=False)
        if not self._control_ids.isdisjoint(encoding.ids):
            return ByteMeter().spans(text)
        return list(encoding.offsets)

    def length(self, prompt: Prompt) -> int:
        """Tokens of a prompt."""
        return len(self._chat.encode_prompt(prompt))


class ByteMeter:
    """Counts bytes of UTF-8, and for a conversation what a chat template may add to it."""

    def spans(self, text: str) -> list[tuple[int, int]]:
        """The character of each byte."""
        return [(i, i + 1) for i, character in enumerate(text) for _ in character.encode(errors="surrogatepass")]

    def length(self, prompt: Prompt) -> int:
        """Bytes of a prompt."""
        if isinstance(prompt, str):
            return len(self.spans(prompt))
        return _CHAT_TEMPLATE_BYTES + sum(len(self.spans(message.text)) for message in prompt.messages)


@dataclass(frozen=True, slots=True)
class FittedTurns:
    """What a guard reads of one conversation.

    Attributes:
        windows: the turns of each prompt, the judged message (or a piece of it) last.
        context_dropped: tokens of older turns that are in no prompt.
    """

    windows: tuple[tuple[Turn, ...], ...]
    context_dropped: int


class Fitter:
    """Cuts conversations to what fits beside a policy.

    Args:
        policy: the policy.
        meter: counts tokens.
        frame: name of the frame around prompts.
        window: tokens that the model may read at once, answer included.
        overlap: tokens of the judged message that windows share; ``None`` for an eighth of the room for turns.

    Raises:
        ConfigError: the policy leaves no room for a message, or the overlap none for its windows to move on.
    """

    def __init__(
        self, policy: PolicyPrompt, meter: Meter, *, frame: str, window: int, overlap: int | None = None
    ) -> None:
        self._meter = meter
        self._turn_cost = len(meter.spans("\n\nAgent: "))
        self.answer_tokens = len(meter.spans("\n\n" + format_verdict(policy.codes))) + 1
        fixed = meter.length(framed(policy.render([Turn("Agent", "")]), frame)) + self.answer_tokens
        self._room = window - fixed - _CUT
        if self._room < _MIN_ROOM:
            raise ConfigError(
                f"the policy and the answer take {fixed} of `{window}` tokens, which leaves no room for a message",
                where="window",
                hint="Use a larger window if the model has one, fewer categories, or their names only.",
            )
        self._overlap = self._room // 8 if overlap is None else overlap
        self._min_context = max(0, min(self._room // 4, self._room - self._overlap - 1))
        if not 0 <= self._overlap < self._room:
            raise ConfigError(
                f"an overlap of `{overlap}` tokens does not fit the {self._room} that the policy leaves for turns",
                where="overlap",
                hint=f"Use 0 to {self._room - 1}.",
            )

    def fit(self, turns: Sequence[Turn]) -> FittedTurns:
        """Windows over the last turn, each behind as much of the turns before it as fits."""
        *context, judged = turns
        # A turn's role is counted after its text, so that what is kept from the end of a turn includes its role.
        units = [(i, span) for i, turn in enumerate(context) for span in self._units(turn)]
        judged_units = self._meter.spans(judged.text)
        cut = judged_windows(
            range(len(units)),
            range(len(judged_units)),
            size=self._room,
            overlap=self._overlap,
            min_context=self._min_context,
        )
        first = cut.windows[0].start if cut.windows else 0
        kept = _kept_turns(context, units[len(units) - first :])
        texts = [_slice(judged.text, judged_units[w.ids[w.start] : w.ids[w.stop - 1] + 1]) for w in cut.windows]
        read = sum(len(self._meter.spans(turn.text)) for turn in kept)
        whole = sum(span is not None for _, span in units)
        return FittedTurns(tuple((*kept, Turn(judged.role, text)) for text in texts), max(0, whole - read))

    def _units(self, turn: Turn) -> list[tuple[int, int] | None]:
        return [*self._meter.spans(turn.text), *[None] * self._turn_cost]


def _kept_turns(context: Sequence[Turn], units: Sequence[tuple[int, tuple[int, int] | None]]) -> tuple[Turn, ...]:
    """The turns that the last units belong to; the oldest may have lost its beginning, and is never the Agent's."""
    texts: dict[int, list[tuple[int, int]]] = {}
    for index, span in units:
        if span is not None:
            texts.setdefault(index, []).append(span)
    kept = [Turn(context[index].role, _slice(context[index].text, spans)) for index, spans in texts.items()]
    return tuple(kept[1:] if kept and kept[0].role == "Agent" else kept)


def _slice(text: str, spans: Sequence[tuple[int, int]]) -> str:
    return text[spans[0][0] : spans[-1][1]]
