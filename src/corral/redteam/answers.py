"""What a target answers to every attempt, within a budget, kept in a journal."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from corral.core.errors import CorralError, EngineError
from corral.core.files import sha256_json
from corral.core.journal import Journal
from corral.core.progress import progress
from corral.data.messages import Conversation, Message
from corral.models.engines.base import Engine, Generation, GenerationSettings, Prompt
from corral.models.engines.each import generate_each
from corral.redteam.attempts import Attempt, Target
from corral.redteam.judges import answer_id
from corral.redteam.settings import RUN_VERSION, RunSettings
from corral.redteam.store import KEY, Row, Store
from corral.redteam.styles import AttackPrompt

MAX_FAILED: Final = 0.05
"""Share of the attempts that may fail before a run says nothing about its target."""
_LEAST_FAILED: Final = 20  # before a run is given up for it


@dataclass(frozen=True)
class Answers:
    """What became of the attempts.

    Attributes:
        rows: attempt key to journal row, of those that were answered.
        failed: attempts that gave an error of the engine each time, by the error's kind.
        unfit: attempt key to why the target cannot read the prompt.
        not_run: attempts that were not begun.
        stopped: why not, ``None`` when all were.
        fingerprint: what the answers depend on.
    """

    rows: Mapping[str, Row]
    failed: Mapping[str, int]
    unfit: Mapping[str, str]
    not_run: int
    stopped: str | None
    fingerprint: Row


@dataclass(frozen=True, slots=True)
class _Said:
    """All turns of one conversation with a target."""

    generations: tuple[Generation, ...]
    asked: tuple[Conversation, ...]


def answer(target: Target, attempts: Sequence[Attempt], store: Store, settings: RunSettings) -> Answers:
    """Let the target answer every attempt that has a prompt.

    An attempt that fails is tried again; one that fails each time is not in the journal, so that a rerun tries it. Once
    more than 5 % have failed the run is given up.
    """
    fingerprint = answers_fingerprint(target, settings)
    todo = {each.key: each.prompt for each in attempts if isinstance(each.prompt, AttackPrompt)}
    with store.open("answers", fingerprint) as journal:
        before = [row["tokens"] for row in journal.entries() if row[KEY] in todo]
        work = _Work(target.engine, settings, journal, planned=len(todo), spent=before)
        missing = [key for key in todo if key not in journal]
        stopped = None
        with progress(len(missing), f"{target.name} answers") as bar:
            for start in range(0, len(missing), settings.batch_size):
                stopped = work.reason_to_stop()
                if stopped:
                    break
                some = missing[start : start + settings.batch_size]
                work.ask({key: todo[key] for key in some})
                bar.advance(len(some))
        rows = {row[KEY]: row for row in journal.entries() if row[KEY] in todo}
    not_run = len(todo) - len(rows) - sum(work.failed.values()) - len(work.unfit)
    return Answers(rows, dict(work.failed), work.unfit, not_run, stopped, fingerprint)


def too_many_failed(failed: int, planned: int) -> str | None:
    """Why asking goes no further after so many failures, ``None`` while it does."""
    if failed > max(MAX_FAILED * planned, _LEAST_FAILED):
        return f"{failed} attempts failed, more than {MAX_FAILED:.0%} of all"
    return None


class _Work:
    """The attempts of one session: what was spent, what failed."""

    def __init__(
        self, engine: Engine, settings: RunSettings, journal: Journal, *, planned: int, spent: Sequence[int]
    ) -> None:
        self.failed: Counter[str] = Counter()
        self.unfit: dict[str, str] = {}
        self._engine = engine
        self._settings = settings
        self._journal = journal
        self._planned = planned
        self._answers = len(spent)
        self._tokens = sum(spent)
        self._started = time.monotonic()

    def reason_to_stop(self) -> str | None:
        return too_many_failed(sum(self.failed.values()), self._planned) or self._settings.budget.spent(
            prompts=self._answers, tokens=self._tokens, seconds=time.monotonic() - self._started
        )

    def ask(self, prompts: Mapping[str, AttackPrompt]) -> None:
        """Ask for some answers; they are on their way to the disk afterwards."""
        left = dict(prompts)
        errors: dict[str, CorralError] = {}
        for _ in range(self._settings.retries + 1):
            said = converse(self._engine, left, self._settings.generation)
            for key, found in said.items():
                if isinstance(found, _Said):
                    self._keep(key, left[key], found)
            errors = {key: found for key, found in said.items() if isinstance(found, CorralError)}
            self.unfit |= {key: error.message for key, error in errors.items() if not isinstance(error, EngineError)}
            left = {key: left[key] for key, error in errors.items() if isinstance(error, EngineError)}
            if not left:
                break
        self.failed.update(type(errors[key]).__name__ for key in left)
        self._journal.flush()

    def _keep(self, key: str, prompt: AttackPrompt, said: _Said) -> None:
        last = said.generations[-1]
        decoded = prompt.decode(last.text)
        tokens = sum(each.prompt_tokens + _written(each) for each in said.generations)
        self._tokens += tokens
        self._answers += 1
        self._journal.append(
            {
                KEY: key,
                "style": prompt.meta.style_id,
                "notes": dict(prompt.meta.notes),
                "goal": prompt.goal,
                "prompt_sha256": prompt.sha256,
                "turns": [conversation.to_openai() for conversation in said.asked],
                "answer": last.text,
                "decoded": decoded,
                "answer_id": answer_id(prompt.goal, decoded or ""),
                "finish_reason": last.finish_reason,
                "tokens": tokens,
            }
        )


def converse(
    engine: Engine, prompts: Mapping[str, AttackPrompt], settings: GenerationSettings
) -> dict[str, _Said | CorralError]:
    """Each conversation to its end: the prompt, and every later turn after the answer to the one before."""
    talks: dict[str, _Said | CorralError] = {}
    now: dict[str, Prompt] = {key: prompt.prompt for key, prompt in prompts.items()}
    shown = {key: prompt.shown for key, prompt in prompts.items()}
    turn = 0
    while now:
        answers = _generate(engine, now, settings, turn)
        following: dict[str, Prompt] = {}
        for key, found in answers.items():
            before = talks.get(key, _Said((), ()))
            if isinstance(found, CorralError) or isinstance(before, CorralError):
                talks[key] = found if isinstance(found, CorralError) else before
                continue
            talks[key] = _Said((*before.generations, found), (*before.asked, shown[key]))
            later = prompts[key].follow_ups
            if turn < len(later):
                said = (Message.of("assistant", found.text), Message.of("user", later[turn]))
                shown[key] = Conversation((*shown[key].messages, *said))
                following[key] = shown[key]
        now, turn = following, turn + 1
    return talks


def _generate(
    engine: Engine, prompts: Mapping[str, Prompt], settings: GenerationSettings, turn: int
) -> dict[str, Generation | CorralError]:
    if settings.temperature == 0.0:
        return dict(zip(prompts, generate_each(engine, list(prompts.values()), settings), strict=True))
    # An engine's random numbers depend on the place in the call, which a rerun would change.
    return {
        key: generate_each(engine, [prompt], replace(settings, seed=_seed(settings.seed, key, turn)))[0]
        for key, prompt in prompts.items()
    }


def _seed(seed: int, key: str, turn: int) -> int:
    return int(sha256_json([seed, key, turn])[:8], 16)


def _written(generation: Generation) -> int:
    """Tokens of an answer; where a server does not tell them, its words."""
    return len(generation.token_ids) or len(generation.text.split())


def answers_fingerprint(target: Target, settings: RunSettings) -> dict[str, Any]:
    """What a target's answers depend on beside the prompt."""
    return {
        "run_version": RUN_VERSION,
        "target": target.name,
        "target_revision": target.revision,
        "generation": {**asdict(settings.generation), "stop": list(settings.generation.stop)},
    }
