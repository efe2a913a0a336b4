"""Attack success of the arms, a secondary figure: what a judge makes of answers that a small model babbles."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from corral.core.runs import Run
from corral.models.engines.base import GenerationSettings
from corral.redteam.attempts import Target
from corral.redteam.goals import capability_goals, load_goals
from corral.redteam.loading import open_attacker, open_judges, read_texts
from corral.redteam.runner import RunRequest, run_redteam
from corral.redteam.settings import RunSettings
from corral.redteam.styles import choose_styles
from corral.studies.derta.settings import DertaStudyConfig
from corral.studies.trained_models import open_trained, revision_of


def attack_success(
    config: DertaStudyConfig, models: Sequence[tuple[str, int, str, Path | None]], run: Run
) -> dict[str, Any]:
    """By arm and style: attack success with its interval by every judge, and the share of capability questions right.

    The models of the first seed only. Answers stay in the run's ``cells``.

    Raises:
        NotFoundError: a source of goals is not in the data folder.
    """
    asked = config.attacks
    if asked is None:
        raise ValueError("the settings ask for no attacks")
    styles, unavailable = choose_styles(asked.styles)
    harmful = load_goals(asked.goals, limit=asked.limit, seed=config.seed, no_sex_or_minors=True).goals
    goals = [*harmful, *capability_goals()]
    settings = RunSettings(
        generation=GenerationSettings(max_new_tokens=asked.max_new_tokens),
        seed=config.seed,
        replicates=config.replicates,
    )
    texts = read_texts(None, None, templates=any(style.needs.user_data for style in styles))
    with (
        open_judges(asked.judges, guard_settings=config.guard_settings) as judges,
        open_attacker(asked.attacker, asked.attacker_server) as attacker,
    ):
        request = RunRequest(goals, styles, judges, texts=texts, attacker=attacker)
        report = run_redteam(_targets(config, models), request, run.path / "cells" / "attacks", settings)
    return {
        "judges": list(report.judges),
        "unavailable": unavailable,
        "arms": {
            system.name: {
                cell.style or "all but plain": {
                    "asr": {judge: rate.model_dump(mode="json") for judge, rate in cell.asr_by_judge.items()},
                    "understood": cell.understood.model_dump(mode="json"),
                    "not_applicable": dict(cell.not_applicable),
                }
                for cell in system.cells
                if not cell.category
            }
            for system in report.systems
        },
    }


def _targets(config: DertaStudyConfig, models: Sequence[tuple[str, int, str, Path | None]]) -> Iterator[Target]:
    for arm, seed, base, folder in models:
        if seed == config.seeds[0]:
            engine = open_trained(base, folder, name=arm, dtype=config.dtype)
            yield Target(engine, arm, revision_of(base, folder, config.dtype))
