"""Labelling cached answers again, so that scorecards made with different judges can be compared.

The task is run on a model and guards that only know what the cache holds: replies and verdicts are read from its
journals, and the judge of today labels the replies.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from corral.core.errors import CorralError, EngineError, GuardError, UserError
from corral.data.messages import Conversation, Target, TargetChoice
from corral.evals.sample_cache import SampleCache
from corral.evals.scorecard.results import Scorecard, TaskEntry
from corral.evals.scorecard.run import entry_of
from corral.evals.scorecard.task_set import TaskSettings, choose_tasks
from corral.evals.tasks.task import SampleScore, SilentProgress, Subject, TaskResult
from corral.guards.base import Verdict
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


def rejudge(card: Scorecard, task: str, cache: Path) -> tuple[TaskEntry, tuple[SampleScore, ...]]:
    """One task of a scorecard with its cached answers labelled by the judge of today.

    Args:
        card: that the task was run for.
        task: its name.
        cache: folder of what was answered.

    Raises:
        UserError: the cache lacks answers, or the task or its data are no longer those of the scorecard.
    """
    settings = TaskSettings(limit=card.settings.get("limit"), seed=card.settings.get("seed", 0))
    [chosen] = choose_tasks([task], settings)
    guards = tuple(CachedGuard(guard.name, guard.revision) for guard in card.guards)
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
