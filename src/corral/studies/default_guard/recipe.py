"""The default guard's recipe: draw the mixture, train, calibrate on held-out rows, write the guard's folder.

The mixture is in ``recipes/default_guard/*.yaml``. Only ``train_and_ship`` rows are drawn, none whose prompt occurs in
an evaluation set, none that shares a long run of words with one. Held-out rows (whole groups of the same mixture) are
the development split, named in the calibration; no evaluation set is read for anything but leaving its texts out.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from corral.core.files import atomic_directory, atomic_write_json, read_json
from corral.core.runs import Run
from corral.guards.calibration import Calibration
from corral.guards.default.guard import GUARD_FILE, HEAD_WEIGHTS, GuardSettings, TrainedGuard, guard_weights_revision
from corral.guards.default.network import GuardNetwork, category_codes
from corral.models.loading import weights_revision
from corral.models.tiny import TINY, write_tiny_llama
from corral.studies.default_guard.calibration import calibrate, development_scores, score_rows
from corral.studies.default_guard.refit import (
    ACCOUNT,
    REFIT_SPLIT,
    HeadRefit,
    RefitRows,
    add_calibration,
    made_before,
    refit_guard,
    refit_rows,
)
from corral.studies.default_guard.rows import StageRows, account, kept_clean_of, left_in, sources_of, stage_rows
from corral.studies.default_guard.settings import DefaultGuardConfig
from corral.studies.drawing import keep_account, source_files
from corral.studies.training import training_module
from corral.train.guard.classifier_settings import GuardTrainingConfig


class DefaultGuardRecipe:
    """Trains the guard that is used when the user names none."""

    name = "default_guard"
    config_class = DefaultGuardConfig

    def plan(self, config: DefaultGuardConfig) -> list[str]:
        """What the run will do, a line a step."""
        refits = [step for refit in config.refit for step in self._plan_refit(refit)]
        if config.refit and config.refit[0].start_from is not None:
            return refits
        training = config.training
        steps = []
        if not config.further or training.start_from is None:
            steps = [
                f"draw {len(config.mixture)} entries, clean of {len(config.keep_clean_of)} evaluation sources",
                f"train layers {training.first_trained_layer} to {training.layers} of {training.base} with LoRA rank "
                f"{training.rank} and heads, {training.epochs} epoch(s)",
            ]
        for stage in config.further if training.start_from is None else config.further[-1:]:
            steps += [
                f"draw {stage.share:.0%} of the mixture anew and {len(stage.mixture)} further entries",
                f"go on from {training.start_from or 'these weights'}",
            ]
        return [
            *steps,
            f"calibrate on {config.held_out:.0%} held-out groups and write artefacts/guard",
            *refits,
        ]

    def _plan_refit(self, refit: HeadRefit) -> list[str]:
        return [
            f"draw {len(refit.mixture)} entries and read them with the trunk of {refit.start_from or 'these weights'}",
            f"train the heads {', '.join(refit.heads)} anew, {refit.training.epochs} epoch(s), nothing else",
            f"calibrate these on {refit.held_out:.0%} held-out groups and write artefacts/guard",
        ]

    def run(self, config: DefaultGuardConfig, run: Run) -> None:
        """Train and write ``artefacts/guard``, ``artefacts/mixture.json`` and the report.

        Raises:
            MissingDependencyError: the training libraries are not installed.
            RunError: the run to be continued was drawn from other rows.
        """
        training_module("guard.classifier")
        config = _with_base(config, run)
        for file in source_files(sources_of(config)):
            run.add_input(file)
        folder = run.artefacts / "guard"
        measured = _refit(config, run, folder) if config.refit else _train(config, run, folder)
        run.add_output(run.artefacts)
        run.report({**measured, "revision": guard_weights_revision(folder)})


def _train(
    config: DefaultGuardConfig, run: Run, folder: Path, *, refits: Sequence[Mapping[str, Any]] = ()
) -> dict[str, Any]:
    """Train and calibrate all stages and write the guard to ``folder``; what the report says of it.

    Args:
        config: settings.
        run: that is under way.
        folder: of the guard.
        refits: account of the rows of each refit that follows.
    """
    before = [stage_rows(config.up_to(stage)) for stage in range(len(config.further))]
    rows = stage_rows(config)
    accounts = [*(each.account for each in before), rows.account | {"left_in": left_in(rows.drawn, config)}]
    keep_account(run.artefacts / ACCOUNT, {"stages": accounts} | ({"refits": list(refits)} if refits else {}))
    config = _stages_before(config, before, run)
    write_guard(folder, _trained(rows, config, run.checkpoints, run), config)
    scores, labels = score_rows(TrainedGuard.load(weights=folder), rows.held_out)
    write_calibration(folder, calibrate(scores, labels, max_fpr=config.max_fpr))
    return {"development": development_scores(scores, labels)}


def _refit(config: DefaultGuardConfig, run: Run, folder: Path) -> dict[str, Any]:
    """Train chosen heads anew, of the guard of this run or of another, and calibrate them and no other."""
    first = config.refit[0]
    before = made_before(first.start_from) if first.start_from else None
    drawn = [refit_rows(refit, keep_clean_of=kept_clean_of(config), seed=config.seed) for refit in config.refit]
    accounts = [_refit_account(refit, rows, config) for refit, rows in zip(config.refit, drawn, strict=True)]
    measured: dict[str, Any] = {}
    if before is None:
        start = run.artefacts / "trained"
        measured = _train(config, run, start, refits=accounts)
    else:
        start, stages = before
        keep_account(run.artefacts / ACCOUNT, {"stages": stages, "refits": accounts})
    found: dict[str, Any] = {}
    for number, (refit, rows) in enumerate(zip(config.refit, drawn, strict=True), start=1):
        found |= _refit_once(refit, rows, start, folder, config=config, run=run, work=run.path / f"refit-{number}")
        start = folder
    return {**measured, "refit": found}


def _refit_once(
    refit: HeadRefit,
    rows: RefitRows,
    start: Path,
    folder: Path,
    *,
    config: DefaultGuardConfig,
    run: Run,
    work: Path,
) -> dict[str, Any]:
    """One refit of the guard in ``start``, written to ``folder``; how its heads do on rows that it held out."""
    refit_guard(start, folder, rows.training, refit, encoding=config.training, run=run, work=work)
    as_replies = "response_harm" in refit.heads
    scores, labels = score_rows(TrainedGuard.load(weights=folder), rows.held_out, as_replies=as_replies)
    add_calibration(folder, calibrate(scores, labels, max_fpr=config.max_fpr, split=REFIT_SPLIT), refit.outputs)
    shutil.rmtree(work)  # hundreds of megabytes that a finished run has no use for
    found = development_scores(scores, labels)
    return {score: found[score] for score in refit.outputs if score in found}


def _refit_account(refit: HeadRefit, rows: RefitRows, config: DefaultGuardConfig) -> dict[str, Any]:
    return account(rows.mixture, len(rows.training), len(rows.held_out)) | {
        "heads": list(refit.heads),
        "left_in": left_in(rows.mixture.rows, config),
    }


def _stages_before(config: DefaultGuardConfig, rows: Sequence[StageRows], run: Run) -> DefaultGuardConfig:
    """Train all stages but the last, those whose weights are not there; settings that go on from them."""
    for stage, of_stage in enumerate(rows if config.training.start_from is None else ()):
        folder = run.artefacts / f"stage-{stage + 1}"
        if not folder.is_dir():
            settings, checkpoints = config.up_to(stage), run.path / f"checkpoints-{stage + 1}"
            write_guard(folder, _trained(of_stage, settings, checkpoints, run), settings)
            shutil.rmtree(checkpoints, ignore_errors=True)
        config = config.model_copy(update={"training": config.training.model_copy(update={"start_from": folder})})
    return config


def _trained(rows: StageRows, config: DefaultGuardConfig, checkpoints: Path, run: Run) -> GuardNetwork:
    """The network after the last stage, averaged with what it began with where the stage says so."""
    classifier = training_module("guard.classifier")
    network: GuardNetwork = classifier.train_guard(rows.training, _stage_settings(config), checkpoints, run=run)
    if config.last is not None and config.last.trained_share < 1:
        classifier.average_with(network, config.training.start_from, config.last.trained_share)
    return network


def _stage_settings(config: DefaultGuardConfig) -> GuardTrainingConfig:
    """How the last stage is trained."""
    if config.last is None:
        return config.training
    return config.training.model_copy(update={"learning_rate": config.last.learning_rate})


def _with_base(config: DefaultGuardConfig, run: Run) -> DefaultGuardConfig:
    """Settings with ``tiny:random`` replaced by a tiny random model in the run directory."""
    if config.training.base != TINY:
        return config
    base = write_tiny_llama(run.path / "base", seed=config.seed)
    return config.model_copy(update={"training": config.training.model_copy(update={"base": str(base)})})


def write_guard(folder: Path, network: GuardNetwork, config: DefaultGuardConfig) -> None:
    """The guard's folder, not calibrated yet: adapter in peft's format in bf16, heads in float32, settings as JSON."""
    import torch
    from safetensors.torch import save_file

    training = config.training
    settings = GuardSettings(
        base=training.base,
        base_revision=weights_revision(training.base),
        layers=training.layers,
        categories=category_codes(),
        window=config.window,
        overlap=config.overlap,
        min_context=training.max_context_tokens,
        unreported=config.unreported,
    )
    with atomic_directory(folder, replace=True) as staged:
        training_module("lora").write_adapter(network.backbone, staged, base=training.base, dtype=torch.bfloat16)
        save_file({k: v.contiguous() for k, v in network.heads.state_dict().items()}, staged / HEAD_WEIGHTS)
        atomic_write_json(staged / GUARD_FILE, settings.model_dump(mode="json"))


def write_calibration(folder: Path, calibration: Mapping[str, Calibration]) -> None:
    """Put the calibration into the settings of the guard in ``folder``."""
    fitted = {name: each.model_dump(mode="json") for name, each in calibration.items()}
    atomic_write_json(folder / GUARD_FILE, {**read_json(folder / GUARD_FILE), "calibration": fitted})


RECIPE: Final = DefaultGuardRecipe()
