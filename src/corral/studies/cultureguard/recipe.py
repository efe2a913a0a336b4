"""The recipe: draw rows, train, judge, and write claims and report."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from corral.core.evidence import Claim
from corral.core.runs import Run
from corral.evals.tasks.moderation_sets import SETS
from corral.models.tiny import TINY
from corral.studies.claims import tell, write_evidence
from corral.studies.cultureguard.json_guard import guard_of, lora_json_guard
from corral.studies.cultureguard.language_gap import language_gap
from corral.studies.cultureguard.rows import XSAFETY, StudyRows, study_rows
from corral.studies.cultureguard.settings import ClaimId, CultureGuardConfig
from corral.studies.cultureguard.trainings import GUARD, Guards
from corral.studies.drawing import keep_account, source_files
from corral.studies.json_guards import write_tiny_base

_FINDERS: Final[Mapping[ClaimId, Callable[[Guards, StudyRows, CultureGuardConfig], Claim]]] = {
    "lora_json_guard": lora_json_guard,
    "language_gap": language_gap,
}


class CultureGuardRecipe:
    """Trains small JSON guards by LoRA, and measures guards in several languages."""

    name = "cultureguard"
    config_class = CultureGuardConfig

    def plan(self, config: CultureGuardConfig) -> list[str]:
        """What the run will do, a line a step."""
        training, languages = config.training, config.languages
        data = "templated text (a toy)" if config.toy else f"{len(config.rows.mixture)} entries"
        sets = ", ".join(f"{name} (en, {', '.join(others)})" for name, others in languages.families.items())
        steps = [f"draw rows from {data}, {config.rows.held_out:.0%} of groups held out"]
        if "lora_json_guard" in config.claims:
            steps += [
                f"learn {config.overfit.rows} rows by heart, {config.overfit.epochs} epochs",
                f"train {training.base} with seeds {', '.join(map(str, config.seeds))}, LoRA rank {training.rank} on "
                f"{', '.join(training.targets)}; read what each writes of {config.rows.test} held-out rows",
            ]
        if "language_gap" in config.claims:
            steps.append(f"measure guards on {sets}" + (" and on XSafety" if languages.attack_like else ""))
        return [*steps, f"write artefacts/{GUARD}, artefacts/evidence.json and the report"]

    def run(self, config: CultureGuardConfig, run: Run) -> None:
        """Do it; a second call goes on where the first was interrupted.

        Raises:
            MissingDependencyError: the training libraries are not installed.
            NotFoundError: a source is not in the data folder.
            RunError: the data is not what it was when this run began.
        """
        for file in _input_files(config):
            run.add_input(file)
        config = _with_base(config, run)
        rows = study_rows(config)
        keep_account(run.artefacts / "rows.json", rows.account())
        guards = Guards(run, config, rows.categories)
        claims = [tell(_FINDERS[name](guards, rows, config)) for name in config.claims]
        guards.keep(guard_of(config, rows, config.seeds[0]), run.artefacts / GUARD)
        if not config.keep_models:
            guards.discard_all()
        write_evidence(run, config, claims)
        run.add_output(run.artefacts)
        run.report(_report(claims, rows))


def _input_files(config: CultureGuardConfig) -> list[Any]:
    if config.toy:
        return []
    families = config.languages.families
    sets = [name for family, others in families.items() for name in (family, *(f"{family}_{o}" for o in others))]
    named = [entry.source for entry in config.rows.mixture]
    named += [*config.rows.keep_clean_of, *(SETS.get(name).source for name in sets)]
    return list(source_files([*named, *([XSAFETY] if config.languages.attack_like else [])]))


def _with_base(config: CultureGuardConfig, run: Run) -> CultureGuardConfig:
    """Settings with ``tiny:random`` replaced by a tiny random model that knows the words of the templated text."""
    if config.training.base != TINY:
        return config
    base = write_tiny_base(run, study_rows(config).categories, seed=config.seed)
    return config.model_copy(update={"training": config.training.model_copy(update={"base": str(base)})})


def _report(claims: list[Claim], rows: StudyRows) -> dict[str, Any]:
    return {
        "claims": {claim.claim: claim.holds for claim in claims},
        "figures": {claim.claim: claim.ours for claim in claims},
        "rows": rows.account()["parts"],
        "guard": f"artefacts/{GUARD}",
    }


RECIPE: Final = CultureGuardRecipe()
