"""The recipe: attack, judge, guard with and without decoding, measure the judges, and write claims and report."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Final, Literal

from corral.core.evidence import Claim
from corral.core.progress import milestone
from corral.core.runs import Run
from corral.data.sources import SOURCES
from corral.guards.base import Guard
from corral.guards.deobfuscate import DeobfuscatingGuard
from corral.guards.loading import load_guard
from corral.models.engines.base import GenerationSettings
from corral.redteam.agreement import Agreement, measure_agreement
from corral.redteam.attempts import Target, UserTexts
from corral.redteam.goals import LoadedGoals, capability_goals, load_goals
from corral.redteam.judges import Judge, PrefixListJudge
from corral.redteam.labelled import POSITIVE, LabelledReply, labelled_set
from corral.redteam.loading import open_attacker, open_engine, open_judges
from corral.redteam.report import write_report
from corral.redteam.results import RedteamReport
from corral.redteam.runner import RunRequest, run_redteam
from corral.redteam.settings import RunSettings
from corral.redteam.styles import choose_styles
from corral.redteam.styles.cached import load_templates
from corral.studies.claims import write_evidence
from corral.studies.drawing import source_files
from corral.studies.redteam_styles.evidence import REFUSAL_SET, SUCCESS_SET, judge_agreement, styles_matrix
from corral.studies.redteam_styles.settings import STAND_IN, AgreementConfig, GoalsConfig, RedteamStylesConfig
from corral.studies.redteam_styles.stand_ins import stand_in_goals, stand_in_guard, stand_in_target

MATRIX_FOLDER: Final = "matrix"
JUDGES_FOLDER: Final = "judges"


class RedteamStylesRecipe:
    """Runs the matrix of styles over a guarded model, and measures judges against people."""

    name = "redteam_styles"
    config_class = RedteamStylesConfig

    def plan(self, config: RedteamStylesConfig) -> list[str]:
        """What the run will do, a line a step."""
        styles, unavailable = choose_styles([*config.styles, *config.encodings])
        unasked = [style.name for style in styles if style.needs.attacker and config.attacker is None]
        without = f" (without {', '.join(unavailable)})" if unavailable else ""
        steps = [
            f"draw goals from {', '.join(config.harmful.sources)} and benign ones from "
            f"{', '.join(config.benign.sources) or 'nowhere'}",
            f"ask {config.target} in {len(styles)} styles{without}, {config.restarts} time(s); judge with "
            f"{', '.join(config.judges)}",
            f"lay {config.guard} over the answers, with and without decoding",
        ]
        if unasked:
            steps.append(f"count {', '.join(unasked)} as not applicable: no `attacker` is set that writes its prompts")
        if config.agreement is not None:
            judges = ", ".join(config.agreement.judges)
            steps.append(f"measure {judges} against people on {', '.join(config.agreement.sets)}")
        return [*steps, "write artefacts/evidence.json, artefacts/matrix and the report"]

    def run(self, config: RedteamStylesConfig, run: Run) -> None:
        """Do it; a second call goes on where the first was interrupted.

        Raises:
            NotFoundError: a source that is not in the data folder.
            MissingDependencyError: the embedded model is not installed.
        """
        for file in source_files(_sources(config)):
            run.add_input(file)
        report = _attack(config, run)
        claims = [styles_matrix(report, config)]
        if config.agreement is not None:
            claims.append(_agreement(config, config.agreement, run))
        write_evidence(run, config, claims)
        run.add_output(run.artefacts)
        run.report(_summary(report, claims))


def _attack(config: RedteamStylesConfig, run: Run) -> RedteamReport:
    loaded = _goals(config, config.harmful, "harmful")
    benign = _goals(config, config.benign, "benign").goals if config.benign.sources else ()
    styles, unavailable = choose_styles([*config.styles, *config.encodings])
    settings = RunSettings(
        generation=GenerationSettings(
            max_new_tokens=config.max_new_tokens, temperature=config.temperature, seed=config.seed
        ),
        restarts=config.restarts,
        seed=config.seed,
        batch_size=config.batch_size,
        replicates=config.replicates,
    )
    folder = run.artefacts / MATRIX_FOLDER
    guard = _guard(config)
    with (
        _target(config) as target,
        _judges(config, config.judges) as judges,
        open_attacker(config.attacker, config.attacker_server) as attacker,
    ):
        request = RunRequest(
            [*loaded.goals, *benign, *(capability_goals() if config.capability else ())],
            styles,
            judges,
            [guard, DeobfuscatingGuard(guard)],
            UserTexts(templates=load_templates() if "jailbreak_chat" in [style.name for style in styles] else ()),
            loaded,
            unavailable,
            attacker=attacker,
        )
        report = run_redteam([target], request, folder, settings)
    write_report(report, folder)
    milestone(f"matrix: {report.systems[0].answered} answers in {len(styles)} styles")
    return report


def _agreement(config: RedteamStylesConfig, settings: AgreementConfig, run: Run) -> Claim:
    found: list[Agreement] = []
    folder = run.artefacts / JUDGES_FOLDER
    for name, limit in settings.judges.items():
        with _judges(config, [name]) as judges:
            for labelled in map(labelled_set, settings.sets):
                found += measure_agreement(
                    judges[0],
                    labelled,
                    limit=limit,
                    seed=config.seed,
                    replicates=config.replicates,
                    folder=folder,
                )
                milestone(f"{name} on {labelled.name}: measured")
    judge = PrefixListJudge()
    return judge_agreement(found, {name: _said(judge, name) for name in (REFUSAL_SET, SUCCESS_SET)}, config)


def _said(judge: Judge, name: str) -> Sequence[tuple[LabelledReply, bool]]:
    """The replies of a set, each with whether the judge says what the set asks about."""
    labelled = labelled_set(name)
    replies = list(labelled.read(None))
    outcomes = judge.judge_many([(each.request, each.reply) for each in replies])
    positive = POSITIVE[labelled.question]
    return [(each, judged.outcome is positive) for each, judged in zip(replies, outcomes, strict=True)]


def _goals(config: RedteamStylesConfig, wanted: GoalsConfig, kind: Literal["harmful", "benign"]) -> LoadedGoals:
    if wanted.sources == (STAND_IN,):
        goals = [goal for goal in stand_in_goals() if goal.kind == kind]
        return LoadedGoals(tuple(goals[: wanted.limit]))
    return load_goals(wanted.sources, kind=kind, limit=wanted.limit, seed=config.seed, leave_out=config.leave_out)


@contextmanager
def _target(config: RedteamStylesConfig) -> Iterator[Target]:
    if config.target == STAND_IN:
        yield Target(stand_in_target(), STAND_IN, "1")
        return
    with open_engine(config.target, config.server, dtype=config.dtype) as (engine, revision):
        yield Target(engine, config.target, revision)


def _judges(config: RedteamStylesConfig, names: Sequence[str]) -> AbstractContextManager[list[Judge]]:
    return open_judges(
        names, model=config.judge_model, server=config.judge_server, guard_settings=config.guard_settings
    )


def _guard(config: RedteamStylesConfig) -> Guard:
    if config.guard == STAND_IN:
        return stand_in_guard()
    return load_guard(config.guard, **config.guard_settings.get(config.guard, {}))


def _sources(config: RedteamStylesConfig) -> list[str]:
    labelled = [] if config.agreement is None else [labelled_set(name).source for name in config.agreement.sets]
    named = [*config.harmful.sources, *config.benign.sources, *labelled]
    return [name for name in dict.fromkeys(named) if name in SOURCES]


def _summary(report: RedteamReport, claims: Sequence[Claim]) -> dict[str, object]:
    return {
        "claims": [claim.model_dump(mode="json") for claim in claims],
        "systems": [system.name for system in report.systems],
        "valid": report.valid,
        "styles": dict(report.styles),
        "judges": dict(report.judges),
    }


RECIPE: Final = RedteamStylesRecipe()
