"""The runner: styles over goals against systems, judged, guarded and counted.

A system is a target with one guard in front of it, or none. The target answers each attempt once; judges and guards
are laid over the same answers, so that all differences are paired. Benign goals go through the same styles (refusal
under attack), and so do harmless questions with known answers (does the target understand the style at all?).
"""

from __future__ import annotations

import platform
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from corral.core.errors import DataError, UserError
from corral.core.files import sha256_json
from corral.guards.base import Guard, Status, Verdict
from corral.redteam.answers import MAX_FAILED, Answers, answer, answers_fingerprint
from corral.redteam.attempts import Attempt, Target, UserTexts, attempts_on
from corral.redteam.defences import flagged, guarded, judged, replaced
from corral.redteam.goals import Goal, LoadedGoals
from corral.redteam.judges import Judge, Outcome
from corral.redteam.measures import cell, disagreements
from corral.redteam.results import NO_GUARD, Cell, Item, RedteamReport, SystemResult
from corral.redteam.settings import RUN_VERSION, RunSettings
from corral.redteam.store import Store
from corral.redteam.styles import PLAIN, NotApplicable, Style
from corral.redteam.styles.search import Attacker, SearchTools


@dataclass(frozen=True)
class RunRequest:
    """What a run is asked for.

    Attributes:
        goals: harmful ones, benign ones that go through the same styles, and questions of capability.
        styles: at least one; begin with ``plain`` to have something to compare with.
        judges: at least one, the first of which is the headline.
        guards: each is laid over every target's answers.
        texts: what styles may draw on beside their own wording.
        loaded: what the loader left out, for the record.
        unavailable: styles of a preset that are not there.
        show_content: put prompts and answers into the report.
        attacker: the model that writes prompts for styles that search with one.
    """

    goals: Sequence[Goal]
    styles: Sequence[Style]
    judges: Sequence[Judge]
    guards: Sequence[Guard] = ()
    texts: UserTexts | None = None
    loaded: LoadedGoals | None = None
    unavailable: Mapping[str, str] | None = None
    show_content: bool = False
    attacker: Attacker | None = None


def run_redteam(
    targets: Iterable[Target], request: RunRequest, folder: Path, settings: RunSettings | None = None
) -> RedteamReport:
    """Attack every target and report on every system.

    Args:
        targets: taken one after the other, so a generator keeps one in memory.
        request: what to attack with and how to judge it.
        folder: of the journals, which a rerun continues.
        settings: see there.

    Raises:
        UserError: no goals, styles or judges, or two systems of one name.
        ConfigError: a chain of styles that conflict.
    """
    chosen = settings or RunSettings()
    _check(request)
    store = Store(folder, chosen.batch_size, chosen.resume)
    systems: list[SystemResult] = []
    items: dict[str, tuple[Item, ...]] = {}
    for target in targets:
        for system, found in _attacked(target, request, store, chosen):
            if system.name in items:
                raise UserError(f"two systems are named `{system.name}`", hint="Give each target another name.")
            systems.append(system)
            items[system.name] = found
    return _report(request, systems, items, chosen)


def _check(request: RunRequest) -> None:
    for what, given in (("goals", request.goals), ("styles", request.styles), ("judges", request.judges)):
        if not given:
            raise UserError(f"no {what} were given")
    ids = [goal.id for goal in request.goals]
    if len(set(ids)) < len(ids):
        twice = next(each for each in ids if ids.count(each) > 1)
        raise DataError(f"two goals have the id `{twice}`", hint="Ids name the goals that two systems share.")


def _attacked(
    target: Target, request: RunRequest, store: Store, settings: RunSettings
) -> Iterator[tuple[SystemResult, tuple[Item, ...]]]:
    attempts = attempts_on(
        target,
        request.goals,
        request.styles,
        restarts=settings.restarts,
        seed=settings.seed,
        answer_tokens=settings.generation.max_new_tokens,
        texts=request.texts,
        search=_search_tools(target, request, store, settings),
    )
    answers = answer(target, attempts, store, settings)
    labels = {judge.name: judged(judge, answers, store) for judge in request.judges}
    made = _Made(target, attempts, answers, labels, request, settings)
    yield made.result(None, {})
    for guard in request.guards:
        yield made.result(guard, guarded(guard, answers, store, settings))


def _search_tools(target: Target, request: RunRequest, store: Store, settings: RunSettings) -> SearchTools | None:
    """What styles that search work with, ``None`` where there are none."""
    if not any(style.needs.search for style in request.styles):
        return None
    judge, attacker, seconds = request.judges[0], request.attacker, settings.budget.seconds
    depends_on = {
        **answers_fingerprint(target, settings),
        "judge": judge.name,
        "judge_revision": judge.revision,
        "attacker": None if attacker is None else [attacker.engine.name, attacker.revision],
    }
    return SearchTools(
        engine=target.engine,
        judge=judge,
        store=store,
        depends_on=depends_on,
        attacker=attacker,
        generation=settings.generation,
        wrappers=() if request.texts is None else request.texts.wrappers,
        retries=settings.retries,
        until=None if seconds is None else time.monotonic() + seconds,
    )


@dataclass(frozen=True)
class _Made:
    """One target's attempts, answers and labels."""

    target: Target
    attempts: Sequence[Attempt]
    answers: Answers
    labels: Mapping[str, Mapping[str, Outcome]]
    request: RunRequest
    settings: RunSettings

    def result(
        self, guard: Guard | None, verdicts: Mapping[str, Sequence[Verdict]]
    ) -> tuple[SystemResult, tuple[Item, ...]]:
        """The system of this target and a guard."""
        items = tuple(self._item(attempt, verdicts.get(attempt.key, ())) for attempt in self.attempts)
        planned = sum(not isinstance(attempt.prompt, NotApplicable) for attempt in self.attempts)
        failed = sum(self.answers.failed.values())
        system = SystemResult(
            target=self.target.name,
            target_revision=self.target.revision,
            guard=NO_GUARD if guard is None else guard.name,
            guard_revision="" if guard is None else guard.revision,
            cells=tuple(_cells(items, self.settings, guarded=guard is not None)),
            answered=len(self.answers.rows),
            failed=self.answers.failed,
            not_run=self.answers.not_run,
            stopped=self.answers.stopped,
            no_verdict=sum(any(each.status is not Status.OK for each in some) for some in verdicts.values()),
            disagreements=disagreements(items),
            tokens=sum(row["tokens"] for row in self.answers.rows.values()),
            valid=failed <= MAX_FAILED * planned,
        )
        return system, items

    def _item(self, attempt: Attempt, verdicts: Sequence[Verdict]) -> Item:
        row = self.answers.rows.get(attempt.key)
        outcomes = {judge: found[attempt.key].value for judge, found in self.labels.items() if attempt.key in found}
        texts = None
        if row is not None and self.request.show_content:
            texts = {"prompt": row["turns"][-1][-1]["content"], "answer": row["answer"]}
        return Item(
            pair=attempt.pair_key,
            key=attempt.key,
            style=attempt.style,
            style_id=attempt.style_id,
            goal=attempt.goal.id,
            cluster=attempt.goal.cluster,
            category=attempt.goal.category,
            kind=attempt.goal.kind,
            restart=attempt.restart,
            outcome=outcomes.get(self.request.judges[0].name),
            outcomes=outcomes,
            replaced=replaced(verdicts, self.settings),
            flagged=flagged(verdicts),
            understood=None if row is None else understood(attempt.goal, row["decoded"]),
            reason=self._reason(attempt),
            texts=texts,
        )

    def _reason(self, attempt: Attempt) -> str | None:
        if isinstance(attempt.prompt, NotApplicable):
            return attempt.prompt.reason
        return self.answers.unfit.get(attempt.key)


def understood(goal: Goal, answer: str | None) -> bool | None:
    """Whether a question of capability is answered rightly; ``None`` for other goals.

    An answer in a code that it is not in was not understood.
    """
    if goal.kind != "capability":
        return None
    words = set(re.findall(r"\w+", (answer or "").casefold()))
    return not words.isdisjoint(goal.expects)


def _cells(items: Sequence[Item], settings: RunSettings, *, guarded: bool) -> Iterator[Cell]:
    """By style, by style and category, by category over all styles, and all together."""
    plain = [item for item in items if item.style == PLAIN]
    styles = list(dict.fromkeys(item.style for item in items))
    categories = ["", *sorted({item.category for item in items if item.kind == "harmful" and item.category})]
    wrapped = [item for item in items if item.style != PLAIN]
    for style, chosen in [*((style, [i for i in items if i.style == style]) for style in styles), ("", wrapped)]:
        for category in categories:
            some = [item for item in chosen if category in ("", item.category)]
            if some and (style or len(styles) > 1):
                bare = [item for item in plain if category in ("", item.category)]
                yield cell(some, bare, style=style, category=category, settings=settings, guarded=guarded)


def _report(
    request: RunRequest,
    systems: Sequence[SystemResult],
    items: Mapping[str, tuple[Item, ...]],
    settings: RunSettings,
) -> RedteamReport:
    loaded = request.loaded or LoadedGoals(tuple(request.goals))
    kinds = [goal.kind for goal in request.goals]
    return RedteamReport(
        run_version=RUN_VERSION,
        corral_version=version("corral"),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        machine=f"{platform.system()} {platform.machine()}",
        settings={
            "generation": {**asdict(settings.generation), "stop": list(settings.generation.stop)},
            "restarts": settings.restarts,
            "seed": settings.seed,
            "policy": settings.policy.id,
            "policy_hash": settings.policy.hash,
            "mode": settings.mode,
            "replicates": settings.replicates,
        },
        goals_sha256=sha256_json(sorted([goal.kind, goal.text] for goal in request.goals)),
        goals={kind: kinds.count(kind) for kind in dict.fromkeys(kinds)},
        licences={goal.source: goal.licence for goal in request.goals},
        repeated_goals=loaded.repeated,
        left_out_goals=loaded.left_out,
        styles={style.name: style.id for style in request.styles},
        unavailable=dict(request.unavailable or {}),
        judges={judge.name: judge.revision for judge in request.judges},
        systems=tuple(systems),
        items=dict(items),
        valid=all(system.valid for system in systems),
        caveats=tuple(_caveats(request)),
    )


def _caveats(request: RunRequest) -> Iterator[str]:
    if request.judges[0].name == "prefix-list":
        yield (
            "A list of phrases judged the answers: what opens without one counts as compliance, babble included, so "
            "attack success is overstated."
        )
    if any(style.needs.search for style in request.styles):
        yield (
            f"Styles that search aimed at the judge `{request.judges[0].name}` or at an affirmative opening: what they "
            "found fits this judge better than another."
        )
    if not any(goal.kind == "benign" for goal in request.goals):
        yield "No benign goals went through the styles: refusal of everything would look like a defence."
    if not any(goal.kind == "capability" for goal in request.goals):
        yield "No question of capability: a style that the target does not understand looks like one that it resists."
