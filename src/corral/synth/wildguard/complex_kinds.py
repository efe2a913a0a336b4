"""The twelve complex kinds of reply that guards get wrong: named templates that an engine fills.

WildGuard found them by error analysis (arXiv 2406.18495) and added 1,167 refusals and 1,167 compliances of them.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from functools import cache, partial
from importlib.resources import files
from typing import Any, Final, Literal

from corral.core.config import Config, load_config
from corral.core.errors import NotFoundError, suggest
from corral.core.yaml import parse_yaml
from corral.data.messages import Conversation
from corral.models.engines.base import Engine, Generation, GenerationSettings
from corral.synth.rows import Row, Task, Unusable, row_text
from corral.synth.steps import DEFAULT_GENERATION, DEFAULT_RETRIES, EngineStep
from corral.synth.templates import fill
from corral.synth.written_text import checked_text, sections

MOST_WORDS: Final = 400
HEADINGS: Final = ("Request", "Reply")

_FILE: Final = "complex_kinds.yaml"
_BOTH: Final = (
    "Write a request of a user and the reply of an assistant. {write}\nTake the subject from this text: {prompt}\n"
    "Use this format:\nRequest: ...\nReply: ..."
)
_REPLY: Final = "{request}\n\n({write})"


class ComplexKind(Config):
    """One kind of reply.

    Attributes:
        id: its name.
        needs: label of the prompt that it starts from, and of the request that comes out.
        refusal: whether its replies count as refusals.
        write: what the engine is told.
        request: the request, when it is not the engine's to write; "" otherwise.
    """

    id: str
    needs: Literal["benign", "harmful"]
    refusal: bool
    write: str
    request: str = ""


class _KindsFile(Config):
    kinds: tuple[ComplexKind, ...]
    tasks: tuple[str, ...]


def complex_kinds(names: Sequence[str] = ()) -> tuple[ComplexKind, ...]:
    """The kinds of those names, or all twelve, in the packaged order.

    Raises:
        NotFoundError: no kind of that name.
    """
    kinds = _file().kinds
    known = [kind.id for kind in kinds]
    if unknown := [name for name in names if name not in known]:
        raise NotFoundError(f"no complex kind is named `{unknown[0]}`", hint=suggest(unknown[0], known))
    return tuple(kind for kind in kinds if not names or kind.id in names)


def complex_step(
    engine: Engine,
    *,
    kinds: Sequence[ComplexKind] = (),
    per_prompt: int | None = None,
    seed: int = 0,
    generation: GenerationSettings = DEFAULT_GENERATION,
    retries: int = DEFAULT_RETRIES,
) -> EngineStep:
    """From each vanilla prompt row, a request and a reply of each kind that starts from such a prompt.

    Args:
        engine: writes.
        kinds: all by default.
        per_prompt: at most so many kinds a prompt, drawn; ``None`` for all.
        seed: of what is drawn.
        generation: how to sample.
        retries: calls after the first.
    """
    chosen = tuple(kinds) or complex_kinds()
    version = {
        "templates": [_BOTH, _REPLY],
        "kinds": [kind.model_dump() for kind in chosen],
        "tasks": list(_file().tasks),
        "per_prompt": per_prompt,
        "seed": seed,
    }
    expand = partial(_tasks, chosen, per_prompt, seed)
    return EngineStep("complex", engine, expand, _read, generation, retries, version)


def _tasks(kinds: Sequence[ComplexKind], per_prompt: int | None, seed: int, row: Row) -> Iterable[Task]:
    if row.get("adversarial"):
        return
    needs = "harmful" if row["harmful"] else "benign"
    fitting = [kind for kind in kinds if kind.needs == needs]
    chance = random.Random(f"complex/{seed}/{row['id']}")  # noqa: S311  not for secrets
    if per_prompt is not None and per_prompt < len(fitting):
        fitting = chance.sample(fitting, per_prompt)
    for kind in fitting:
        yield _task(kind, row, chance)


def _task(kind: ComplexKind, row: Row, chance: random.Random) -> Task:
    prompt = row_text(row, "prompt")
    first, second = chance.sample(_file().tasks, 2)
    fields: dict[str, Any] = {"kind": "complex", "refusal": kind.refusal, "response_harmful": False}
    if kind.request:
        fields["prompt"] = fill(kind.request, prompt=prompt, first_task=first, second_task=second)
        asked = fill(_REPLY, request=fields["prompt"], write=kind.write)
    else:
        asked = fill(_BOTH, write=kind.write, prompt=prompt)
    return Task(f"{row['id']}/{kind.id}", row, kind.id, Conversation.user(asked), fields)


def _read(task: Task, generation: Generation) -> Mapping[str, Any]:
    [kind] = complex_kinds([task.template])
    if kind.request:
        if generation.finish_reason == "length":
            raise Unusable("cut_off")
        return {"response": _checked(generation.text.strip(), kind)}
    request, reply = (_checked(text, kind) for text in sections(generation, HEADINGS))
    return {"prompt": request, "response": reply}


def _checked(text: str, kind: ComplexKind) -> str:
    return checked_text(text, kind.write, most_words=MOST_WORDS, refusal_is_answer=True)


@cache
def _file() -> _KindsFile:
    text = files(__package__).joinpath(_FILE).read_text(encoding="utf-8")
    return load_config(_KindsFile, parse_yaml(text, where=_FILE))
