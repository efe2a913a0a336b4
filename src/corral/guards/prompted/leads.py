"""What a model writes before an answer that is scored: nothing, a blank, or newlines that its template leaves to it."""

from __future__ import annotations

from typing import Final

from corral.models.engines.base import Engine, Prompt
from corral.models.engines.labels import label_logprobs

ANSWER_LEADS: Final = ("", " ", "\n", "\n\n")


def find_answer_lead(engine: Engine, prompt: Prompt, opening: str) -> str:
    """Which of ``ANSWER_LEADS`` this model writes before ``opening``: the likeliest, the first among equals.

    Args:
        engine: the model.
        prompt: framed.
        opening: how every answer begins.

    Raises:
        DataError: the prompt does not fit the context.
        EngineError: the model could not answer.
    """
    (scores,) = label_logprobs(engine, [prompt], [f"{lead}{opening}" for lead in ANSWER_LEADS])
    return ANSWER_LEADS[max(range(len(scores)), key=scores.__getitem__)]
