"""Asking an engine a row of questions, each again once when its answer cannot be read."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from corral.core.errors import CorralError
from corral.data.messages import Conversation
from corral.guards.base import Status
from corral.guards.failures import failure_detail
from corral.guards.json_judge.answers import Answer, Outcome, parse_answer
from corral.models.engines.base import Engine, GenerationSettings


@dataclass(frozen=True, slots=True)
class Asked:
    """What came of one question.

    Attributes:
        answer: the last one.
        outcomes: of the one or two attempts.
        status: of a verdict.
        detail: why there is no verdict, or that it took two attempts; ``None`` otherwise.
        latency_ms: its share of the calls.
    """

    answer: Answer
    outcomes: tuple[Outcome, ...]
    status: Status
    detail: str | None
    latency_ms: float


def ask_judge(
    engine: Engine,
    prompts: Sequence[Callable[[bool], Conversation]],
    codes: Collection[str],
    *,
    max_new_tokens: int,
) -> list[Asked]:
    """One result a question, in order; an engine that fails on one question takes no other with it.

    Args:
        engine: the model; decodes greedily.
        prompts: each makes its question; its argument says that it is asked again.
        codes: categories that answers may name.
        max_new_tokens: of an answer.
    """
    settings = GenerationSettings(max_new_tokens=max_new_tokens)
    started = time.perf_counter()
    first = _texts(engine, [prompt(False) for prompt in prompts], settings)
    answers = [_parsed(each, codes) for each in first]
    again = [i for i, answer in enumerate(answers) if answer.outcome is Outcome.UNPARSEABLE]
    second = dict(zip(again, _texts(engine, [prompts[i](True) for i in again], settings), strict=True))
    each_ms = 1e3 * (time.perf_counter() - started) / max(len(prompts), 1)
    out = []
    for i, answer in enumerate(answers):
        last = _parsed(second[i], codes) if i in second else answer
        outcomes = (answer.outcome, last.outcome) if i in second else (answer.outcome,)
        given = second.get(i, first[i])
        out.append(Asked(last, outcomes, _status(last, given), _detail(outcomes, given), each_ms))
    return out


def _texts(engine: Engine, prompts: Sequence[Conversation], settings: GenerationSettings) -> list[str | CorralError]:
    if not prompts:
        return []
    try:
        return [generation.text for generation in engine.generate(prompts, settings)]
    except CorralError as error:
        if len(prompts) == 1:
            return [error]
    return [text for prompt in prompts for text in _texts(engine, [prompt], settings)]


def _parsed(given: str | CorralError, codes: Collection[str]) -> Answer:
    return parse_answer(given, codes) if isinstance(given, str) else Answer(Outcome.ERROR)


def _status(answer: Answer, given: str | CorralError) -> Status:
    if isinstance(given, CorralError) and "timeout" in type(given.__cause__).__name__.lower():
        return Status.TIMEOUT
    return answer.status


def _detail(outcomes: Sequence[Outcome], given: str | CorralError) -> str | None:
    if isinstance(given, CorralError):
        return failure_detail("the model gave no answer", given)
    if len(outcomes) == 1 and outcomes[0] is not Outcome.REFUSED:
        return None
    return f"the answer was {', then '.join(outcomes)}"
