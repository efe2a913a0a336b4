"""The recipe: draw rows, train both losses and the generative guard, judge, time, and write claims and report."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from corral.core.evidence import Claim
from corral.core.runs import Run
from corral.evals.tasks.moderation_sets import SETS
from corral.guards.cultureguard.prompts import CategoryList
from corral.guards.duoguard import TAXONOMY
from corral.models.tiny import TINY
from corral.studies.claims import tell, write_evidence
from corral.studies.drawing import keep_account, source_files
from corral.studies.duoguard.losses import log_sum_exp_vs_bce
from corral.studies.duoguard.rows import StudyRows, study_rows
from corral.studies.duoguard.settings import ClaimId, DuoGuardConfig
from corral.studies.duoguard.speed import multi_label_head_vs_generative_speed
from corral.studies.duoguard.trainings import GUARD, Guards
from corral.studies.json_guards import write_tiny_base

_FINDERS: Final[Mapping[ClaimId, Callable[[Guards, StudyRows, DuoGuardConfig], Claim]]] = {
    "log_sum_exp_vs_bce": log_sum_exp_vs_bce,
    "multi_label_head_vs_generative_speed": multi_label_head_vs_generative_speed,
}


class DuoGuardRecipe:
    """Trains twelve-category classifiers under two losses, and sets one beside a guard that writes its answer."""

    name = "duoguard"
    config_class = DuoGuardConfig

    def plan(self, config: DuoGuardConfig) -> list[str]:
        """What the run will do, a line a step."""
        data = "templated text (a toy)" if config.toy else f"{len(config.rows.mixture)} entries"
        seeds = ", ".join(map(str, config.seeds))
        steps = [f"draw rows from {data}, {config.rows.held_out:.0%} of groups held out"]
        if "log_sum_exp_vs_bce" in config.claims:
            steps.append(
                f"train classifiers on {config.training.base} with log-sum-exp and with cross entropy, seeds {seeds}; "
                f"score {', '.join(['held-out rows', *config.sets])}"
            )
        if "multi_label_head_vs_generative_speed" in config.claims:
            steps.append(
                f"train a guard that writes its answer on the same rows; time both on {config.speed.rows} prompts"
            )
        return [*steps, f"write artefacts/{GUARD}, artefacts/evidence.json and the report"]

    def run(self, config: DuoGuardConfig, run: Run) -> None:
        """Do it; a second call goes on where the first was interrupted.

        Raises:
            MissingDependencyError: the training libraries are not installed.
            NotFoundError: a source is not in the data folder.
            RunError: the data is not what it was when this run began.
        """
        for file in _input_files(config):
            run.add_input(file)
        rows = study_rows(config)
        keep_account(run.artefacts / "rows.json", rows.account())
        config = _with_base(config, run)
        guards = Guards(run, config, rows)
        claims = [tell(_FINDERS[name](guards, rows, config)) for name in config.claims]
        guards.keep(config.seeds[0], run.artefacts / GUARD)
        if not config.keep_models:
            guards.discard_all()
        write_evidence(run, config, claims)
        run.add_output(run.artefacts)
        run.report(
            {
                "claims": {claim.claim: claim.holds for claim in claims},
                "figures": {claim.claim: claim.ours for claim in claims},
                "rows": rows.account()["parts"],
                "guard": f"artefacts/{GUARD}",
            }
        )


def _input_files(config: DuoGuardConfig) -> list[Path]:
    if config.toy:
        return []
    named = [entry.source for entry in config.rows.mixture]
    return list(source_files([*named, *config.rows.keep_clean_of, *(SETS.get(name).source for name in config.sets)]))


def _with_base(config: DuoGuardConfig, run: Run) -> DuoGuardConfig:
    """Settings with ``tiny:random`` replaced by a tiny random model that knows the words of the templated text."""
    if config.training.base != TINY:
        return config
    base = write_tiny_base(run, CategoryList.of(TAXONOMY), seed=config.seed)
    changed: dict[str, Any] = {"training": config.training.model_copy(update={"base": str(base)})}
    if config.generative.base == TINY:
        changed["generative"] = config.generative.model_copy(update={"base": str(base)})
    return config.model_copy(update=changed)


RECIPE: Final = DuoGuardRecipe()
