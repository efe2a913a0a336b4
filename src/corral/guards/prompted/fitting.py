"""Fitting turns into the room that a prompt leaves, without cutting what is judged.

A judged message that does not fit is read in overlapping windows; older turns fill what is left, the oldest dropped
first and counted (see ``guards/windows``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from corral.core.errors import ConfigError
from corral.guards.prompted.meters import Meter
from corral.guards.prompted.turns import Turn
from corral.guards.windows import judged_windows

_MIN_ROOM: Final = 8
# Text cut at a token and tokenised anew may take a few tokens more, at each end, than it had within the whole.
_CUT: Final = 16

# Index of a turn, and characters of one of its tokens; no characters for what its role takes.
_Unit = tuple[int, tuple[int, int] | None]


@dataclass(frozen=True, slots=True)
class FittedTurns:
    """What a guard reads of one conversation.

    Attributes:
        windows: the turns of each prompt, the judged message (or a piece of it) last.
        context_dropped: tokens of older turns that are in no prompt.
    """

    windows: tuple[tuple[Turn, ...], ...]
    context_dropped: int


class TurnFitter:
    """Cuts conversations to the room for turns.

    Args:
        meter: counts tokens.
        window: tokens that the model may read at once, answer included.
        fixed: tokens of a prompt without turns, and of its answer.
        turn_cost: tokens of what stands around a turn.
        overlap: tokens of the judged message that windows share; ``None`` for an eighth of the room.
        hint: how to make room.

    Raises:
        ConfigError: no room for a message, or an overlap that leaves its windows none to move on.
    """

    def __init__(
        self, meter: Meter, *, window: int, fixed: int, turn_cost: int, overlap: int | None = None, hint: str
    ) -> None:
        self._meter = meter
        self._turn_cost = turn_cost
        self.room = window - fixed - _CUT
        if self.room < _MIN_ROOM:
            raise ConfigError(
                f"the policy and the answer take {fixed} of `{window}` tokens, which leaves no room for a message",
                where="window",
                hint=hint,
            )
        self._overlap = self.room // 8 if overlap is None else overlap
        self._min_context = max(0, min(self.room // 4, self.room - self._overlap - 1))
        if not 0 <= self._overlap < self.room:
            raise ConfigError(
                f"an overlap of `{overlap}` tokens does not fit the {self.room} that the policy leaves for turns",
                where="overlap",
                hint=f"Use 0 to {self.room - 1}.",
            )

    def fit(self, turns: Sequence[Turn]) -> FittedTurns:
        """Windows over the last turn, each behind as much of the turns before it as fits."""
        *context, judged = turns
        units = self._units(context)
        judged_units = self._meter.spans(judged.text)
        cut = judged_windows(
            range(len(units)),
            range(len(judged_units)),
            size=self.room,
            overlap=self._overlap,
            min_context=self._min_context,
        )
        kept, dropped = self._tail(context, units, cut.windows[0].start if cut.windows else 0)
        texts = [_slice(judged.text, judged_units[w.ids[w.start] : w.ids[w.stop - 1] + 1]) for w in cut.windows]
        return FittedTurns(tuple((*kept, Turn(judged.role, text)) for text in texts), dropped)

    def fit_whole(self, turns: Sequence[Turn], *, judged: int) -> FittedTurns | None:
        """One window with the last ``judged`` turns whole behind as many older ones as fit; ``None`` if they do not."""
        context, last = turns[:-judged], turns[-judged:]
        left = self.room - sum(len(self._meter.spans(turn.text)) + self._turn_cost for turn in last)
        if left < 0:
            return None
        kept, dropped = self._tail(context, self._units(context), left)
        return FittedTurns(((*kept, *last),), dropped)

    def _units(self, context: Sequence[Turn]) -> list[_Unit]:
        # A turn's role is counted after its text, so that what is kept from the end of a turn includes its role.
        return [
            (i, span)
            for i, turn in enumerate(context)
            for span in (*self._meter.spans(turn.text), *[None] * self._turn_cost)
        ]

    def _tail(self, context: Sequence[Turn], units: Sequence[_Unit], count: int) -> tuple[tuple[Turn, ...], int]:
        """The turns of the last ``count`` units, and how many tokens of all turns are not among them."""
        kept = _kept_turns(context, units[max(0, len(units) - count) :])
        read = sum(len(self._meter.spans(turn.text)) for turn in kept)
        return kept, max(0, sum(span is not None for _, span in units) - read)


def _kept_turns(context: Sequence[Turn], units: Sequence[_Unit]) -> tuple[Turn, ...]:
    """The turns that these units belong to; the oldest may have lost its beginning, and is never the Agent's."""
    texts: dict[int, list[tuple[int, int]]] = {}
    for index, span in units:
        if span is not None:
            texts.setdefault(index, []).append(span)
    kept = [Turn(context[index].role, _slice(context[index].text, spans)) for index, spans in texts.items()]
    return tuple(kept[1:] if kept and kept[0].role == "Agent" else kept)


def _slice(text: str, spans: Sequence[tuple[int, int]]) -> str:
    return text[spans[0][0] : spans[-1][1]]
