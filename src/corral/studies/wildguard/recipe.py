"""The recipe: draw rows, train and score every arm, put the guard around a model, and write claims and report."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from corral.core.runs import Run
from corral.data.messages import Conversation
from corral.evals.keywords import KeywordGuard
from corral.guards.prompted.exchanges import exchange_of
from corral.guards.wildguard.prompts import render
from corral.models.tiny import TINY, write_tiny_llama
from corral.studies.claims import write_evidence
from corral.studies.drawing import keep_account
from corral.studies.wildguard.evidence import all_claims
from corral.studies.wildguard.measures import Scores
from corral.studies.wildguard.moderation import moderate, read_moderator
from corral.studies.wildguard.public_sets import measure_public
from corral.studies.wildguard.report import study_report
from corral.studies.wildguard.rows import StudyRows, draw_rows
from corral.studies.wildguard.settings import WildGuardConfig
from corral.studies.wildguard.sources import input_files
from corral.studies.wildguard.templated import templated_corpus
from corral.studies.wildguard.trainings import KEYWORDS, REFUSAL_TESTS, SCORES, Cells, trainings

_TINY_CONTEXT = 1024


class WildGuardRecipe:
    """Trains three-task guards with and without adversarial rows, and measures them."""

    name = "wildguard"
    config_class = WildGuardConfig

    def plan(self, config: WildGuardConfig) -> list[str]:
        """What the run will do, a line a step."""
        arms = [*config.arms, *(("one model a task",) if config.single_tasks else ())]
        steps = [
            f"draw {len(config.mixture)} entries, {config.held_out.groups:.0%} of goals held out, clean of "
            f"{len(config.keep_clean_of)} evaluation sources; wrap {config.tactics.harmful} harmful and "
            f"{config.tactics.benign} benign prompts in tactics",
            f"train {config.training.base} with seeds {', '.join(map(str, config.seeds))}: {', '.join(arms)}",
            "score every model on held-out prompts, plain and in held-out wrappers, and on replies",
        ]
        if config.moderator is not None:
            steps.append(
                f"put the guard around {config.moderator.target}: attack success and refusal of benign prompts"
            )
        if config.public is not None:
            steps.append(f"measure it on {', '.join(config.public.sets)}")
        return [*steps, "write artefacts/guard, artefacts/evidence.json and the report"]

    def run(self, config: WildGuardConfig, run: Run) -> None:
        """Do it; a second call goes on where the first was interrupted.

        Raises:
            MissingDependencyError: the training libraries are not installed.
            RunError: the run to be continued was drawn from other rows.
        """
        for file in input_files(_sources(config)):
            run.add_input(file)
        rows = draw_rows(config)
        keep_account(run.artefacts / "rows.json", rows.account)
        self._measure(_with_base(config, run), run, rows)
        scores = Scores(run.artefacts / SCORES, config.seeds, seed=config.seed, replicates=config.replicates)
        found = None if config.moderator is None else read_moderator(run)
        claims = all_claims(scores, found, config)
        write_evidence(run, config, claims)
        run.add_output(run.artefacts)
        run.report(study_report(scores, claims, config, run))

    def _measure(self, config: WildGuardConfig, run: Run, rows: StudyRows) -> None:
        """Train and score everything, then take the guard that is shown around a model and to the public sets."""
        cells, keywords = Cells(run, config), KeywordGuard()
        for test in (name for name in REFUSAL_TESTS if name in rows.tests):
            cells.score(KEYWORDS, keywords.revision, test, rows.tests[test], KeywordGuard)
        models = list(trainings(config, rows))
        for training in models:
            cells.complete(training, rows.tests)
        shown = next(training for training in models if cells.is_shown(training))
        if config.moderator is not None:
            moderate(run, config, config.moderator, rows, lambda: cells.load(shown))
        if config.public is not None:
            measure_public(run, config, config.public, lambda: cells.load(shown))


def _sources(config: WildGuardConfig) -> Iterable[str]:
    held_out, moderator = config.held_out, config.moderator
    groups: list[Any] = [
        config.mixture,
        held_out.vanilla,
        held_out.wrapped,
        held_out.refusals,
        held_out.benign_refusals,
        held_out.stock_refusals,
        held_out.responses,
        *((moderator.harmful, moderator.benign) if moderator else ()),
    ]
    return [*(entry.source for entries in groups for entry in entries), *config.keep_clean_of]


def _with_base(config: WildGuardConfig, run: Run) -> WildGuardConfig:
    """Settings with ``tiny:random`` replaced by a tiny random model that knows the words of the templated text."""
    if config.training.base != TINY:
        return config
    shown = render(exchange_of(Conversation.exchange("", "")))
    base = write_tiny_llama(
        run.path / "base",
        seed=config.seed,
        layers=2,
        hidden_size=64,
        context=_TINY_CONTEXT,
        words_of=[*templated_corpus(), *[shown] * 2],
    )
    changed: dict[str, Any] = {"training": config.training.model_copy(update={"base": str(base)})}
    if config.moderator is not None and config.moderator.target == TINY:
        changed["moderator"] = config.moderator.model_copy(update={"target": str(base)})
    return config.model_copy(update=changed)


RECIPE = WildGuardRecipe()
