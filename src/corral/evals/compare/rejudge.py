"""Labelling cached answers again, so that scorecards made with different judges can be compared.

The task is run on a model and guards that only know what the cache holds: replies and verdicts are read from its
journals, and the judge of today labels the replies. Where the judge is a guard, the guard of today is loaded.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

from corral.core.errors import CorralError, EngineError, GuardError, UserError
from corral.data.messages import Conversation, Target, TargetChoice
from corral.evals.sample_cache import SampleCache
from corral.evals.scorecard.results import GuardName, Scorecard, TaskEntry
from corral.evals.scorecard.run import entry_of
from corral.evals.scorecard.task_set import TASKS, TaskSettings, choose_tasks
from corral.evals.tasks.delivered_answers import JudgedByGuard
from corral.evals.tasks.task import EvalTask, SampleScore, SilentProgress, Subject, TaskResult
from corral.guards.base import Guard, Verdict
from corral.guards.composition.specs import leaf_guards, parse_spec, with_settings
from corral.guards.loading import GUARDS, load_guard
from corral.models.engines.base import CompletionLogprobs, Generation, GenerationSettings, Prompt


@dataclass(frozen=True)
class CachedEngine:
    """A model that is not there: whatever the cache lacks is an error."""

    name: str

    def generate(self, prompts: Sequence[Prompt], settings: GenerationSettings) -> list[Generation]:
        """See ``Engine.generate``."""
        _absent(self.name)

    def stream(self, prompt: Prompt, settings: GenerationSettings) -> Iterator[str]:
        """See ``Engine.stream``."""
        _absent(self.name)

    def logprobs(self, pairs: Sequence[tuple[Prompt, str]]) -> list[CompletionLogprobs]:
        """See ``Engine.logprobs``."""
        _absent(self.name)


@dataclass(frozen=True)
class CachedGuard:
    """A guard that is not there."""

    name: str
    revision: str
    taxonomy: str = ""

    def classify(self, conversations: Sequence[Conversation], *, target: TargetChoice = "auto") -> list[Verdict]:
        """See ``Guard.classify``."""
        raise GuardError(f"the cache lacks verdicts of guard `{self.name}`")

    def classify_both(self, conversations: Sequence[Conversation]) -> list[dict[Target, Verdict]]:
        """See ``Guard.classify_both``."""
        raise GuardError(f"the cache lacks verdicts of guard `{self.name}`")


@dataclass(frozen=True)
class Judges:
    """What labels answers again: the judges that packaged tasks have today, and what the user gives beside them.

    Attributes:
        tasks: of the user, in the place of packaged ones of the same name; each brings its judge.
        guard_settings: of the guard that judges where a task asks one, by the names of the guards it is made of; they
            win over those that the scorecard holds.
    """

    tasks: Sequence[EvalTask] = ()
    guard_settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def task(self, name: str, settings: TaskSettings) -> EvalTask:
        """The task of that name.

        Raises:
            UserError: it is neither given nor packaged.
        """
        own = next((task for task in self.tasks if task.name == name), None)
        if own is not None:
            return own
        if name not in TASKS:
            raise UserError(
                f"`{name}` cannot be judged again: it is not a task of Corral's own",
                hint="In Python, give the task to `compare(..., judges=Judges(tasks=[...]))`; or leave it out with "
                "`--tasks`.",
            )
        return choose_tasks([name], settings)[0]

    def guard(self, named: GuardName) -> Guard:
        """The guard of a scorecard, as it is today; loaded once.

        Raises:
            UserError: the scorecard does not say how it is made, it cannot be loaded, or there are settings of another.
        """
        if named.name not in self.loaded:
            if named.spec is None and named.name not in GUARDS:
                raise UserError(
                    f"guard `{named.name}` cannot be loaded again: the scorecard does not say how it was made",
                    hint="Make the scorecard with `corral eval scorecard`, or choose other tasks with `--tasks`.",
                )
            spec = parse_spec(named.spec or named.name)
            names = {name for leaf in leaf_guards(spec) for name in (leaf.guard, leaf.name)}
            if foreign := [name for name, own in self.guard_settings.items() if own and name not in names]:
                raise UserError(
                    f"`{foreign[0]}` does not judge: `{named.name}` does", where=f"settings of `{foreign[0]}`"
                )
            self.loaded[named.name] = load_guard(with_settings(spec, self.guard_settings))
        return self.loaded[named.name]

    @cached_property
    def loaded(self) -> dict[str, Guard]:
        """The guards that were asked for so far, by name."""
        return {}


def rejudge(
    card: Scorecard, task: str, cache: Path, judges: Judges, *, judging_guard: GuardName | None = None
) -> tuple[TaskEntry, tuple[SampleScore, ...]]:
    """One task of a scorecard with its cached answers labelled by the judge of today.

    Args:
        card: that the task was run for.
        task: its name.
        cache: folder of what was answered.
        judges: what labels.
        judging_guard: the guard that labels where the task asks one, the same for all scorecards.

    Raises:
        UserError: the cache lacks answers, the task or its data are no longer those of the scorecard, or the task is
            not known.
    """
    settings = TaskSettings(limit=card.settings.get("limit"), seed=card.settings.get("seed", 0))
    chosen = judges.task(task, settings)
    guards: tuple[Guard, ...] = tuple(CachedGuard(guard.name, guard.revision) for guard in card.guards)
    if isinstance(chosen, JudgedByGuard) and judging_guard is not None:
        guards = (judges.guard(judging_guard),)
    subject = Subject(CachedEngine(card.subject), card.subject, card.revision, guards)
    hint = "Run its scorecard again with the same settings."
    try:
        result = chosen.run(subject, SampleCache(cache), SilentProgress())
    except CorralError as error:
        raise UserError(f"`{task}` of `{card.subject}` cannot be judged again: {error.message}", hint=hint) from error
    before = card.entry(task)
    if not isinstance(result, TaskResult) or before is None:
        raise UserError(f"`{task}` of `{card.subject}` cannot be judged again: its data are not there", hint=hint)
    if (result.version, result.data_hash) != (before.version, before.data_hash):
        raise UserError(
            f"`{task}` of `{card.subject}` cannot be judged again: the task or its data have changed", hint=hint
        )
    return entry_of(result, 0.0), result.samples


def _absent(name: str) -> NoReturn:
    raise EngineError(f"the cache lacks answers of `{name}`")
