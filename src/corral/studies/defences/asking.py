"""Asking every system the same: attempts in all styles, ability, and time. A killed run goes on where it stopped."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from corral.core.progress import milestone
from corral.guards.base import Guard
from corral.models.engines.base import GenerationSettings
from corral.redteam.attempts import Target
from corral.redteam.goals import Goal, capability_goals
from corral.redteam.loading import open_attacker, open_judges, read_texts
from corral.redteam.results import Item, RedteamReport, SystemResult
from corral.redteam.runner import RunRequest, run_redteam
from corral.redteam.settings import Mode, RunSettings
from corral.redteam.styles import PLAIN, Style, choose_styles
from corral.studies.defences.costs import Measured, guard_cost, target_cost
from corral.studies.defences.settings import QuestionsConfig

_MODES: Final[tuple[Mode, ...]] = ("prompt", "response")


@dataclass(frozen=True)
class Questions:
    """What every system is asked.

    Attributes:
        goals: harmful, benign and of capability.
        styles: the plain request among them.
        judges: by name; the first is the headline.
        attacker: model that writes prompts for styles that search with one.
        guard_settings: of guards that judge, by name.
        max_new_tokens: of an answer.
        batch_size: prompts a call.
        measured: ability and time.
        replicates: resamples of an interval.
        seed: of styles and the bootstrap.
    """

    goals: Sequence[Goal]
    styles: Sequence[Style]
    judges: Sequence[str]
    max_new_tokens: int
    batch_size: int
    measured: Measured
    replicates: int
    seed: int
    attacker: str | None = None
    guard_settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @classmethod
    def of(cls, config: QuestionsConfig, requests: Sequence[Goal], *, replicates: int, seed: int) -> Questions:
        """The requests, and what the settings say of asking them."""
        return cls(
            goals=[*requests, *(capability_goals() if config.capability else ())],
            styles=choose_styles([PLAIN, *config.styles])[0],
            judges=config.judges,
            max_new_tokens=config.max_new_tokens,
            batch_size=config.batch_size,
            measured=Measured(config.ability, config.ability_limit, config.timed, seed),
            replicates=replicates,
            seed=seed,
            attacker=config.attacker,
            guard_settings=config.guard_settings,
        )

    def settings(self, mode: Mode) -> RunSettings:
        """Of a run whose guards check prompts or replies."""
        return RunSettings(
            generation=GenerationSettings(max_new_tokens=self.max_new_tokens),
            mode=mode,
            seed=self.seed,
            batch_size=self.batch_size,
            replicates=self.replicates,
        )


@dataclass(frozen=True)
class Laid:
    """A target, and the guards that are laid over its answers, each with whether it judges replies."""

    target: Target
    guards: Sequence[tuple[Guard, bool]] = ()


@dataclass(frozen=True)
class Answered:
    """Everything that was asked.

    Attributes:
        reports: of each target with its guards of prompts, and with its guards of replies where it has some.
        costs: system's name to its ability and time.
    """

    reports: tuple[RedteamReport, ...]
    costs: Mapping[str, Mapping[str, Any]]

    def systems(self) -> list[tuple[SystemResult, Sequence[Item]]]:
        """Every system once, in the order in which they were asked."""
        found: dict[str, tuple[SystemResult, Sequence[Item]]] = {}
        for report in self.reports:
            for system in report.systems:
                found.setdefault(system.name, (system, report.items[system.name]))
        return list(found.values())

    def items(self, name: str) -> Sequence[Item]:
        """Attempts on the system of that name."""
        return next(items for system, items in self.systems() if system.name == name)


def ask_systems(laid: Iterable[Laid], questions: Questions, folder: Path) -> Answered:
    """Ask every system, one target in memory at a time.

    Args:
        laid: targets with their guards; a generator keeps one in memory.
        questions: what is asked.
        folder: of the journals, which hold answers, and of what was measured.
    """
    reports: list[RedteamReport] = []
    costs: dict[str, Mapping[str, Any]] = {}
    cached = any("jailbreak_chat" in style.name for style in questions.styles)
    texts = read_texts(None, None, templates=cached)
    with (
        open_judges(questions.judges, guard_settings=questions.guard_settings) as judges,
        open_attacker(questions.attacker) as attacker,
    ):
        for each in laid:
            target = each.target
            for mode in _MODES:
                guards = [guard for guard, of_replies in each.guards if of_replies == (mode == "response")]
                if guards or mode == "prompt":
                    request = RunRequest(
                        questions.goals, questions.styles, judges, guards, texts=texts, attacker=attacker
                    )
                    settings = questions.settings(mode)
                    reports.append(run_redteam([target], request, folder / "replies", settings))
            costs[target.name] = target_cost(target, questions.measured, folder)
            for guard, of_replies in each.guards:
                cost = guard_cost(guard, "response" if of_replies else "prompt", questions.measured, folder)
                costs[f"{target.name} + {guard.name}"] = {**costs[target.name], **cost}
            milestone(f"{target.name}: answered")
    return Answered(tuple(reports), costs)
