"""The two kinds of step: one that asks an engine, and one that calls a function."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final

from corral.core.errors import ConfigError, DataError, EngineError
from corral.models.engines.base import Engine, Generation, GenerationSettings
from corral.synth.rows import Origin, Outcome, Row, Task, Unusable, derived_seed

DEFAULT_GENERATION: Final = GenerationSettings(max_new_tokens=256, temperature=0.8, top_p=0.95)
DEFAULT_RETRIES: Final = 2

Expand = Callable[[Row], Iterable[Task]]
ReadAnswer = Callable[[Task, Generation], Mapping[str, Any]]
"""Turns an answer into the new row's fields; raises ``Unusable``."""


@dataclass(frozen=True)
class EngineStep:
    """Asks an engine for every task and reads its answers; those that cannot be used are asked for again.

    At temperature 0 nothing is asked again: the answer would be the same.

    Attributes:
        name: of the step.
        engine: any engine; its name is part of the settings.
        expand: the tasks of a row, each with its prompt.
        read: turns an answer into fields, or raises ``Unusable``.
        generation: how to sample; its seed is the step's, from which every call's is derived.
        retries: calls after the first.
        version: JSON values that stand for the templates and rules behind ``expand`` and ``read``.

    Raises:
        ConfigError: ``retries`` below 0.
    """

    name: str
    engine: Engine
    expand: Expand
    read: ReadAnswer
    generation: GenerationSettings = DEFAULT_GENERATION
    retries: int = DEFAULT_RETRIES
    version: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.retries < 0:
            raise ConfigError(f"`{self.retries}` is below 0", where="retries")

    def settings(self) -> Mapping[str, Any]:
        """Engine, sampling, retries and version."""
        return {
            "engine": self.engine.name,
            "generation": asdict(self.generation),
            "retries": self.retries,
            "version": dict(self.version),
        }

    def tasks(self, row: Row) -> Iterable[Task]:
        """The tasks of a row."""
        return self.expand(row)

    def answer(self, tasks: Sequence[Task], *, chunk: int) -> list[Outcome]:
        """Ask for all tasks at once, then again for those whose answers were of no use.

        A prompt that cannot be rendered or does not fit the model's context is quarantined as ``prompt``.

        Raises:
            EngineError: the model could not answer.
        """
        outcomes: dict[int, Outcome] = {}
        tokens = [0] * len(tasks)
        pending = list(range(len(tasks)))
        for attempt in range(1 + (self.retries if self.generation.temperature > 0.0 else 0)):
            seed = derived_seed(self.generation.seed, self.name, chunk, attempt)
            replies = self._generate([tasks[index] for index in pending], seed)
            for index, reply in zip(pending, replies, strict=True):
                tokens[index] += reply.tokens
                origin = Origin(self.engine.name, reply.seed, reply.place, attempt + 1, tokens[index], reply.finish)
                outcomes[index] = Outcome(self._read(tasks[index], reply), origin, reply.text)
            pending = [index for index in pending if _asks_again(outcomes[index])]
            if not pending:
                break
        return [outcomes[index] for index in range(len(tasks))]

    def _read(self, task: Task, reply: _Reply) -> Mapping[str, Any] | Unusable:
        if isinstance(reply.result, Unusable):
            return reply.result
        try:
            return self.read(task, reply.result)
        except Unusable as reason:
            return reason

    def _generate(self, tasks: Sequence[Task], seed: int) -> list[_Reply]:
        limit = self.generation.max_new_tokens
        prompts = [task.prompt for task in tasks]
        try:
            generations = self.engine.generate(prompts, replace(self.generation, seed=seed))
        except DataError:
            return [self._generate_one(task, derived_seed(seed, index)) for index, task in enumerate(tasks)]
        if len(generations) != len(tasks):
            raise EngineError(f"`{self.engine.name}` gave {len(generations)} answers to {len(tasks)} prompts")
        return [_Reply(generation, seed, place, limit) for place, generation in enumerate(generations)]

    def _generate_one(self, task: Task, seed: int) -> _Reply:
        """One prompt by itself, so that one that cannot be read does not take the others with it."""
        limit = self.generation.max_new_tokens
        try:
            [generation] = self.engine.generate([task.prompt], replace(self.generation, seed=seed))
        except DataError as error:
            return _Reply(Unusable("prompt", error.message, retry=False), seed, 0, limit)
        return _Reply(generation, seed, 0, limit)


@dataclass(frozen=True)
class FunctionStep:
    """Makes rows with a function of the chunk's tasks: no engine, or a guard.

    Attributes:
        name: of the step.
        expand: the tasks of a row.
        make: the outcome of each task, in order.
        version: JSON values that stand for what the function does.
    """

    name: str
    expand: Expand
    make: Callable[[Sequence[Task]], list[Outcome]]
    version: Mapping[str, Any] = field(default_factory=dict)

    def settings(self) -> Mapping[str, Any]:
        """The version."""
        return {"version": dict(self.version)}

    def tasks(self, row: Row) -> Iterable[Task]:
        """The tasks of a row."""
        return self.expand(row)

    def answer(self, tasks: Sequence[Task], *, chunk: int) -> list[Outcome]:
        """Call the function once."""
        del chunk
        return self.make(tasks)


@dataclass(frozen=True, slots=True)
class _Reply:
    """One answer, or why there is none, and the call that gave it."""

    result: Generation | Unusable
    seed: int
    place: int
    limit: int

    @property
    def text(self) -> str:
        return "" if isinstance(self.result, Unusable) else self.result.text

    @property
    def finish(self) -> str:
        return "" if isinstance(self.result, Unusable) else self.result.finish_reason

    @property
    def tokens(self) -> int:
        """Read and written; an answer whose server does not count its tokens is taken to be as long as allowed."""
        if isinstance(self.result, Unusable):
            return 0
        written = len(self.result.token_ids) or (self.limit if self.result.text else 0)
        return self.result.prompt_tokens + written


def _asks_again(outcome: Outcome) -> bool:
    return isinstance(outcome.result, Unusable) and outcome.result.retry
