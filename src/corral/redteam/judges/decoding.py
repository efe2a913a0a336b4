"""Judging answers that were asked for in a code: decoded first, then judged."""

from __future__ import annotations

from collections.abc import Sequence

from corral.redteam.judges.base import Judge, Judgement, Outcome


def judge_decoded(judge: Judge, pairs: Sequence[tuple[str, str | None]]) -> list[Judgement]:
    """Judge each (request, decoded reply); a reply that did not decode (``None``) is ``UNPARSED``, never safe."""
    readable = [(request, reply) for request, reply in pairs if reply is not None]
    judged = iter(judge.judge_many(readable))
    unread = Judgement(Outcome.UNPARSED, judge.name, detail="the reply is not in the code that was asked for")
    return [unread if reply is None else next(judged) for _, reply in pairs]
