"""The default guard's recipe: draw the mixture, train, calibrate on held-out rows, write the guard's folder.

The mixture is in ``recipes/default_guard/*.yaml``. Only ``train_and_ship`` rows are drawn, none whose prompt occurs in
an evaluation set, none that shares a long run of words with one. Held-out rows (whole groups of the same mixture) are
the development split, named in the calibration; no evaluation set is read for anything but leaving its texts out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from pydantic import Field

from corral.core.config import Config
from corral.core.errors import ConfigError, MetricError, NotFoundError, RunError
from corral.core.files import atomic_directory, atomic_write_json, read_json, sha256_json
from corral.core.metrics import auroc, average_precision
from corral.core.progress import progress
from corral.core.runs import Run
from corral.data.decontamination import EvaluationIndex
from corral.data.examples import ModerationExample, example_to_json
from corral.data.messages import Conversation, Target
from corral.data.mixture import Mixture, MixtureEntry
from corral.data.sources import SOURCES, load_source
from corral.data.splits import split_by_group
from corral.guards.calibration import Calibration, fit_calibration
from corral.guards.default.guard import GUARD_FILE, HEAD_WEIGHTS, DefaultGuard, GuardSettings, guard_weights_revision
from corral.guards.default.network import BINARY_HEADS, GuardNetwork, category_codes
from corral.models.loading import weights_revision
from corral.models.tiny import TINY, write_tiny_llama
from corral.studies.drawing import asked_texts, draw_mixture, source_files
from corral.studies.training import training_module
from corral.train.guard.classifier_labels import binary_labels, category_labels
from corral.train.guard.classifier_settings import GuardTrainingConfig

DEVELOPMENT_SPLIT: Final = "held-out groups of the training mixture"
_SCORED_AT_ONCE: Final = 128
_NEUTRAL_PROMPT: Final = "Go on."
_LEAST_POSITIVES: Final = 30  # a category with fewer on the development split keeps its natural boundary


class DefaultGuardConfig(Config):
    """Settings of the recipe."""

    training: GuardTrainingConfig = Field(default_factory=GuardTrainingConfig)
    mixture: tuple[MixtureEntry, ...]
    share: float = Field(1.0, gt=0, le=1, description="share of the mixture that is drawn, the same of every entry")
    keep_clean_of: tuple[str, ...] = Field((), description="evaluation sources whose texts are left out of training")
    held_out: float = Field(0.04, gt=0, lt=1, description="share of groups for calibration")
    max_fpr: Mapping[str, float] = Field(
        default_factory=dict, description="largest false-positive rate on the development split at 0.5, by head"
    )
    window: int = Field(384, ge=32)
    overlap: int = Field(96, ge=0)
    seed: int = 0


class DefaultGuardRecipe:
    """Trains the guard that is used when the user names none."""

    name = "default_guard"
    config_class = DefaultGuardConfig

    def plan(self, config: DefaultGuardConfig) -> list[str]:
        """What the run will do, a line a step."""
        training = config.training
        return [
            f"draw {len(config.mixture)} entries, clean of {len(config.keep_clean_of)} evaluation sources",
            f"train layers {training.first_trained_layer} to {training.layers} of {training.base} with LoRA rank "
            f"{training.rank} and heads, {training.epochs} epoch(s)",
            f"calibrate on {config.held_out:.0%} held-out groups and write artefacts/guard",
        ]

    def run(self, config: DefaultGuardConfig, run: Run) -> None:
        """Train and write ``artefacts/guard``, ``artefacts/mixture.json`` and the report.

        Raises:
            MissingDependencyError: the training libraries are not installed.
            RunError: the run to be continued was drawn from other rows.
        """
        training = training_module("guard.classifier")
        config = _with_base(config, run)
        for file in source_files([*(entry.source for entry in config.mixture), *config.keep_clean_of]):
            run.add_input(file)
        mixture = draw(config)
        kept, held = split_by_group(mixture.rows, held_out=config.held_out, seed=config.seed)
        _write_account(run, account(mixture, len(kept), len(held)) | {"left_in": left_in(mixture.rows, config)})
        network = training.train_guard(kept, config.training, run.checkpoints, run=run)
        folder = run.artefacts / "guard"
        write_guard(folder, network, config)
        scores, labels = score_rows(DefaultGuard.load(weights=folder), held)
        write_calibration(folder, calibrate(scores, labels, max_fpr=config.max_fpr))
        run.add_output(run.artefacts)
        run.report({"development": development_scores(scores, labels), "revision": guard_weights_revision(folder)})


def _write_account(run: Run, values: dict[str, Any]) -> None:
    """Write ``mixture.json``; a run that goes on must have drawn the rows that it began with."""
    path = run.artefacts / "mixture.json"
    if path.exists() and read_json(path)["rows_sha256"] != values["rows_sha256"]:
        raise RunError(
            "the mixture draws other rows than when this run began",
            where=str(path),
            hint="The data or the code that reads it has changed. Start a new run with --new.",
        )
    atomic_write_json(path, values)


def _with_base(config: DefaultGuardConfig, run: Run) -> DefaultGuardConfig:
    """Settings with ``tiny:random`` replaced by a tiny random model in the run directory."""
    if config.training.base != TINY:
        return config
    base = write_tiny_llama(run.path / "base", seed=config.seed)
    return config.model_copy(update={"training": config.training.model_copy(update={"base": str(base)})})


def draw(config: DefaultGuardConfig) -> Mixture:
    """The rows of the mixture.

    Raises:
        ConfigError: an entry names a source whose licence does not let weights ship.
    """
    return draw_mixture(config.mixture, keep_clean_of=config.keep_clean_of, seed=config.seed, share=config.share)


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
            for target in ("prompt", "response")
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
        if name not in config.keep_clean_of:
            counts[name] = _sharing(rows, EvaluationIndex(asked_texts(examples)), assistant=False)
    return counts | {"replies": _sharing(rows, EvaluationIndex(replies), assistant=True)}


def _sharing(rows: Sequence[ModerationExample], index: EvaluationIndex, *, assistant: bool) -> int:
    """Rows of which a turn of that side is contaminated."""
    return sum(
        any(index.contaminated(m.text) for m in row.conversation.messages if (m.role == "assistant") is assistant)
        for row in rows
    )


def score_rows(guard: DefaultGuard, rows: Sequence[ModerationExample]) -> tuple[np.ndarray, np.ndarray]:
    """Raw scores as the shipped guard gives them (windows, merged weights), and labels, each (N, heads + categories).

    A prompt that is harmful in itself or harmless is that as a reply too, so prompts are judged as replies as well:
    the few labelled replies are English, and would set an operating point that blocks harmless ones elsewhere.
    An unknown label is negative; a row that the guard cannot score is left out.
    """
    as_replies = [
        replace(row, conversation=Conversation.exchange(_NEUTRAL_PROMPT, row.text), target="response", categories={})
        for row in rows
        if row.target == "prompt" and row.harmful is not None
    ]
    codes = category_codes()
    scores: list[np.ndarray] = []
    labels: list[list[float]] = []
    for row, scored in _raw_scores(guard, [*rows, *as_replies]):
        if scored is not None:
            scores.append(scored)
            labels.append([*binary_labels(row), *category_labels(row, codes)])
    return np.array(scores), np.array(labels)


def _raw_scores(
    guard: DefaultGuard, rows: Sequence[ModerationExample]
) -> Iterator[tuple[ModerationExample, np.ndarray | None]]:
    targets: tuple[Target, ...] = ("prompt", "response")
    for target in targets:
        judged = [row for row in rows if row.target == target]
        for start in progress(range(0, len(judged), _SCORED_AT_ONCE), f"Scoring held-out {target}s"):
            batch = judged[start : start + _SCORED_AT_ONCE]
            yield from zip(batch, guard.raw_scores([row.conversation for row in batch], target=target), strict=True)


def calibrate(scores_NK: np.ndarray, labels_NK: np.ndarray, *, max_fpr: Mapping[str, float]) -> dict[str, Calibration]:
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
            fitted[name] = fit_calibration(scores, labels, split=DEVELOPMENT_SPLIT, max_fpr=max_fpr.get(name))
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
