"""Verdicts as a model writes them, greedily and of its own accord: the released way, which gives no probabilities.

The text goes through the strict grammar. What is outside it (``Not safe.``, ``safe unsafe``, a code that the prompt
does not have, nothing, an answer that was cut off) says nothing about safety.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from corral.core.errors import CorralError
from corral.guards.llama_guard.grammar import ParsedVerdict, VerdictSyntaxError, parse_verdict
from corral.models.engines.base import Engine, Generation, GenerationSettings, Prompt
from corral.models.engines.each import generate_each


@dataclass(frozen=True, slots=True)
class WrittenVerdict:
    """One answer as the grammar reads it.

    Attributes:
        codes: the violated codes of the prompt, none when it says safe; ``None`` outside the grammar.
        problem: the rule of the grammar that it breaks, "" inside; quotes nothing of it.
    """

    codes: tuple[str, ...] | None
    problem: str = ""

    @property
    def p_unsafe(self) -> float | None:
        """1 when it says unsafe, 0 when it says safe; ``None`` outside the grammar."""
        return None if self.codes is None else float(bool(self.codes))


def write_verdicts(
    engine: Engine, prompts: Sequence[Prompt], codes: Sequence[Collection[str]], *, max_new_tokens: int
) -> list[WrittenVerdict | CorralError]:
    """What the model writes after each prompt; same length and order, with the error of a prompt in its place.

    Args:
        engine: the model.
        prompts: framed prompts.
        codes: for each prompt, the codes of its policy.
        max_new_tokens: enough for the longest verdict; what is cut off is none.

    Raises:
        DataError, EngineError: the engine failed on all of them.
    """
    answers = generate_each(engine, prompts, GenerationSettings(max_new_tokens=max_new_tokens))
    return [
        answer if isinstance(answer, CorralError) else _written(answer, known)
        for answer, known in zip(answers, codes, strict=True)
    ]


def read_answer(answer: Generation, codes: Collection[str]) -> ParsedVerdict:
    """The verdict that an answer is; a blank before it, as some vocabularies write, is not part of it.

    Raises:
        VerdictSyntaxError: the answer is not exactly a verdict.
    """
    return parse_verdict(answer.text.removeprefix(" "), codes, complete=answer.finish_reason == "stop")


def _written(answer: Generation, codes: Collection[str]) -> WrittenVerdict:
    try:
        return WrittenVerdict(read_answer(answer, codes).codes)
    except VerdictSyntaxError as error:
        return WrittenVerdict(None, str(error))
