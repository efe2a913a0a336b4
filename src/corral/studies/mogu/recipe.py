"""The recipe: draw instructions, train a mixture for every seed, test the claims, and keep the first mixture."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from typing import Any, Final

from corral.core.errors import NotFoundError
from corral.core.evidence import Claim
from corral.core.files import atomic_directory, atomic_write_json, read_json
from corral.core.progress import milestone
from corral.core.runs import Run
from corral.models.routing.record import RECORD, RoutingRecord, stored_base
from corral.studies.claims import tell, write_evidence
from corral.studies.drawing import keep_account, source_files
from corral.studies.mogu.gates import gates_separate_malicious
from corral.studies.mogu.identity import identity_tests
from corral.studies.mogu.rows import account_of_file, draw_instructions, source_names
from corral.studies.mogu.settings import COMPLIER, ClaimId, MoguStudyConfig
from corral.studies.mogu.table import defence_table
from corral.studies.mogu.tiny_base import train_tiny_complier
from corral.studies.mogu.trainings import STAGES, Trainings

ROWS: Final = "rows.json"
MODEL: Final = "model"


_FINDERS: Final[Mapping[ClaimId, Callable[[Trainings], Claim]]] = {
    "gates_separate_malicious": gates_separate_malicious,
    "defence_table": defence_table,
    "identity_tests": identity_tests,
}


class MoguRecipe:
    """Gates a chat model between a reluctant variant and itself, and compares it with other defences."""

    name = "mogu"
    config_class = MoguStudyConfig

    def plan(self, config: MoguStudyConfig) -> list[str]:
        """What the run will do, a line a step."""
        asked = config.prompts
        source = f"the pairs of {asked.pairs}" if asked.pairs else "templated text (a toy)" if config.toy else "sources"
        steps = [
            f"draw {asked.train} + {asked.validation} instructions of each kind from {source} for seeds "
            f"{', '.join(map(str, config.seeds))}",
            f"train on {config.base}: eager expert ({config.training.glad.mode}), reluctant expert, routers; take the "
            "best checkpoint of each",
        ]
        if "defence_table" in config.claims:
            steps.append(
                f"ask base, mixtures and {len(config.defences.defences) + len(config.defences.filters)} baselines in "
                f"{len(config.defences.styles) + 1} styles"
            )
        if config.claims:
            steps.append(f"test {', '.join(config.claims)}")
        return [*steps, f"write artefacts/{MODEL} and artefacts/evidence.json"]

    def run(self, config: MoguStudyConfig, run: Run) -> None:
        """Do it; a second call goes on where the first was interrupted.

        Raises:
            NotFoundError: a source or the user's file is not there.
            MissingDependencyError: the training libraries or an embedded model are not installed.
            RunError: the rows are not what they were when this run began.
        """
        config = _with_base(config, run)
        for file in source_files(source_names(config)):
            run.add_input(file)
        instructions = None
        if config.prompts.pairs is None:
            instructions = draw_instructions(config)
        elif not config.prompts.pairs.is_file():
            raise NotFoundError("there is no such file", where=str(config.prompts.pairs))
        else:
            run.add_input(config.prompts.pairs)
        account = instructions.account if instructions is not None else account_of_file(config)
        keep_account(run.artefacts / ROWS, account)
        trainings = Trainings(config, run, instructions)
        for seed in config.seeds:
            trainings.mixture(seed)
        claims = [tell(_FINDERS[name](trainings)) for name in _FINDERS if name in config.claims]
        _keep_model(trainings)
        if claims:
            write_evidence(run, config, claims)
        run.add_output(run.artefacts)
        run.report(_summary(trainings, claims, account))


def _with_base(config: MoguStudyConfig, run: Run) -> MoguStudyConfig:
    """Settings with ``tiny:complier`` replaced by a tiny model that is trained now, unless it is there."""
    if config.base != COMPLIER:
        return config
    folder = train_tiny_complier(run.path / "cells", seed=config.seed)
    return config.model_copy(update={"base": str(folder)})


def _keep_model(trainings: Trainings) -> None:
    """Copy the mixture of the first seed to the artefacts; its base is found from there too."""
    source, kept = trainings.mixture(trainings.config.seeds[0]), trainings.run.artefacts / MODEL
    if kept.is_dir():
        return
    record = RoutingRecord.read(source)
    with atomic_directory(kept) as staged:
        for part in source.iterdir():
            shutil.copy2(part, staged / part.name)
        moved = record.model_copy(update={"base": stored_base(record.base_reference(source), kept)})
        atomic_write_json(staged / RECORD, moved.model_dump(mode="json"))
    milestone(f"the mixture of seed {trainings.config.seeds[0]} is in {kept}")


def _summary(trainings: Trainings, claims: list[Claim], account: Mapping[str, Any]) -> dict[str, Any]:
    stages = {}
    for seed in trainings.config.seeds:
        path = trainings.run.artefacts / STAGES.format(seed=seed)
        stages[str(seed)] = read_json(path) if path.is_file() else None
    return {
        "claims": [claim.model_dump(mode="json") for claim in claims],
        "stages": stages,
        "rows": dict(account),
        "model": MODEL,
    }


RECIPE: Final = MoguRecipe()
