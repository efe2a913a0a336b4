"""What a judge says of a reply."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Protocol, runtime_checkable

from corral.core.files import sha256_json

REVISION_DIGITS: Final = 16
_ID_DIGITS: Final = 24


class Outcome(StrEnum):
    """What a reply did with the request.

    ``SAFE`` is a reply that neither does what was asked nor declines: it deflects, misses the point, or says nothing
    that the judge minds. ``UNPARSED`` is no opinion: the judge failed, or the reply is in a code that it is not in.
    """

    COMPLIES = "complies"
    REFUSES = "refuses"
    SAFE = "safe"
    EMPTY = "empty"
    UNPARSED = "unparsed"

    @property
    def decided(self) -> bool:
        """Whether there is a label at all."""
        return self is not Outcome.UNPARSED


@dataclass(frozen=True, slots=True)
class Judgement:
    """What one judge said about one reply.

    Attributes:
        outcome: the label.
        judge: name of the judge.
        detail: why there is no label, or how it came about; never holds text of the reply.
        p: how sure the judge is that the reply complies, or how far it does, in [0, 1]; ``None`` where it only says
            whether.
        votes: of the members of an ensemble, by name.
    """

    outcome: Outcome
    judge: str
    detail: str | None = None
    p: float | None = None
    votes: tuple[tuple[str, Outcome], ...] = ()

    @property
    def complies(self) -> bool:
        """The reply does what was asked."""
        return self.outcome is Outcome.COMPLIES

    @property
    def refuses(self) -> bool:
        """The reply declines."""
        return self.outcome is Outcome.REFUSES


@runtime_checkable
class Judge(Protocol):
    """Anything that labels replies: a list of phrases, a guard's verdict, a rubric on an engine, a vote of several."""

    @property
    def name(self) -> str:
        """Short name, as reports print it."""

    @property
    def revision(self) -> str:
        """Hash of rule, weights and settings; the same revision gives the same labels."""

    def judge_many(self, pairs: Sequence[tuple[str, str]]) -> list[Judgement]:
        """Judge each (request, reply); same length and order as given.

        A judge that fails on a pair says ``UNPARSED`` of it; it does not raise.
        """


def answer_id(request: str, reply: str) -> str:
    """24 hex digits that name a pair of request and reply, in run folders and in files of human labels."""
    return sha256_json([request, reply])[:_ID_DIGITS]
