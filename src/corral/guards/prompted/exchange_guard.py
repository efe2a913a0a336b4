"""Guards that judge a request and the reply to it from one prompt, wherever both fit one.

``ExchangeGuard`` does what all of them share: the limits on input, windows, one question for both targets where they
stand in the same prompts, failures kept to the item that caused them, and timing. A subclass says how windows are asked
(``read_windows``) and what the answers mean (``conclude``).
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Generic, NamedTuple, Protocol, TypeVar

from corral.core.errors import DataError
from corral.data.messages import Conversation, Target, TargetChoice
from corral.guards.asking import present_targets
from corral.guards.base import Status, Verdict
from corral.guards.failures import bad_input, failure_detail
from corral.guards.limits import MAX_CHARS, unreadable
from corral.guards.prompted.batches import Failure
from corral.guards.prompted.exchanges import Exchange, ExchangeFitter, FittedExchange, exchange_of
from corral.guards.prompted.turns import UNSHOWN


class TimedReading(Protocol):
    """What a model answered to one window."""

    @property
    def seconds(self) -> float:
        """Wall time, its share of the batches that it was in."""


Reading = TypeVar("Reading", bound=TimedReading)


class AskedWindow(NamedTuple):
    """One window to be read, and the messages that it is read for."""

    exchange: Exchange
    targets: tuple[Target, ...]


@dataclass(slots=True)
class ExchangeItem(Generic[Reading]):
    """One conversation on its way to verdicts on some of its targets.

    Attributes:
        targets: what is judged.
        failures: why a target cannot be judged.
        fitted: what is read for each target.
        readings: for each target that can be judged, the answers to its windows.
        seconds: wall time so far.
    """

    targets: Sequence[Target]
    failures: dict[Target, Failure] = field(default_factory=dict)
    fitted: dict[Target, FittedExchange] = field(default_factory=dict)
    readings: dict[Target, list[Reading]] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def together(self) -> bool:
        """Request and reply stand in the same prompts."""
        return len(self.fitted) > 1 and self.fitted["prompt"] is self.fitted["response"]

    @property
    def latency_ms(self) -> float:
        """Wall time of one of its verdicts."""
        return 1e3 * self.seconds / len(self.targets)


class ExchangeGuard(ABC, Generic[Reading]):
    """Judges requests and replies; see the module.

    Args:
        fitter: cuts exchanges to the model's context.
        max_chars: a judged message of more characters is refused, never cut.

    Attributes:
        alternates: its prompts show User and Agent by turns; any other chat is refused (``alternating``).
    """

    alternates: ClassVar[bool] = True

    def __init__(self, fitter: ExchangeFitter, *, max_chars: int = MAX_CHARS) -> None:
        self.max_chars = max_chars
        self._fitter = fitter

    @abstractmethod
    def read_windows(self, windows: Sequence[AskedWindow]) -> Sequence[Reading]:
        """The model's answer to each window; same length and order, none raised."""

    @abstractmethod
    def conclude(self, item: ExchangeItem[Reading], target: Target) -> Verdict:
        """The verdict on one target, from its readings or its failure."""

    def classify(self, conversations: Sequence[Conversation], *, target: TargetChoice = "auto") -> list[Verdict]:
        """Judge each conversation; same length and order as given. A failure is a verdict with its status.

        What is wrong with a conversation is told with its index, and takes no other with it.
        The context of the request is the turns before it; those after the reply are not read.
        """
        wanted = [conversation.target(target) for conversation in conversations]
        judged = self._judge([(conversation, (one,)) for conversation, one in zip(conversations, wanted, strict=True)])
        return [verdicts[one] for verdicts, one in zip(judged, wanted, strict=True)]

    def classify_both(self, conversations: Sequence[Conversation]) -> list[dict[Target, Verdict]]:
        """Judge prompt and response of each conversation from one pass; a target that it does not have is absent."""
        return self._judge([(conversation, present_targets(conversation)) for conversation in conversations])

    def _judge(self, wanted: Sequence[tuple[Conversation, Sequence[Target]]]) -> list[dict[Target, Verdict]]:
        items = [self._read(index, *asked) for index, asked in enumerate(wanted)]
        self._answer(items)
        return [{target: self.conclude(item, target) for target in item.targets} for item in items]

    def _read(self, index: int, conversation: Conversation, targets: Sequence[Target]) -> ExchangeItem[Reading]:
        started = time.perf_counter()
        item: ExchangeItem[Reading] = ExchangeItem(targets)
        for target in targets:
            if reason := self._unreadable(conversation, target):
                item.failures[target] = Failure(Status.ERROR, bad_input(index, reason))
        judged = [target for target in targets if target not in item.failures]
        if judged:
            try:
                fitted = self._fit(conversation)
                item.fitted = fitted
                empty = Failure(Status.ERROR, bad_input(index, "the judged message has no tokens"))
                item.failures |= {t: empty for t in judged if not fitted[t].windows}
            except DataError as error:
                failure = Failure(Status.ERROR, bad_input(index, error.message, where=error.where))
                item.failures |= dict.fromkeys(judged, failure)
            except Exception as error:
                failure = Failure(Status.ERROR, failure_detail("the message could not be tokenised", error))
                item.failures |= dict.fromkeys(judged, failure)
        item.seconds = time.perf_counter() - started
        return item

    def _unreadable(self, conversation: Conversation, target: Target) -> str | None:
        index = conversation.judged_index(target)
        role = None if index is None else conversation.messages[index].role
        if role in UNSHOWN:
            return f"a {role} message is not a turn that can be judged"
        return unreadable(conversation, target, max_chars=self.max_chars)

    def _fit(self, conversation: Conversation) -> dict[Target, FittedExchange]:
        """A reply that cannot be read is left out, so that the request can still be judged."""
        reply = self._unreadable(conversation, "response") is None
        return self._fitter.fit(exchange_of(conversation, reply=reply))

    def _answer(self, items: Sequence[ExchangeItem[Reading]]) -> None:
        """Fill the readings of every item that can be judged; windows that both targets share are asked once."""
        owners: list[ExchangeItem[Reading]] = []
        asked: list[AskedWindow] = []
        for item in items:
            judged: tuple[Target, ...] = tuple(t for t in item.targets if t not in item.failures)
            groups = [judged] if item.together else [(target,) for target in judged]
            for group in filter(None, groups):
                for exchange in item.fitted[group[0]].windows:
                    owners.append(item)
                    asked.append(AskedWindow(exchange, group))
        for item, window, reading in zip(owners, asked, self.read_windows(asked), strict=True):
            item.seconds += reading.seconds
            for target in window.targets:
                item.readings.setdefault(target, []).append(reading)
