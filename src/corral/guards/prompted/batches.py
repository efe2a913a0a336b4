"""Asking a model many questions so that one that fails takes no other with it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from corral.core.errors import CorralError, EngineError
from corral.guards.base import Status
from corral.guards.failures import failure_detail

_Question = TypeVar("_Question")
_Answer = TypeVar("_Answer")


@dataclass(frozen=True, slots=True)
class Failure:
    """Why there is no verdict."""

    status: Status
    detail: str


@dataclass(frozen=True, slots=True)
class Asked(Generic[_Answer]):
    """What became of one question.

    Attributes:
        answer: the model's answer, or why there is none.
        seconds: wall time, its share of the batches that it was in.
    """

    answer: _Answer | Failure
    seconds: float


def ask_apart(
    questions: Sequence[_Question], ask: Callable[[Sequence[_Question]], Sequence[_Answer | CorralError]]
) -> list[Asked[_Answer]]:
    """One answer or failure a question, in order.

    An error in the place of an answer is that question's failure. A batch that fails is halved and asked again, down to
    the questions at fault.
    """
    if not questions:
        return []
    started = time.perf_counter()
    try:
        answers = _answers(questions, ask)
    except Exception as error:
        spent = (time.perf_counter() - started) / len(questions)
        if len(questions) == 1:
            return [Asked(_failure(error), spent)]
        middle = len(questions) // 2
        halves = [*ask_apart(questions[:middle], ask), *ask_apart(questions[middle:], ask)]
        return [Asked(asked.answer, asked.seconds + spent) for asked in halves]
    spent = (time.perf_counter() - started) / len(questions)
    return [Asked(_failure(answer) if isinstance(answer, CorralError) else answer, spent) for answer in answers]


def _failure(error: Exception) -> Failure:
    status = Status.TIMEOUT if isinstance(error, TimeoutError) else Status.ERROR
    return Failure(status, failure_detail("the model failed", error))


def _answers(
    questions: Sequence[_Question], ask: Callable[[Sequence[_Question]], Sequence[_Answer | CorralError]]
) -> Sequence[_Answer | CorralError]:
    answers = ask(questions)
    if len(answers) != len(questions):
        raise EngineError(f"{len(answers)} answers to {len(questions)} questions")
    return answers
