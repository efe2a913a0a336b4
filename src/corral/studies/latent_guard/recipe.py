"""The recipe: read every prompt once, fit centres for every seed, make the claims, and keep the centres that ship."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from typing import Any, Final

from corral.core.evidence import Claim
from corral.core.progress import milestone
from corral.core.runs import Run
from corral.studies.claims import tell, write_evidence
from corral.studies.drawing import keep_account, source_files
from corral.studies.latent_guard.compliance import robust_to_compliance_tuning
from corral.studies.latent_guard.experiment import Experiment
from corral.studies.latent_guard.jailbreaks import jailbreak_table
from corral.studies.latent_guard.matched_pairs import beats_bag_of_words_on_matched_pairs
from corral.studies.latent_guard.readings import StudyReadings
from corral.studies.latent_guard.rows import draw_pools
from corral.studies.latent_guard.separation import harm_vs_refusal_separate
from corral.studies.latent_guard.settings import REFUSER, ClaimId, LatentGuardConfig
from corral.studies.latent_guard.steering import steering_moves_refusal
from corral.studies.latent_guard.tiny_refuser import train_tiny_refuser

_FINDERS: Final[Mapping[ClaimId, Callable[[Experiment], Claim]]] = {
    "harm_vs_refusal_separate": harm_vs_refusal_separate,
    "beats_bag_of_words_on_matched_pairs": beats_bag_of_words_on_matched_pairs,
    "robust_to_compliance_tuning": robust_to_compliance_tuning,
    "jailbreak_table": jailbreak_table,
    "steering_moves_refusal": steering_moves_refusal,
}


class LatentGuardRecipe:
    """Reads a chat model's own beliefs of harm and refusal, and tests what the paper claims of them."""

    name = "latent_guard"
    config_class = LatentGuardConfig

    def plan(self, config: LatentGuardConfig) -> list[str]:
        """What the run will do, a line a step."""
        data = "templated text (a toy)" if config.toy else f"{len(config.fit)} sources and {', '.join(config.pairs)}"
        steps = [
            f"draw prompts of {data}, and read each once with {config.model}",
            f"fit centres for seeds {', '.join(map(str, config.seeds))}; choose variant and alpha on "
            f"{config.development:.0%} of the fit groups",
        ]
        if config.claims:
            steps.append(f"test {', '.join(config.claims)}")
        return [*steps, "write artefacts/centres and artefacts/evidence.json"]

    def run(self, config: LatentGuardConfig, run: Run) -> None:
        """Do it; a second call goes on after the last whole shard.

        Raises:
            NotFoundError: a source is not in the data folder.
            MissingDependencyError: an embedded model or the training libraries are not installed.
            RunError: the data is not what it was when this run began.
        """
        for file in source_files(_sources(config)):
            run.add_input(file)
        pools = draw_pools(config)
        keep_account(run.artefacts / "rows.json", {name: pool.account for name, pool in pools.items()})
        config = _with_model(config, run)
        readings = StudyReadings(
            run, config.model, dtype=config.dtype, shard_rows=config.shard_rows, step_back=config.step_back
        )
        study = Experiment(config, run, pools, readings)
        study.save_centres()
        milestone("centres are fitted")
        claims = [tell(_FINDERS[name](study)) for name in _FINDERS if name in config.claims]
        if claims:
            write_evidence(run, config, claims)
        run.add_output(run.artefacts)
        run.report(_summary(study, claims))
        shutil.rmtree(readings.folder, ignore_errors=True)


def _sources(config: LatentGuardConfig) -> list[str]:
    if config.toy:
        return []
    named = [entry.source for entry in (*config.fit, *config.published)]
    return [*named, *config.pairs, *config.keep_clean_of]


def _with_model(config: LatentGuardConfig, run: Run) -> LatentGuardConfig:
    """Settings with ``tiny:refuser`` replaced by a tiny model that is trained now, unless it is there."""
    if config.model != REFUSER:
        return config
    folder = train_tiny_refuser(config.steering, run.path / "cells", seed=config.seed)
    return config.model_copy(update={"model": str(folder)})


def _summary(study: Experiment, claims: list[Claim]) -> dict[str, Any]:
    record = study.fitted(study.config.seeds[0]).centres.record
    return {
        "claims": [claim.model_dump(mode="json") for claim in claims],
        "centres": record.model_dump(mode="json"),
        "rows": {name: len(pool.rows) for name, pool in study.pools.items()},
    }


RECIPE: Final = LatentGuardRecipe()
