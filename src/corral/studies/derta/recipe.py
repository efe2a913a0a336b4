"""The recipe: draw rows, train every arm for every seed, probe every model, make the claims."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from corral.core.progress import milestone
from corral.core.runs import Run
from corral.studies.claims import tell, write_evidence
from corral.studies.derta.attacks import attack_success
from corral.studies.derta.evidence import Findings, all_claims
from corral.studies.derta.measures import Measured, measure
from corral.studies.derta.rows import draw_rows
from corral.studies.derta.settings import DertaStudyConfig
from corral.studies.derta.trainings import Trainings
from corral.studies.drawing import keep_account, source_files


class DertaRecipe:
    """Trains a chat model to turn to refusal anywhere in an answer, beside arms that lack a part of the method."""

    name = "derta"
    config_class = DertaStudyConfig

    def plan(self, config: DertaStudyConfig) -> list[str]:
        """What the run will do, a line a step."""
        rows, seeds = config.rows, ", ".join(map(str, config.seeds))
        data = "an invented language (a toy)" if config.toy else f"{len(rows.harmful)} and {len(rows.helpful)} sources"
        return [
            f"draw {rows.triples} triples and {rows.help} help rows of {data}, and {rows.probes} held-out probes",
            f"train {config.base} as {', '.join(config.arms)} for seeds {seeds}",
            "read log P(refusal) after shares of held-out answers, let each model go on after forced tokens",
            *(["measure attack success of the first seed's models"] if config.attacks else []),
            "write artefacts/evidence.json",
        ]

    def run(self, config: DertaStudyConfig, run: Run) -> None:
        """Do it; a second call goes on after the last checkpoint or measured model.

        Raises:
            NotFoundError: a source is not in the data folder.
            MissingDependencyError: an embedded model or the training libraries are not installed.
            RunError: the data is not what it was when this run began.
        """
        for file in source_files(_sources(config)):
            run.add_input(file)
        rows = draw_rows(config)
        keep_account(run.artefacts / "rows.json", rows.account)
        milestone(f"drawn {len(rows.triples)} triples, {len(rows.helps)} help rows, {len(rows.harmful)} probes")
        models = Trainings(config, rows, run).all()
        found: dict[str, dict[int, Measured]] = {}
        for arm, seed, base, folder in models:
            found.setdefault(arm, {})[seed] = measure(f"{arm}-{seed}", base, folder, rows=rows, config=config, run=run)
        attacks = None if config.attacks is None else attack_success(config, models, run)
        claims = [tell(claim) for claim in all_claims(Findings(config, rows, found, attacks))]
        write_evidence(run, config, claims)
        run.add_output(run.artefacts)
        run.report(_summary(found, claims, rows.account))


def _sources(config: DertaStudyConfig) -> Iterator[str]:
    if config.toy:
        return
    for entry in (*config.rows.harmful, *config.rows.helpful):
        yield entry.source
    yield from (*config.rows.keep_clean_of, config.rows.held_out, *config.probing.lookalikes)
    if config.attacks is not None:
        yield from config.attacks.goals


def _summary(found: dict[str, dict[int, Measured]], claims: list[Any], account: dict[str, Any]) -> dict[str, Any]:
    token = next(iter(next(iter(found.values())).values())).token
    return {
        "claims": {claim.claim: claim.holds for claim in claims},
        "refusal_token": token.to_json(),
        "rows": account,
    }


RECIPE: Final = DertaRecipe()
