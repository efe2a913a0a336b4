"""Reading CultureGuard's answer from a model: by the probabilities of its two verdicts, or as it writes them.

With l_s and l_u the log-probabilities of the strings ``safe`` and ``unsafe`` where the value of a key begins,

    p_unsafe = exp(l_u) / (exp(l_s) + exp(l_u))          mass = exp(l_s) + exp(l_u)

The answer up to there is given and not scored (teacher forcing): the verdict on the response is asked after the
*decided* one on the request, where the decision is the likelier label, as greedy decoding would write it. Where
something is unsafe, the model then goes on writing the categories.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from corral.core.errors import CorralError
from corral.data.messages import TARGETS, Conversation, Target
from corral.guards.base import Status
from corral.guards.cultureguard.answers import (
    CATEGORIES_KEY,
    KEY_OF,
    ParsedAnswer,
    format_until,
    parse_answer,
    split_categories,
)
from corral.guards.llama_guard.grammar import LABELS
from corral.guards.prompted.batches import Asked, Failure, ask_apart
from corral.guards.prompted.probabilities import LabelScore
from corral.models.engines.base import Engine, Generation, GenerationSettings, Prompt
from corral.models.engines.each import generate_each
from corral.models.engines.labels import label_logprobs_each
from corral.models.prompts import Prefilled

MAX_NEW_TOKENS: Final = 160
"""Of an answer that the model writes: verdicts and the names of a dozen categories."""

Resolve = Callable[[str], str | None]


@dataclass(frozen=True, slots=True)
class Question:
    """A framed prompt, and whether it has a response to judge."""

    prompt: Prompt
    reply: bool

    @property
    def targets(self) -> tuple[Target, ...]:
        """What the answer speaks of, in its order."""
        return TARGETS if self.reply else ("prompt",)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model says about one message.

    Attributes:
        unsafe: its decision; ``None`` when it could not be read.
        p: share of ``unsafe`` in the two labels; ``None`` when it was not scored, or both are impossible.
        mass: probability of the two labels together; ``None`` when not scored.
        status: why there is no decision.
        detail: the same in words.
    """

    unsafe: bool | None
    p: float | None = None
    mass: float | None = None
    status: Status = Status.OK
    detail: str | None = None


@dataclass(slots=True)
class Reading:
    """What a model answers to one question.

    Attributes:
        question: what it is asked.
        answers: by message; after a failure, that failure for all that were still to come.
        categories: qualified codes that it names.
        unknown_categories: how many more it names that the prompt does not list.
        ignored: verdicts on a response that is not there.
        categories_failure: why the categories are not known.
        seconds: wall time, its share of the batches that it was in.
    """

    question: Question
    answers: dict[Target, Answer | Failure] = field(default_factory=dict)
    categories: tuple[str, ...] = ()
    unknown_categories: int = 0
    ignored: int = 0
    categories_failure: str | None = None
    seconds: float = 0.0

    def decided(self, target: Target) -> bool | None:
        """The decision about a message, if there is one."""
        answer = self.answers.get(target)
        return answer.unsafe if isinstance(answer, Answer) else None

    @property
    def failed(self) -> bool:
        """Whether the model could not be asked."""
        return any(isinstance(answer, Failure) for answer in self.answers.values())


def score_answers(
    engine: Engine, questions: Sequence[Question], resolve: Resolve, *, lead: str = "", categories: bool = True
) -> list[Reading]:
    """Score the verdicts of each question; same length and order. A question that fails takes no other with it.

    Args:
        engine: the model.
        questions: framed prompts.
        resolve: from a category as it is written to its qualified code.
        lead: what the model writes before its object.
        categories: let it write the categories of what it calls unsafe.
    """
    readings = [Reading(question) for question in questions]
    for target in TARGETS:
        _score(engine, [r for r in readings if target in r.question.targets and not r.failed], target, lead)
    if categories:
        unsafe = [r for r in readings if not r.failed and any(r.decided(t) for t in r.question.targets)]
        _decode_categories(engine, unsafe, resolve, lead)
    return readings


def generate_answers(engine: Engine, questions: Sequence[Question], resolve: Resolve) -> list[Reading]:
    """Read the answers as the model writes them, decoding greedily; there are no probabilities."""
    settings = GenerationSettings(max_new_tokens=MAX_NEW_TOKENS)
    asked = _generate(engine, [question.prompt for question in questions], settings)
    readings = []
    for question, one in zip(questions, asked, strict=True):
        reading = Reading(question, seconds=one.seconds)
        if isinstance(one.answer, Failure):
            reading.answers = dict.fromkeys(question.targets, one.answer)
        else:
            complete = one.answer.finish_reason == "stop"
            _take(reading, parse_answer(one.answer.text, resolve, reply=question.reply, complete=complete))
        readings.append(reading)
    return readings


def _score(engine: Engine, readings: Sequence[Reading], target: Target, lead: str) -> None:
    def scores(some: Sequence[Reading]) -> list[LabelScore | CorralError]:
        prefixes = [lead + _until(KEY_OF[target], reading, before=target) for reading in some]
        prompts = [reading.question.prompt for reading in some]
        rows = label_logprobs_each(engine, prompts, LABELS, answer_prefixes=prefixes)
        return [row if isinstance(row, CorralError) else LabelScore(*row) for row in rows]

    for reading, scored in zip(readings, ask_apart(readings, scores), strict=True):
        reading.seconds += scored.seconds
        if isinstance(scored.answer, Failure):
            missing = [each for each in reading.question.targets if each not in reading.answers]
            reading.answers |= dict.fromkeys(missing, scored.answer)
        else:
            score = scored.answer
            reading.answers[target] = Answer(score.log_unsafe >= score.log_safe, score.p_unsafe, score.mass)


def _decode_categories(engine: Engine, readings: Sequence[Reading], resolve: Resolve, lead: str) -> None:
    settings = GenerationSettings(max_new_tokens=MAX_NEW_TOKENS, stop=('"',))
    prompts = [_continued(r.question.prompt, lead + _until(CATEGORIES_KEY, r)) for r in readings]
    for reading, one in zip(readings, _generate(engine, prompts, settings), strict=True):
        reading.seconds += one.seconds
        if isinstance(one.answer, Failure):
            reading.categories_failure = one.answer.detail
            continue
        words = split_categories(one.answer.text)
        if one.answer.finish_reason != "stop":
            words = words[:-1]  # the last one may have gone on
        codes = [resolve(word) for word in words]
        reading.categories = tuple(dict.fromkeys(code for code in codes if code is not None))
        reading.unknown_categories = sum(code is None for code in codes)


def _until(key: str, reading: Reading, *, before: Target | None = None) -> str:
    """The decided part of an answer, up to the value of ``key``."""
    if before == "prompt":
        return format_until(key)
    response = reading.decided("response") if before is None else None
    return format_until(key, reading.decided("prompt"), response)


def _continued(prompt: Prompt, prefix: str) -> Prompt:
    """A prompt whose answer begins with ``prefix``."""
    return Prefilled(prompt, prefix) if isinstance(prompt, Conversation) else f"{prompt}{prefix}"


def _generate(engine: Engine, prompts: Sequence[Prompt], settings: GenerationSettings) -> list[Asked[Generation]]:
    return ask_apart(prompts, lambda some: generate_each(engine, some, settings))


def _take(reading: Reading, parsed: ParsedAnswer) -> None:
    for target, said in parsed.said.items():
        reading.answers[target] = Answer(said.unsafe, status=said.status, detail=said.detail)
    reading.categories = parsed.categories
    reading.unknown_categories = parsed.unknown_categories
    reading.ignored = parsed.ignored
