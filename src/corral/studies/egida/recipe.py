"""The recipe: draw, expand and split, mine pairs, train on them, score, attack, and make the claims."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from corral.core.files import atomic_write_json, atomic_write_text
from corral.core.progress import milestone
from corral.core.runs import Run
from corral.data.sources import SOURCES
from corral.models.tiny import TINY, write_tiny_llama
from corral.redteam.agreement import JudgedReplies, judge_labelled
from corral.redteam.egida.chosen import ChosenKind
from corral.redteam.egida.pairs import Pair
from corral.redteam.egida.shortcut import style_shortcut
from corral.redteam.labelled import LabelledSet, labelled_set
from corral.redteam.loading import open_judges
from corral.redteam.styles import choose_styles
from corral.studies.claims import tell, write_evidence
from corral.studies.drawing import keep_account, source_files
from corral.studies.egida.evidence import Findings, all_claims
from corral.studies.egida.instances import Drawn, draw_instances, source_names
from corral.studies.egida.measures import BEFORE, Scores, attack_models, score_pairs
from corral.studies.egida.pareto import Point, measure_front
from corral.studies.egida.pareto_page import front_page
from corral.studies.egida.settings import STAND_IN, AgreementConfig, EgidaConfig
from corral.studies.egida.stand_ins import StandInJudge, stand_in_replies
from corral.studies.egida.trainings import mine_sides, pairs_that_fit, train_pairs

FRONT: Final = "pareto.json"
FRONT_PAGE: Final = "pareto.html"
_TINY_CONTEXT: Final = 2048


class EgidaRecipe:
    """Trains a chat model to prefer safe answers over its own unsafe ones, and tests what that carries over to."""

    name = "egida"
    config_class = EgidaConfig

    def plan(self, config: EgidaConfig) -> list[str]:
        """What the run will do, a line a step."""
        styles, _ = choose_styles(config.requests.styles)
        asked = config.requests
        steps = [
            f"draw {asked.limit} requests of {', '.join(asked.sources)}, put each in {len(styles)} styles; hold out "
            f"{', '.join(asked.held_out_styles)} and topics {', '.join(asked.held_out_topics) or 'by cluster only'}",
            f"let {config.target} answer, judge with {config.mining.judge}, take up to {config.mining.pairs} pairs for "
            f"each of {', '.join(config.chosen)}",
            f"train on them for seeds {', '.join(map(str, config.seeds))}, and score held-out pairs",
        ]
        if config.attack is not None:
            steps.append(f"attack target and trained models with {config.attack.requests} held-out requests")
        if config.pareto is not None:
            rates, sizes = config.pareto.learning_rates, config.pareto.pairs
            steps.append(
                f"train and attack at {len(rates)} learning rates with {', '.join(map(str, sizes)) or 'all'} pairs, "
                "write artefacts/pareto.html"
            )
        if config.agreement is not None:
            steps.append(f"measure {', '.join(config.agreement.judges)} against people")
        return [*steps, "write artefacts/evidence.json"]

    def run(self, config: EgidaConfig, run: Run) -> None:
        """Do it; a second call goes on after the last answer, checkpoint or score.

        Raises:
            NotFoundError: a source is not in the data folder.
            MissingDependencyError: an embedded model or the training libraries are not installed.
            DataError: too few pairs, or a leak between the sides of the split.
            RunError: the data is not what it was when this run began.
        """
        for file in source_files(name for name in source_names(config) if name in SOURCES):
            run.add_input(file)
        config = _with_target(config, run)
        drawn = draw_instances(config)
        keep_account(run.artefacts / "instances.json", drawn.account)
        milestone(f"{len(drawn.split.train)} instances to train on, {len(drawn.split.tested)} to test")
        sides = mine_sides(config, drawn, run)
        models = train_pairs(config, sides, run)
        test_pairs = {kind: pairs_that_fit(sides[kind].test.pairs, config) for kind in models}
        before = {kind: score_pairs(f"{BEFORE}-{kind}", None, pairs, config, run) for kind, pairs in test_pairs.items()}
        after: dict[ChosenKind, dict[ChosenKind, dict[int, Scores]]] = {
            kind: {
                on: {
                    seed: score_pairs(f"{kind}-{seed}-on-{on}", folder, pairs, config, run)
                    for seed, folder in folders.items()
                }
                for on, pairs in test_pairs.items()
            }
            for kind, folders in models.items()
        }
        found = Findings(
            config,
            drawn,
            sides,
            test_pairs,
            before,
            after,
            {kind: style_shortcut(mined.train.pairs, seed=config.seed) for kind, mined in sides.items()},
            [] if config.agreement is None else _judged(config, config.agreement, run),
            None
            if config.attack is None
            else attack_models(config.attack, _headline(models, config), drawn, config, run),
            _front(config, sides[config.chosen[0]].train.pairs, drawn, run),
            _training_hours(config, run),
        )
        for kind, shortcut in found.shortcuts.items():
            if shortcut.alarm:
                milestone(f"alarm: a bag of words tells the sides of `{kind}` apart, AUROC {shortcut.auroc.value:.2f}")
        claims = [tell(claim) for claim in all_claims(found)]
        write_evidence(run, config, claims)
        run.add_output(run.artefacts)
        run.report(_summary(found, claims))


def _headline(models: Mapping[ChosenKind, Mapping[int, Path]], config: EgidaConfig) -> dict[str, Path]:
    """Models of the headline source, each named by its seed."""
    return {str(seed): folder for seed, folder in models[config.chosen[0]].items()}


def _training_hours(config: EgidaConfig, run: Run) -> float | None:
    """Of one training of the headline source, as the run's log has them; none of those that were there already."""
    names = {f"{config.chosen[0]}-{seed}" for seed in config.seeds}
    took = [each["seconds"] for each in run.logged() if each.get("cell") == "training" and each["name"] in names]
    return sum(took) / len(took) / 3600 if took else None


def _front(config: EgidaConfig, pairs: Sequence[Pair], drawn: Drawn, run: Run) -> tuple[Point, ...]:
    """The front, if it is asked for, and its report among the artefacts."""
    points = measure_front(pairs, drawn, config, run)
    if points and config.attack is not None:
        atomic_write_json(run.artefacts / FRONT, [point.to_json() for point in points])
        text = front_page(points, judge=config.attack.judges[0], target=config.target)
        atomic_write_text(run.artefacts / FRONT_PAGE, text)
    return points


def _with_target(config: EgidaConfig, run: Run) -> EgidaConfig:
    """Settings with ``tiny:random`` replaced by a tiny random model."""
    if config.target != TINY:
        return config
    folder = run.path / "cells" / "random"
    write_tiny_llama(folder, seed=config.seed, layers=2, context=_TINY_CONTEXT, weight_std=0.1)
    return config.model_copy(update={"target": str(folder)})


def _judged(config: EgidaConfig, asked: AgreementConfig, run: Run) -> list[JudgedReplies]:
    """What each judge says of each labelled set."""
    found: list[JudgedReplies] = []
    sets = [_labelled(name) for name in asked.sets]
    for name, limit in asked.judges.items():
        if name == STAND_IN:
            found += [judge_labelled(StandInJudge(), one) for one in sets]
            continue
        with open_judges([name], guard_settings=config.guard_settings) as judges:
            found += [
                judge_labelled(judges[0], one, limit=limit, seed=config.seed, folder=run.path / "cells" / "judges")
                for one in sets
            ]
        milestone(f"{name}: measured against people")
    return found


def _labelled(name: str) -> LabelledSet:
    if name != STAND_IN:
        return labelled_set(name)
    return LabelledSet(STAND_IN, "success", "made up", lambda _: iter(stand_in_replies()), STAND_IN)


def _summary(found: Findings, claims: list[Any]) -> dict[str, Any]:
    return {
        "claims": {claim.claim: claim.holds for claim in claims},
        "instances": found.drawn.account,
        "pairs": {kind: len(mined.train.pairs) for kind, mined in found.sides.items()},
        "costs": {kind: dict(mined.train.costs) for kind, mined in found.sides.items()},
    }


RECIPE: Final = EgidaRecipe()
