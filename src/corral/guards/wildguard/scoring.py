"""Reading the three answers from a model: by the probabilities of their labels, or as it writes them.

With l_yes, l_no and l_na the log-probabilities of the strings `` yes``, `` no`` and `` n/a`` (on the lines that allow
it) right after a line's beginning, summed over their tokens,

    p = exp(l_yes) / (exp(l_yes) + exp(l_no))        mass = exp(l_yes) + exp(l_no) + exp(l_na)

The beginning of a line is given and not scored. Each line is asked after the *decided* lines before it, where the
decision is the likeliest label: the tokens that greedy decoding writes, if labels differ in their first token. So the
two ways agree on yes and no wherever the model writes a well-formed answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from corral.core.errors import CorralError
from corral.guards.base import Status
from corral.guards.prompted.batches import Failure, ask_apart
from corral.guards.prompted.probabilities import mass, require_logprobs, share
from corral.guards.wildguard.answers import LABELS, LINES, NO, NOT_APPLICABLE, YES, Label, parse_answers
from corral.models.engines.base import Engine, GenerationSettings, Prompt
from corral.models.engines.each import generate_each
from corral.models.engines.labels import label_logprobs_each

MAX_NEW_TOKENS: Final = 128


@dataclass(frozen=True, slots=True)
class LineAnswer:
    """What a model answers on one line.

    Attributes:
        label: its decision; ``None`` when the line could not be read.
        p: share of yes in yes and no; ``None`` when it was not scored, or both are impossible.
        p_na: probability of n/a among everything that it might write; ``None`` when not scored, or not allowed.
        mass: probability of the labels together; ``None`` when not scored.
    """

    label: Label | None
    p: float | None = None
    p_na: float | None = None
    mass: float | None = None


@dataclass(frozen=True, slots=True)
class LineScore:
    """Log-probabilities, in nats, of the labels of one line.

    Raises:
        EngineError: NaN, or probabilities that sum to more than 1.
    """

    yes: float
    no: float
    na: float | None = None

    def __post_init__(self) -> None:
        require_logprobs(*self._all)

    @property
    def _all(self) -> tuple[float, ...]:
        return (self.yes, self.no) if self.na is None else (self.yes, self.no, self.na)

    @property
    def label(self) -> Label:
        """The likeliest label; yes among equals of yes and no, and n/a only when it is above both."""
        if self.na is not None and self.na > max(self.yes, self.no):
            return NOT_APPLICABLE
        return YES if self.yes >= self.no else NO

    @property
    def answer(self) -> LineAnswer:
        """The decision with its probabilities."""
        p_na = None if self.na is None else mass(self.na)
        return LineAnswer(self.label, share(self.yes, self.no), p_na, mass(*self._all))


@dataclass(frozen=True, slots=True)
class Question:
    """A prompt, and how many of the lines are wanted, from the first on."""

    prompt: Prompt
    lines: int = len(LINES)


@dataclass(slots=True)
class Reading:
    """What a model answers to one question.

    Attributes:
        question: what it is asked.
        written: its answer as decided so far.
        answers: one a line; after a failure, that failure for all lines that were still to come.
        seconds: wall time, its share of the batches that it was in.
    """

    question: Question
    written: str = ""
    answers: list[LineAnswer | Failure] = field(default_factory=list)
    seconds: float = 0.0

    def wants(self, line: int) -> bool:
        """Whether the model still has to be asked about a line."""
        return self.question.lines > line == len(self.answers)

    def fail(self, failure: Failure) -> None:
        """No more lines."""
        self.answers += [failure] * (self.question.lines - len(self.answers))


def score_lines(engine: Engine, questions: Sequence[Question], *, lead: str = "") -> list[Reading]:
    """Score the lines of each question; same length and order. A question that fails takes no other with it.

    Args:
        engine: the model.
        questions: framed prompts.
        lead: what the model writes before line 1.
    """
    readings = [Reading(question, lead) for question in questions]
    for line in range(len(LINES)):
        asked = [reading for reading in readings if reading.wants(line)]
        line_break = "\n" if line else ""
        for reading in asked:
            reading.written += f"{line_break}{LINES[line]}:"
        for reading, scored in zip(asked, ask_apart(asked, partial(_line_scores, engine, line)), strict=True):
            reading.seconds += scored.seconds
            if isinstance(scored.answer, Failure):
                reading.fail(scored.answer)
            else:
                reading.written += f" {scored.answer.label}"
                reading.answers.append(scored.answer.answer)
    return readings


def _line_scores(engine: Engine, line: int, readings: Sequence[Reading]) -> list[LineScore | CorralError]:
    labels = [f" {label}" for label in LABELS[line]]
    prompts = [reading.question.prompt for reading in readings]
    rows = label_logprobs_each(engine, prompts, labels, answer_prefixes=[reading.written for reading in readings])
    return [row if isinstance(row, CorralError) else LineScore(*row) for row in rows]


def generate_lines(engine: Engine, questions: Sequence[Question]) -> list[Reading]:
    """Read the lines as the model writes them, decoding greedily; all three, whatever was asked for."""
    readings = [Reading(Question(question.prompt)) for question in questions]
    settings = GenerationSettings(max_new_tokens=MAX_NEW_TOKENS)
    asked = ask_apart([q.prompt for q in questions], lambda prompts: generate_each(engine, prompts, settings))
    for reading, one in zip(readings, asked, strict=True):
        reading.seconds = one.seconds
        if isinstance(one.answer, Failure):
            reading.fail(one.answer)
            continue
        reading.written = one.answer.text
        parsed = parse_answers(one.answer.text, complete=one.answer.finish_reason == "stop")
        reading.answers += [LineAnswer(label) for label in (parsed.prompt, parsed.refusal, parsed.response)]
    return readings


def status_of(answer: LineAnswer, *, min_mass: float) -> tuple[Status, str | None]:
    """Whether a line about something that is there can be used, and else why not."""
    if answer.label is None:
        return Status.UNPARSEABLE, "the line is missing or malformed"
    if answer.mass is not None and (answer.mass < min_mass or answer.p is None):
        return (
            Status.UNPARSEABLE,
            f"the labels hold {answer.mass:.2g} of the probability, under {min_mass:g}",
        )
    if answer.label == NOT_APPLICABLE:
        return Status.UNPARSEABLE, "the answer is n/a about a response that is there"
    return Status.OK, None
