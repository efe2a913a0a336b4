"""The recipe: ask every system the same, and write the table as JSON and Markdown with one claim about it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from corral.core.evidence import Claim
from corral.core.runs import Run
from corral.data.sources import SOURCES
from corral.models.tiny import TINY, write_tiny_llama
from corral.redteam.measures import Value, difference, refuses, succeeds
from corral.redteam.results import Item, Rate
from corral.redteam.styles import PLAIN, choose_styles
from corral.studies.claims import tell, write_evidence
from corral.studies.defences.asking import Answered, Questions, ask_systems
from corral.studies.defences.claim import Change, defence_claim
from corral.studies.defences.lines import TABLE, TABLE_TEXT, Line, table, write_table
from corral.studies.defences.settings import DefencesStudyConfig
from corral.studies.defences.systems import laid_systems, requests_of
from corral.studies.defences.trained import find_trained
from corral.studies.drawing import source_files

_TINY_CONTEXT: Final = 1024
CLAIM: Final = "defence_lowers_attack_success"


class DefencesRecipe:
    """Attacks every system with the same requests, and prints what each defence gains and costs."""

    name = "defences"
    config_class = DefencesStudyConfig

    def plan(self, config: DefencesStudyConfig) -> list[str]:
        """What the run will do, a line a step."""
        names = ", ".join(config.printed(each) for each in config.systems)
        styles, _ = choose_styles([PLAIN, *config.styles])
        return [
            f"ask in {len(styles)} styles: {names}",
            f"measure {', '.join((*config.ability, 'time'))} of each",
            f"write artefacts/{TABLE}, artefacts/{TABLE_TEXT} and artefacts/evidence.json",
        ]

    def run(self, config: DefencesStudyConfig, run: Run) -> None:
        """Do it; a second call goes on where the first was interrupted.

        Raises:
            NotFoundError: a model or a source is not there.
            MissingDependencyError: an embedded model is not installed.
        """
        config = _with_tiny(config, run)
        wanted = (*config.harmful.sources, *config.benign.sources, *config.calibration.sources)
        for file in source_files([name for name in dict.fromkeys(wanted) if name in SOURCES]):
            run.add_input(file)
        for one in config.systems:
            if one.trained is not None:
                run.add_input(find_trained(one.trained, run.root).folder)
        questions = _questions(config)
        answered = ask_systems(laid_systems(config, run.root), questions, run.path / "cells")
        lines = table(answered, questions)
        write_table(lines, run.artefacts)
        claim = tell(_claim(config, answered, questions, lines))
        write_evidence(run, config, [claim])
        run.add_output(run.artefacts)
        run.report({"claims": [claim.model_dump(mode="json")], "systems": len(lines)})


def _with_tiny(config: DefencesStudyConfig, run: Run) -> DefencesStudyConfig:
    """Settings with a tiny random model written into the run wherever one is named."""
    named = {config.base, *(model for each in config.systems for model in (each.model, each.expert))}
    if TINY not in named:
        return config
    folder = str(write_tiny_llama(run.path / "cells" / "tiny", seed=config.seed, context=_TINY_CONTEXT))

    def real(model: str | None) -> str | None:
        return folder if model == TINY else model

    systems = tuple(
        each.model_copy(update={"model": real(each.model), "expert": real(each.expert)}) for each in config.systems
    )
    return config.model_copy(update={"base": real(config.base), "systems": systems})


def _questions(config: DefencesStudyConfig) -> Questions:
    requests = [
        *requests_of(config.harmful, "harmful", config.seed),
        *requests_of(config.benign, "benign", config.seed),
    ]
    return Questions.of(config, requests, replicates=config.replicates, seed=config.seed)


def _claim(config: DefencesStudyConfig, answered: Answered, questions: Questions, lines: list[Line]) -> Claim:
    """The claimed system less the first, on the attempts that both have a label for."""
    first, claimed = config.printed(config.systems[0]), config.claimed or config.printed(config.systems[-1])
    before, after = answered.items(first), answered.items(claimed)
    settings = questions.settings("prompt")

    def less(kind: str, value: Value) -> Rate | None:
        def of(items: Sequence[Item]) -> list[Item]:
            return [item for item in items if item.kind == kind]

        return difference(of(after), of(before), value, settings, pair=lambda item: item.pair)

    return defence_claim(
        CLAIM,
        Change.of_rate(less("harmful", succeeds)),
        Change.of_rate(less("benign", refuses)),
        who=f"`{claimed}` less `{first}`; the table has every system",
        most_over_refusal=config.most_over_refusal,
        report=answered.reports[0],
        lines=lines,
        seeds=(config.seed,),
        toy=config.toy,
        tried=config.tried.get(CLAIM, ()),
    )


RECIPE: Final = DefencesRecipe()
