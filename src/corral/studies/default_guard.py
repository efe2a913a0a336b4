"""The default guard's recipe: draw the mixture, train, calibrate on held-out rows, write the guard's folder.

The mixture is in ``recipes/default_guard/*.yaml``. Only ``train_and_ship`` rows are drawn, none whose prompt occurs in
an evaluation set, none that shares a long run of words with one. Held-out rows (whole groups of the same mixture) are
the development split, named in the calibration; no evaluation set is read for anything but leaving its texts out.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from pydantic import Field, field_validator

from corral.core.config import Config
from corral.core.errors import ConfigError, MetricError, NotFoundError
from corral.core.files import atomic_directory, atomic_write_json, read_json, sha256_json
from corral.core.metrics import auroc, average_precision
from corral.core.progress import progress
from corral.core.runs import Run
from corral.data.decontamination import EvaluationIndex
from corral.data.examples import ModerationExample, example_to_json
from corral.data.messages import TARGETS, Conversation
from corral.data.mixture import Mixture, MixtureEntry
from corral.data.sources import SOURCES, load_source
from corral.data.splits import group_fraction, split_by_group
from corral.guards.calibration import Calibration, fit_calibration
from corral.guards.default.guard import GUARD_FILE, HEAD_WEIGHTS, GuardSettings, TrainedGuard, guard_weights_revision
from corral.guards.default.network import BINARY_HEADS, GuardNetwork, category_codes
from corral.models.loading import weights_revision
from corral.models.tiny import TINY, write_tiny_llama
from corral.studies.attack_rows import AttackRowsConfig, attack_rows
from corral.studies.drawing import asked_texts, draw_held_out, draw_mixture, keep_account, source_files
from corral.studies.guard_refit import (
    ACCOUNT,
    REFIT_SPLIT,
    HeadRefit,
    RefitRows,
    add_calibration,
    made_before,
    refit_guard,
    refit_rows,
)
from corral.studies.training import training_module
from corral.train.guard.classifier_labels import binary_labels, category_labels
from corral.train.guard.classifier_settings import GuardTrainingConfig

DEVELOPMENT_SPLIT: Final = "held-out groups of the training mixture"
BENIGN: Final = "benign_"
"""What the names of sources of harmless prompts begin with."""
_MEASURED_SHARE: Final = 0.25
_SCORED_AT_ONCE: Final = 128
_NEUTRAL_PROMPT: Final = "Go on."
_LEAST_POSITIVES: Final = 30  # a category with fewer on the development split keeps its natural boundary


class FurtherStage(Config):
    """Training that goes on from the stage before, on a new draw of the mixture and rows beside it.

    Groups that one stage held out stay held out, so calibration sees rows that no stage has learnt from.
    """

    share: float = Field(0.25, gt=0, le=1, description="share of the first stage's mixture that is drawn anew")
    mixture: tuple[MixtureEntry, ...] = Field((), description="rows beside it, all of them")
    keep_clean_of: tuple[str, ...] = Field((), description="as in the first stage; empty: as in the stage before")
    attacks: AttackRowsConfig | None = Field(None, description="rows asked again in attack styles; null: none")
    learning_rate: float = Field(5e-4, gt=0, description="peak")
    trained_share: float = Field(
        1.0, gt=0, le=1, description="of its weights in the average with those of the stage before; 1: none (WiSE-FT)"
    )
    draw_seed: int = Field(1, description="of the draw; the split keeps the recipe's seed")


class DefaultGuardConfig(Config):
    """Settings of the recipe."""

    training: GuardTrainingConfig = Field(default_factory=GuardTrainingConfig)
    mixture: tuple[MixtureEntry, ...]
    share: float = Field(1.0, gt=0, le=1, description="share of the mixture that is drawn, the same of every entry")
    keep_clean_of: tuple[str, ...] = Field((), description="evaluation sources whose texts are left out of training")
    further: tuple[FurtherStage, ...] = Field(
        (), description="trainings that go on from there; with `training.start_from`, only the last is done, from there"
    )
    refit: tuple[HeadRefit, ...] = Field(
        (), description="heads trained anew on the trunk of the last stage, one refit after the other, or a single one"
    )
    unreported: tuple[str, ...] = Field(
        (), description="qualified codes of categories that the guard has an output for and that no verdict names"
    )
    held_out: float = Field(0.04, gt=0, lt=1, description="share of groups for calibration")
    max_fpr: Mapping[str, float] = Field(
        default_factory=dict, description="largest false-positive rate on the development split at 0.5, by head"
    )
    window: int = Field(384, ge=32)
    overlap: int = Field(96, ge=0)
    seed: int = 0

    @field_validator("refit", mode="before")
    @classmethod
    def _one_or_several(cls, refit: object) -> object:
        return () if refit is None else (refit,) if isinstance(refit, Mapping) else refit

    @field_validator("refit")
    @classmethod
    def _first_may_start(cls, refit: tuple[HeadRefit, ...]) -> tuple[HeadRefit, ...]:
        if any(each.start_from is not None for each in refit[1:]):
            raise ValueError("a refit goes on from the one before; only the first has `start_from`")
        return refit

    @property
    def last(self) -> FurtherStage | None:
        """The last stage; ``None`` where the first is the only one."""
        return self.further[-1] if self.further else None

    def up_to(self, stage: int) -> DefaultGuardConfig:
        """Settings whose last stage is that one; 0 is the first."""
        return self.model_copy(update={"further": self.further[:stage]})


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
        for file in source_files(_sources(config)):
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
    drawn = [refit_rows(refit, keep_clean_of=_clean_of(config), seed=config.seed) for refit in config.refit]
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


def _sources(config: DefaultGuardConfig) -> list[str]:
    refitted = [entry for refit in config.refit for entry in refit.mixture]
    entries = [*config.mixture, *(entry for stage in config.further for entry in stage.mixture), *refitted]
    clean = [*config.keep_clean_of, *(name for stage in config.further for name in stage.keep_clean_of)]
    return [*(entry.source for entry in entries), *clean]


@dataclass(frozen=True)
class StageRows:
    """What a stage learns from and what is held out of it.

    Attributes:
        drawn: rows of its mixture.
        training: those that are learnt, with rows in attack styles.
        held_out: those that calibrate.
        account: of all, for the card.
    """

    drawn: list[ModerationExample]
    training: list[ModerationExample]
    held_out: list[ModerationExample]
    account: dict[str, Any]


def stage_rows(config: DefaultGuardConfig) -> StageRows:
    """Rows of the last stage."""
    mixture = draw(config)
    kept, held = split_by_group(mixture.rows, held_out=config.held_out, seed=config.seed)
    attacks = config.last.attacks if config.last else None
    styled = list(attack_rows(kept, attacks, seed=config.seed)) if attacks else []
    calibrating = list({id(row): row for row in held}.values())  # a copy tells nothing new
    return StageRows(
        mixture.rows,
        [*kept, *styled],
        calibrating,
        account(mixture, len(kept), len(calibrating)) | {"styled_rows": len(styled)},
    )


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


def draw(config: DefaultGuardConfig) -> Mixture:
    """The rows of the last stage's mixture.

    Raises:
        ConfigError: an entry names a source whose licence does not let weights ship.
    """
    stage = config.last
    if stage is None:
        return draw_mixture(config.mixture, keep_clean_of=config.keep_clean_of, seed=config.seed, share=config.share)
    clean = _clean_of(config)
    anew = draw_mixture(config.mixture, keep_clean_of=clean, seed=stage.draw_seed, share=stage.share)
    beside = draw_mixture(stage.mixture, keep_clean_of=clean, seed=stage.draw_seed) if stage.mixture else Mixture()
    return Mixture([*anew.rows, *beside.rows], [*anew.counts, *beside.counts])


def _clean_of(config: DefaultGuardConfig) -> tuple[str, ...]:
    """Evaluation sources that the last stage is kept clean of."""
    named = [stage.keep_clean_of for stage in config.further if stage.keep_clean_of]
    return named[-1] if named else config.keep_clean_of


def development_rows(config: DefaultGuardConfig, *, at_most: int) -> list[ModerationExample]:
    """Rows of the mixture's sources that no training on these settings sees, at most so many an entry."""
    return draw_held_out(
        [*config.mixture, *(entry for stage in config.further for entry in stage.mixture)],
        keep_clean_of=_clean_of(config),
        held_out=config.held_out,
        seed=config.seed,
        at_most=at_most,
    )


def calibration_rows(config: DefaultGuardConfig, *, at_most: int) -> list[ModerationExample]:
    """``development_rows`` with a label of harm, without the prompts that ``held_out_benign`` measures."""
    return [
        row
        for row in development_rows(config, at_most=at_most)
        if row.harmful is not None and not _measures(row, config)
    ]


def held_out_benign(config: DefaultGuardConfig, *, at_most: int) -> list[ModerationExample]:
    """Harmless prompts of the mixture's benign sources that no training on these settings sees.

    A share of the held-out groups, which ``calibration_rows`` has not. Those of the last stage's own draw are among
    the rows that calibrated the trained guard.

    Args:
        config: as the weights were made.
        at_most: rows an entry of the mixture, before the share is taken.
    """
    return [row for row in development_rows(config, at_most=at_most) if _measures(row, config)]


def _measures(row: ModerationExample, config: DefaultGuardConfig) -> bool:
    """Whether a held-out row is for measuring false positives, not for fitting."""
    is_benign = row.source.startswith(BENIGN) and row.target == "prompt" and row.harmful is False
    return is_benign and group_fraction(row.group, seed=config.seed + 1) < _MEASURED_SHARE


def account(mixture: Mixture, training: int, development: int) -> dict[str, Any]:
    """Which rows were drawn, as JSON: counts an entry, labels, languages."""
    rows = mixture.rows
    return {
        "rows_sha256": sha256_json([example_to_json(row) for row in rows]),
        "training_rows": training,
        "development_rows": development,
        "entries": [
            {
                "source": source,
                "available": counts.available,
                "overlapping": counts.overlapping,
                "contaminated": counts.contaminated,
                "taken": counts.taken,
            }
            for source, counts in mixture.counts
        ],
        "labels": {
            f"{target} {label} {value}": sum(row.target == target and getattr(row, label) is value for row in rows)
            for target in TARGETS
            for label in ("harmful", "attack", "refusal")
            for value in (True, False)
        },
        "languages": {
            language: sum(row.language == language for row in rows) for language in sorted({r.language for r in rows})
        },
    }


def left_in(rows: Sequence[ModerationExample], config: DefaultGuardConfig) -> dict[str, int]:
    """Rows that share a prompt or a run of ten words with evaluation sources beyond ``keep_clean_of``, by source.

    The entry ``replies`` counts rows whose reply shares a run of words with a reply of any evaluation source: mostly
    stock refusals. Sources that are not in the data folder are not counted.
    """
    clean = _clean_of(config)
    counts = {}
    replies: list[str] = []
    for name in SOURCES.names():
        if SOURCES.get(name).trainable:
            continue
        try:
            examples = list(load_source(name))
        except NotFoundError:
            continue
        replies += [m.text for row in examples for m in row.conversation.messages if m.role == "assistant"]
        if name not in clean:
            counts[name] = _sharing(rows, EvaluationIndex(asked_texts(examples)), assistant=False)
    return counts | {"replies": _sharing(rows, EvaluationIndex(replies), assistant=True)}


def _sharing(rows: Sequence[ModerationExample], index: EvaluationIndex, *, assistant: bool) -> int:
    """Rows of which a turn of that side is contaminated."""
    return sum(
        any(index.contaminated(m.text) for m in row.conversation.messages if (m.role == "assistant") is assistant)
        for row in rows
    )


def score_rows(
    guard: TrainedGuard, rows: Sequence[ModerationExample], *, as_replies: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """Raw scores as the shipped guard gives them (windows, merged weights), and labels, each (N, heads + categories).

    A prompt that is harmful in itself or harmless is that as a reply too, so prompts are judged as replies as well:
    the few labelled replies are English, and would set an operating point that blocks harmless ones elsewhere.
    An unknown label is negative; a row that the guard cannot score is left out.

    Args:
        guard: that scores.
        rows: labelled rows.
        as_replies: judge prompts as replies too.
    """
    replies = [
        replace(row, conversation=Conversation.exchange(_NEUTRAL_PROMPT, row.text), target="response", categories={})
        for row in rows
        if as_replies and row.target == "prompt" and row.harmful is not None
    ]
    codes = category_codes()
    scores: list[np.ndarray] = []
    labels: list[list[float]] = []
    for row, scored in _raw_scores(guard, [*rows, *replies]):
        if scored is not None:
            scores.append(scored)
            labels.append([*binary_labels(row), *category_labels(row, codes)])
    shape = (len(scores), len(BINARY_HEADS) + len(codes))
    return np.array(scores).reshape(shape), np.array(labels).reshape(shape)


def _raw_scores(
    guard: TrainedGuard, rows: Sequence[ModerationExample]
) -> Iterator[tuple[ModerationExample, np.ndarray | None]]:
    for target in TARGETS:
        judged = [row for row in rows if row.target == target]
        for start in progress(range(0, len(judged), _SCORED_AT_ONCE), f"Scoring held-out {target}s"):
            batch = judged[start : start + _SCORED_AT_ONCE]
            yield from zip(batch, guard.raw_scores([row.conversation for row in batch], target=target), strict=True)


def calibrate(
    scores_NK: np.ndarray, labels_NK: np.ndarray, *, max_fpr: Mapping[str, float], split: str = DEVELOPMENT_SPLIT
) -> dict[str, Calibration]:
    """A calibration for each head and each category with enough labels; the others keep their natural boundary.

    Raises:
        ConfigError: ``max_fpr`` names no head.
    """
    names = (*BINARY_HEADS, *category_codes())
    if unknown := sorted(set(max_fpr) - set(names)):
        raise ConfigError(f"no head is called `{unknown[0]}`", where="max_fpr")
    fitted = {}
    for column, name in enumerate(names):
        known = labels_NK[:, column] >= 0
        labels, scores = labels_NK[known, column], scores_NK[known, column]
        if min((labels == 1).sum(), (labels == 0).sum()) < _LEAST_POSITIVES:
            continue
        try:
            fitted[name] = fit_calibration(scores, labels, split=split, max_fpr=max_fpr.get(name))
        except MetricError:
            continue  # scores that do not rise with the label: the natural boundary is the better choice
    return fitted


def development_scores(scores_NK: np.ndarray, labels_NK: np.ndarray) -> dict[str, Any]:
    """Average precision and AUROC of every head on the development split, for orientation only."""
    out = {}
    for column, name in enumerate((*BINARY_HEADS, *category_codes())):
        known = labels_NK[:, column] >= 0
        labels, scores = labels_NK[known, column], scores_NK[known, column]
        if 0 < (labels == 1).sum() < len(labels):
            out[name] = {
                "n": len(labels),
                "positives": int((labels == 1).sum()),
                "average_precision": average_precision(labels, scores),
                "auroc": auroc(labels, scores),
            }
    return out


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
