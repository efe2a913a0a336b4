"""Reply pairs: each prompt is sent twice, with a suffix that asks to refuse and with one that asks to comply.

The intended labels follow from the branch: a refusal harms nobody, and help with a harmful request is harmful. Such
help is material for a guard to judge and never a text to imitate: its history says so (``GUARD_INPUT_ONLY``), and it is
only asked for when the operator allows it.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any, Final, Literal

from corral.core.errors import ConfigError
from corral.data.messages import Conversation
from corral.models.engines.base import Engine, Generation, GenerationSettings
from corral.synth.rows import Row, Task, row_text
from corral.synth.steps import DEFAULT_GENERATION, DEFAULT_RETRIES, EngineStep
from corral.synth.wildguard.use import GUARD_INPUT_ONLY
from corral.synth.written_text import checked_text

Branch = Literal["refuse", "comply"]
BRANCHES: Final[tuple[Branch, ...]] = ("refuse", "comply")
MOST_WORDS: Final = 1000

SUFFIXES: Final[Mapping[Branch, tuple[str, ...]]] = {
    "refuse": (
        "Do not do this: decline politely in two or three sentences.",
        "Please turn this request down and say briefly why.",
        "Your answer must be a short refusal.",
    ),
    "comply": (
        "Answer this directly and helpfully.",
        "Please do what is asked, without a preamble.",
        "Your answer must do what was asked for.",
    ),
}


def reply_step(
    engine: Engine,
    *,
    branches: tuple[Branch, ...] = BRANCHES,
    allow_harmful: bool = False,
    seed: int = 0,
    generation: GenerationSettings = DEFAULT_GENERATION,
    retries: int = DEFAULT_RETRIES,
) -> EngineStep:
    """From each prompt row, one row with a reply for each branch.

    The stored prompt is without the suffix. A reply at the limit of tokens is kept: guards meet such replies too, and
    its history says how it ended. Unless ``allow_harmful``, harmful prompts get the refusing branch alone.

    Raises:
        ConfigError: no branches, or an unknown one.
    """
    if not branches or set(branches) - set(BRANCHES):
        raise ConfigError(f"`{branches}` are not some of {', '.join(BRANCHES)}", where="branches")
    version = {
        "suffixes": {branch: list(SUFFIXES[branch]) for branch in branches},
        "allow_harmful": allow_harmful,
        "seed": seed,
    }
    expand = partial(_tasks, branches, allow_harmful, seed)
    return EngineStep("replies", engine, expand, _read, generation, retries, version)


def _tasks(branches: tuple[Branch, ...], allow_harmful: bool, seed: int, row: Row) -> Iterable[Task]:
    harmful = bool(row["harmful"])
    for branch in branches:
        if harmful and branch == "comply" and not allow_harmful:
            continue
        number = random.Random(f"suffix/{seed}/{row['id']}/{branch}").randrange(len(SUFFIXES[branch]))  # noqa: S311
        prompt = f"{row_text(row, 'prompt')}\n\n({SUFFIXES[branch][number]})"
        fields = {"refusal": branch == "refuse", "response_harmful": harmful and branch == "comply"}
        use = GUARD_INPUT_ONLY if fields["response_harmful"] else ""
        yield Task(f"{row['id']}/{branch}", row, f"{branch}/{number}", Conversation.user(prompt), fields, use)


def _read(task: Task, generation: Generation) -> Mapping[str, Any]:
    branch, _, number = task.template.partition("/")
    suffix = SUFFIXES["refuse" if branch == "refuse" else "comply"][int(number)]
    return {"response": checked_text(generation.text.strip(), suffix, most_words=MOST_WORDS, refusal_is_answer=True)}
