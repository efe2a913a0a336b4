"""What the target replies, what the judge makes of it, and what a guard says: each item once, kept in journals.

Three journals stand under the output folder, each named by a hash of what its rows depend on, so that runs of other
targets, judges and guards share the folder and never each other's rows::

    replies-HASH.jsonl               target, revision, generation settings      holds texts
    judgements-JUDGE-HASH.jsonl      those, and the judge's revision
    verdicts-GUARD-HASH.jsonl        those of the replies, and the guard's revision
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from corral.core.errors import CorralError, EngineError
from corral.core.files import sha256_json
from corral.core.journal import Journal
from corral.core.progress import progress
from corral.data.examples import ModerationExample
from corral.data.messages import Conversation, Message, Target, targets_of
from corral.evals.tasks.moderator.prompts import plain_request, prompt_conversation, prompt_hash
from corral.evals.tasks.moderator.settings import TASK_VERSION, Mode, ModeratorSettings
from corral.guards.asking import ask
from corral.guards.base import Guard, Verdict
from corral.models.engines.base import Engine, Generation, GenerationSettings
from corral.models.engines.each import generate_each
from corral.redteam.judges import Judge, Outcome

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Answers:
    """The prompts with the target's replies and the judge's labels, in the order of the prompts.

    Attributes:
        prompts: (N,) harmful and benign.
        keys: (N,) what the journals call each; rows that ask the same share one.
        replies: (N,) texts; ``None`` where the target gave none.
        outcomes: (N,) labels of the replies; ``None`` without a reply.
        fingerprint: what the replies depend on.
    """

    prompts: tuple[ModerationExample, ...]
    keys: tuple[str, ...]
    replies: tuple[str | None, ...]
    outcomes: tuple[Outcome | None, ...]
    fingerprint: Row


def answer(
    target: Engine,
    prompts: Sequence[ModerationExample],
    judge: Judge,
    folder: Path | None,
    settings: ModeratorSettings,
) -> Answers:
    """Let the target reply to every prompt and the judge label every reply.

    A prompt that the target cannot answer (too long for it, refused by its server) has no reply, is not in the
    journal, and is tried again by a rerun.

    Raises:
        EngineError: the target gave no answer to a whole batch.
    """
    keys = tuple(prompt_hash(prompt) for prompt in prompts)
    by_key = dict(zip(keys, prompts, strict=True))
    fingerprint = {
        "task": "moderator",
        "task_version": TASK_VERSION,
        "target": target.name,
        "target_revision": settings.target_revision,
        "generation": {**asdict(settings.generation), "stop": list(settings.generation.stop)},
    }

    def generate(some: Sequence[str]) -> Iterable[Row]:
        found = _generate(target, {key: prompt_conversation(by_key[key]) for key in some}, settings.generation)
        return [{"key": key, "reply": made.text, "finish_reason": made.finish_reason} for key, made in found.items()]

    store = _Store(folder, settings)
    replies = store.rows("replies", fingerprint, by_key, generate)

    def label(some: Sequence[str]) -> Iterable[Row]:
        made = judge.judge_many([(plain_request(by_key[key]), replies[key]["reply"]) for key in some])
        return [{"key": key, "outcome": each.outcome.value} for key, each in zip(some, made, strict=True)]

    judged_by = {**fingerprint, "judge": judge.name, "judge_revision": judge.revision}
    outcomes = store.rows(f"judgements-{judge.name}", judged_by, replies, label)
    return Answers(
        prompts=tuple(prompts),
        keys=keys,
        replies=tuple(replies[key]["reply"] if key in replies else None for key in keys),
        outcomes=tuple(Outcome(outcomes[key]["outcome"]) if key in outcomes else None for key in keys),
        fingerprint=fingerprint,
    )


def check(
    guard: Guard, answers: Answers, mode: Mode, folder: Path | None, settings: ModeratorSettings
) -> list[tuple[Verdict, ...]]:
    """What the guard says of each item: of the prompt, of the reply in the light of the prompt, or both.

    The prompt is judged alone, as before a model is asked. A reply without text is not shown to the guard: there is
    nothing in it to hold back. Items without a reply have no verdict.

    Returns:
        (N,) verdicts in the order of ``targets_of(mode)``.
    """
    fingerprint = {**answers.fingerprint, "guard": guard.name, "guard_revision": guard.revision}
    items = zip(answers.keys, answers.prompts, answers.replies, strict=True)
    asked = {
        f"{key}:{target}": _shown(example, reply, target)
        for key, example, reply in items
        for target in targets_of(mode)
        if reply is not None and (target == "prompt" or reply.strip())
    }

    failed: dict[str, Row] = {}  # of this session alone: the next asks again

    def judge(some: Sequence[str]) -> Iterable[Row]:
        for target in targets_of(mode):
            names = [name for name in some if name.endswith(f":{target}")]
            verdicts = ask(guard, [asked[name] for name in names], target=target)
            for name, verdict in zip(names, verdicts, strict=True):
                if verdict.status.transient:
                    failed[name] = verdict.to_json()
                else:
                    yield {"key": name, **verdict.to_json()}

    found = _Store(folder, settings).rows(f"verdicts-{guard.name}", fingerprint, asked, judge) | failed
    return [
        tuple(Verdict.from_json(found[name]) for target in targets_of(mode) if (name := f"{key}:{target}") in found)
        for key in answers.keys
    ]


@dataclass(frozen=True)
class _Store:
    """Journals under a folder; without one nothing is kept."""

    folder: Path | None
    settings: ModeratorSettings

    def rows(
        self, name: str, fingerprint: Row, keys: Iterable[str], compute: Callable[[Sequence[str]], Iterable[Row]]
    ) -> dict[str, Row]:
        """Rows by key: those of the journal, and computed in batches those that it lacks."""
        wanted = list(dict.fromkeys(keys))
        if self.folder is None:
            return {row["key"]: row for some in self._batches(wanted, name) for row in compute(some)}
        path = self.folder / f"{re.sub(r'[^A-Za-z0-9_.-]', '_', name)}-{sha256_json(fingerprint)[:12]}.jsonl"
        with Journal.open(path, key="key", fingerprint=fingerprint, resume=self.settings.resume) as journal:
            missing = [key for key in wanted if key not in journal]
            for some in self._batches(missing, name):
                for row in compute(some):
                    journal.append(row)
                journal.flush()
            asked = set(wanted)
            return {row["key"]: row for row in journal.entries() if row["key"] in asked}

    def _batches(self, keys: Sequence[str], description: str) -> Iterator[Sequence[str]]:
        with progress(len(keys), description) as bar:
            for start in range(0, len(keys), self.settings.batch_size):
                some = keys[start : start + self.settings.batch_size]
                yield some
                bar.advance(len(some))


def _generate(
    target: Engine, prompts: Mapping[str, Conversation], settings: GenerationSettings
) -> dict[str, Generation]:
    """Replies by key, without the prompts that the target could not answer."""
    if settings.temperature:
        # an engine's random numbers depend on the place in the call, which a rerun would change
        answers: Sequence[Generation | CorralError] = [
            one
            for key, prompt in prompts.items()
            for one in generate_each(target, [prompt], replace(settings, seed=_seed_of(settings.seed, key)))
        ]
    else:
        answers = generate_each(target, list(prompts.values()), settings)
    failures = [each for each in answers if isinstance(each, EngineError)]
    if failures and len(failures) == len(answers):
        raise failures[0]
    return {key: answer for key, answer in zip(prompts, answers, strict=True) if not isinstance(answer, CorralError)}


def _seed_of(seed: int, key: str) -> int:
    return int(sha256_json([seed, key])[:8], 16)


def _shown(example: ModerationExample, reply: str, target: Target) -> Conversation:
    prompt = prompt_conversation(example)
    return prompt if target == "prompt" else Conversation((*prompt.messages, Message.of("assistant", reply)))
