"""Running the moderator task: answers once, each guard over them, and the report."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import combinations
from pathlib import Path
from typing import Final

from corral.core.errors import DataError, UserError
from corral.core.files import sha256_json
from corral.data.examples import ModerationExample
from corral.data.sources import SOURCES
from corral.evals.tasks.moderator.answers import Answers, answer, check
from corral.evals.tasks.moderator.measures import Deliveries, change, compare, rates, slices
from corral.evals.tasks.moderator.prompts import prompt_hash
from corral.evals.tasks.moderator.results import ItemLog, ModeratorReport, ModeratorResult
from corral.evals.tasks.moderator.settings import TASK_VERSION, Mode, ModeratorSettings
from corral.guards.base import Guard, Status, Verdict
from corral.guards.policy import Action, Policy
from corral.models.engines.base import Engine
from corral.redteam.judges import Judge, Outcome

MAX_LEFT_OUT: Final = 0.05
NO_GUARD: Final = "none"
_DELIVERED: Final = (Action.ALLOW, Action.FLAG)


@dataclass(frozen=True)
class _Guarded:
    """One guard's result and the deliveries it rests on."""

    result: ModeratorResult
    deliveries: Deliveries


def run_moderator(
    target: Engine,
    guard: Guard | None,
    prompts: Sequence[ModerationExample],
    judge: Judge,
    *,
    mode: Mode = "both",
    journal: Path | None = None,
    settings: ModeratorSettings | None = None,
) -> ModeratorResult:
    """ASR and RTA of a target with one guard in front of it, and without.

    Args:
        target: answers the prompts.
        guard: checks them and the answers; ``None`` delivers everything.
        prompts: harmful and benign ones, told apart by ``harmful``; from ``load_prompts``.
        judge: labels the target's replies; a delivered refusal needs no judge.
        mode: what the guard checks.
        journal: folder of what was answered, judged and checked, which a rerun continues; ``None`` keeps nothing.
        settings: see there.

    Raises:
        DataError: no prompts, or one whose ``harmful`` is unknown.
        EngineError: the target cannot answer.
    """
    chosen = settings or ModeratorSettings()
    answers = answer(target, _labelled(prompts), judge, journal, chosen)
    return _guarded(guard, answers, mode, journal, chosen).result


def compare_guards(
    target: Engine,
    guards: Iterable[Guard],
    prompts: Sequence[ModerationExample],
    judge: Judge,
    *,
    mode: Mode = "both",
    journal: Path | None = None,
    settings: ModeratorSettings | None = None,
    show_content: bool = False,
    on_guard: Callable[[ModeratorResult], None] | None = None,
) -> ModeratorReport:
    """Several guards in front of one target, on the same replies, and against each other.

    Args:
        guards: taken one after the other, so a generator keeps one in memory.
        show_content: put prompts and replies into the items.
        on_guard: called with each result as soon as it is there.

    Other arguments and errors as for ``run_moderator``.

    Raises:
        UserError: two guards have the same name.
    """
    chosen = settings or ModeratorSettings()
    answers = answer(target, _labelled(prompts), judge, journal, chosen)
    found: list[_Guarded] = []
    for guard in guards:
        each = _guarded(guard, answers, mode, journal, chosen, show_content=show_content)
        if any(each.result.guard == other.result.guard for other in found):
            raise UserError(f"two guards are named `{each.result.guard}`", hint="Measure them in runs of their own.")
        found.append(each)
        if on_guard is not None:
            on_guard(each.result)
    return _report(target, judge, answers, found, chosen)


def _guarded(
    guard: Guard | None,
    answers: Answers,
    mode: Mode,
    folder: Path | None,
    settings: ModeratorSettings,
    *,
    show_content: bool = False,
) -> _Guarded:
    verdicts = [()] * len(answers.keys) if guard is None else check(guard, answers, mode, folder, settings)
    replaced = [is_replaced(each, settings.policy) for each in verdicts]
    delivered = Deliveries.of(answers, replaced)
    result = ModeratorResult(
        guard=NO_GUARD if guard is None else guard.name,
        revision="" if guard is None else guard.revision,
        mode=mode,
        undefended=rates(delivered.undefended(), settings),
        defended=rates(delivered, settings),
        change=change(delivered, settings),
        no_verdict=sum(any(one.status is not Status.OK for one in each) for each in verdicts),
        slices=tuple(slices(delivered, settings)),
        items=tuple(_items(answers, replaced, verdicts, show_content=show_content)),
    )
    return _Guarded(result, delivered)


def is_replaced(verdicts: Sequence[Verdict], policy: Policy) -> bool:
    """Whether a refusal is delivered: the policy blocks, or leaves to a person, one of the checked messages."""
    return any(policy.decide([verdict]).action not in _DELIVERED for verdict in verdicts)


def _items(
    answers: Answers, replaced: Sequence[bool], verdicts: Sequence[Sequence[Verdict]], *, show_content: bool
) -> Iterator[ItemLog]:
    for i, example in enumerate(answers.prompts):
        outcome, reply = answers.outcomes[i], answers.replies[i]
        yield ItemLog(
            id=f"{example.source}/{example.id}",
            harmful=bool(example.harmful),
            outcome=None if outcome is None else outcome.value,
            replaced=replaced[i],
            verdicts={one.target: _said(one) for one in verdicts[i]},
            texts={"prompt": example.text, "reply": reply or ""} if show_content else None,
        )


def _said(verdict: Verdict) -> str:
    if verdict.flagged is None:
        return verdict.status.value
    return "flagged" if verdict.flagged else "not flagged"


def _report(
    target: Engine, judge: Judge, answers: Answers, found: Sequence[_Guarded], settings: ModeratorSettings
) -> ModeratorReport:
    undefended = Deliveries.of(answers, [False] * len(answers.keys))
    unanswered = answers.outcomes.count(None)
    unjudged = answers.outcomes.count(Outcome.UNPARSED)
    harmful = sum(example.harmful is True for example in answers.prompts)
    return ModeratorReport(
        task_version=TASK_VERSION,
        corral_version=version("corral"),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        machine=f"{platform.system()} {platform.machine()}",
        settings={
            **asdict(settings.generation),
            "stop": list(settings.generation.stop),
            "bootstrap_seed": settings.seed,
            "replicates": settings.replicates,
        },
        target=target.name,
        target_revision=settings.target_revision,
        judge=judge.name,
        judge_revision=judge.revision,
        policy=settings.policy.id,
        policy_hash=settings.policy.hash,
        rows_sha256=_rows_hash(answers.prompts),
        harmful=harmful,
        benign=len(answers.prompts) - harmful,
        unanswered=unanswered,
        unjudged=unjudged,
        empty=answers.outcomes.count(Outcome.EMPTY),
        valid=unanswered + unjudged <= MAX_LEFT_OUT * len(answers.prompts),
        undefended=rates(undefended, settings),
        guards=tuple(each.result for each in found),
        comparisons=tuple(
            compare(a.result.guard, a.deliveries, b.result.guard, b.deliveries, settings)
            for a, b in combinations(found, 2)
        ),
        caveats=tuple(_caveats(answers.prompts, judge)),
    )


def _labelled(prompts: Sequence[ModerationExample]) -> Sequence[ModerationExample]:
    if not prompts:
        raise DataError("no prompts were given", hint="Give harmful prompts, benign prompts, or both.")
    for prompt in prompts:
        if prompt.harmful is None:
            raise DataError("`harmful` is unknown", where=f"{prompt.source}/{prompt.id}")
    return prompts


def _rows_hash(prompts: Sequence[ModerationExample]) -> str:
    return sha256_json([[prompt_hash(prompt), prompt.harmful] for prompt in prompts])


def _caveats(prompts: Sequence[ModerationExample], judge: Judge) -> Iterator[str]:
    if judge.name == "prefix-list":
        yield (
            "A list of phrases judged the replies: what opens without one counts as compliance, babble included, so "
            "attack success is overstated."
        )
    for source in dict.fromkeys(prompt.source for prompt in prompts):
        if source in SOURCES and SOURCES.get(source).trainable:
            yield f"Guards may have been trained on `{source}`."
