"""The Llama Guard study: a guard that reads its policy, trained small, and what that is worth (arXiv 2312.06674).

Two arms, with the augmentation and without, are trained on the same rows under several seeds. From their scores come
four claims (``policy_matters``, ``ladder``, ``one_vs_all``, ``baselines``), which go to ``artefacts/evidence.json``;
the guard of the first seed goes to ``artefacts/guard``, an ordinary model directory. Every training and every score is
kept under a hash of what it depends on, so a run that was killed goes on where it was.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from corral.core.runs import Run
from corral.studies.claims import tell, write_evidence
from corral.studies.drawing import keep_account, source_files
from corral.studies.llama_guard.baselines import small_training_beats_baselines
from corral.studies.llama_guard.experiment import Experiment, Finding
from corral.studies.llama_guard.ladder import adaptation_ladder
from corral.studies.llama_guard.one_vs_all import category_one_vs_all
from corral.studies.llama_guard.policy_matters import policy_matters
from corral.studies.llama_guard.rows import StudyRows, study_rows
from corral.studies.llama_guard.scores import ScoreStore
from corral.studies.llama_guard.settings import AUGMENTED, ClaimId, LlamaGuardConfig, StudyConfig
from corral.studies.llama_guard.trainings import TrainedModels

_MECHANISM: Final = "_mechanism"

_FINDERS: Final[Mapping[ClaimId, Callable[[Experiment], Finding]]] = {
    "augmentation_makes_policy_matter": policy_matters,
    "small_training_beats_baselines": small_training_beats_baselines,
    "category_one_vs_all": category_one_vs_all,
    "adaptation_ladder": adaptation_ladder,
}


class LlamaGuardRecipe:
    """Trains guards that judge by the policy in their prompt, and tests what the paper claims of them."""

    name = "llama_guard"
    config_class = LlamaGuardConfig

    def plan(self, config: LlamaGuardConfig) -> list[str]:
        """What the run will do, a line a step."""
        return [step for study, beside in _studies(config) for step in _plan(study, beside)] + [
            "write artefacts/evidence.json, and the augmented guard of the first seed to artefacts/guard"
        ]

    def run(self, config: LlamaGuardConfig, run: Run) -> None:
        """Train, score, and write ``evidence.json``, ``rows*.json`` and ``guard`` to the artefacts, and the report.

        Raises:
            MissingDependencyError: the training libraries are not installed.
            NotFoundError: a source is not in the data folder.
            RunError: the data is not what it was when this run began.
        """
        findings: list[Finding] = []
        report: dict[str, Any] = {}
        for study, suffix in _studies(config):
            experiment = _experiment(study, run, tried=dict(config.tried), suffix=suffix)
            findings += [_found(experiment, claim) for claim in _FINDERS if claim in study.claims]
            if not suffix:
                experiment.models.copy(experiment.arm(AUGMENTED, study.seeds[0]), run.artefacts / "guard")
            if not config.keep_models:
                experiment.models.discard_all()
            report["trainings"] = experiment.models.accounts()
        write_evidence(run, config, [finding.claim for finding in findings])
        run.add_output(run.artefacts)
        run.report({finding.claim.claim: _report(finding) for finding in findings} | report)


def _studies(config: LlamaGuardConfig) -> list[tuple[StudyConfig, str]]:
    """The main study, and the one beside it with the suffix of its claims."""
    return [(config, ""), *([(config.mechanism, _MECHANISM)] if config.mechanism else [])]


def _plan(study: StudyConfig, suffix: str) -> list[str]:
    training, ladder, seeds = study.training, study.ladder, len(study.seeds)
    data = "templated text (a toy)" if study.toy else f"{len(study.rows.mixture)} sources"
    steps = [
        f"draw rows of {len(study.policy) or 6} categories from {data}",
        f"train {len(study.arms)} arms x {seeds} seeds from {training.base}, "
        + ("all weights" if training.full else f"LoRA rank {training.rank}"),
    ]
    if "adaptation_ladder" in study.claims:
        rows = sum(max(1, round(share * ladder.train_rows)) for share in ladder.shares)
        shares = ", ".join(f"{share:.0%}" for share in ladder.shares)
        shares = ", ".join(f"{share:.0%}" for share in ladder.shares)
        steps.append(f"fine-tune on {shares} of the target x {seeds} seeds, {rows} rows a seed at most")
    return [*steps, f"score, and test {', '.join(claim + suffix for claim in study.claims)}"]


def _experiment(study: StudyConfig, run: Run, *, tried: dict[str, tuple[str, ...]], suffix: str) -> Experiment:
    named = [entry.source for entry in study.rows.mixture]
    if not study.toy:
        for file in source_files([*named, *study.rows.keep_clean_of, study.ladder.source, *study.sets]):
            run.add_input(file)
    rows = study_rows(study)
    keep_account(run.artefacts / f"rows{suffix}.json", rows.account())
    models = TrainedModels(
        run,
        dtype=study.scoring_dtype,
        tiny_layers=study.tiny_layers,
        tiny_hidden_size=study.tiny_hidden_size,
        tiny_weight_std=study.tiny_weight_std,
        tiny_words=_words(rows) if study.toy else (),
    )
    return Experiment(study, rows, models, ScoreStore(run, models, batch=study.scoring_batch), tried, suffix)


def _words(rows: StudyRows) -> list[str]:
    """Texts whose words a tiny base knows: prompts of every policy."""
    from corral.guards.prompted.turns import Turn

    shown = [*rows.train, *rows.target.train, *rows.target.test]
    policies = (rows.policy, rows.target.policy)
    return [policy.render([Turn("User", row.text)]) for row in shown for policy in policies] + ["safe", "unsafe\nS1,S2"]


def _found(experiment: Experiment, claim: ClaimId) -> Finding:
    finding = _FINDERS[claim](experiment)
    tell(finding.claim)
    return finding


def _report(finding: Finding) -> dict[str, Any]:
    return {"holds": finding.claim.holds, "ci95": finding.claim.ci95, **finding.tables}


RECIPE: Final = LlamaGuardRecipe()
