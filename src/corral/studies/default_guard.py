"""The default guard's recipe: draw the mixture, train, calibrate on held-out rows, write the guard's folder.

The mixture is in ``recipes/default_guard/*.yaml``. Only ``train_and_ship`` rows are drawn, none whose prompt occurs in
an evaluation set, none that shares a long run of words with one. Held-out rows (whole groups of the same mixture) are
the development split, named in the calibration; no evaluation set is read for anything but leaving its texts out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from pydantic import Field

from corral.core.config import Config
from corral.core.errors import ConfigError, MetricError, NotFoundError
from corral.core.files import atomic_directory, atomic_write_json, sha256_json
from corral.core.metrics import auroc, average_precision
from corral.core.progress import progress
from corral.core.runs import Run
from corral.data.decontamination import EvaluationIndex
from corral.data.examples import ModerationExample, example_to_json
from corral.data.mixture import Mixture, MixtureEntry, build_mixture
from corral.data.self_written import PREFIX, self_written_rows
from corral.data.sources import SOURCES, load_source
from corral.data.splits import split_by_group
from corral.guards.calibration import Calibration, fit_calibration
from corral.guards.default.guard import GUARD_FILE, HEAD_WEIGHTS, GuardSettings, guard_weights_revision
from corral.guards.default.network import BINARY_HEADS, GuardNetwork, category_codes
from corral.models.tiny import TINY, write_tiny_llama
from corral.train.guard import EncodedRow, GuardTrainingConfig, collate, encode_rows, load_encoder, train_guard

DEVELOPMENT_SPLIT: Final = "held-out groups of the training mixture"
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
        """Train and write ``artefacts/guard``, ``artefacts/mixture.json`` and the report."""
        config = _with_base(config, run)
        mixture = draw(config)
        kept, held = split_by_group(mixture.rows, held_out=config.held_out, seed=config.seed)
        atomic_write_json(run.artefacts / "mixture.json", account(mixture, len(kept), len(held)))
        network = train_guard(kept, config.training, run.checkpoints, run=run)
        scores, labels = score_rows(network, held, config.training)
        calibration = calibrate(scores, labels, max_fpr=config.max_fpr)
        folder = run.artefacts / "guard"
        write_guard(folder, network, config, calibration)
        for file in sorted(folder.iterdir()):
            run.add_output(file)
        run.report({"development": development_scores(scores, labels), "revision": guard_weights_revision(folder)})


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
    for entry in config.mixture:
        if not entry.source.startswith(PREFIX) and not SOURCES.get(entry.source).trainable:
            raise ConfigError(f"`{entry.source}` is for evaluation only", where="mixture")
    index = EvaluationIndex(_evaluation_texts(config.keep_clean_of))
    cache: dict[str, list[ModerationExample]] = {}

    def load(name: str) -> Iterable[ModerationExample]:
        if name not in cache:
            cache[name] = list(self_written_rows(name) if name.startswith(PREFIX) else load_source(name))
        return cache[name]

    return build_mixture(
        progress(config.mixture, "Drawing the mixture"),
        load,
        contaminated=index.contaminated,
        seed=config.seed,
        share=config.share,
    )


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


def score_rows(
    network: GuardNetwork, rows: Sequence[ModerationExample], config: GuardTrainingConfig, *, batch_tokens: int = 8192
) -> tuple[np.ndarray, np.ndarray]:
    """Raw scores and labels of rows, each (N, heads + categories); an unknown label is negative."""
    import torch

    from corral.models.batching import token_budget_batches

    encoded = encode_rows(rows, load_encoder(config), config)
    width = len(BINARY_HEADS) + len(category_codes())
    scores = np.zeros((len(rows), width))
    network.eval()
    batches = token_budget_batches([len(row.ids) for row in encoded], batch_tokens)
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=config.precision == "bf16")
    with torch.inference_mode(), autocast:
        for batch in progress(batches, "Scoring held-out rows"):
            inputs = collate([encoded[i] for i in batch])
            logits = network(inputs["input_ids"], inputs["attention_mask"], inputs["span"])
            scores[batch] = torch.cat([logits.binary, logits.categories], dim=1).float().numpy()
    return scores, _labels(encoded)


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


def write_guard(
    folder: Path, network: GuardNetwork, config: DefaultGuardConfig, calibration: Mapping[str, Calibration]
) -> None:
    """The guard's folder: adapter in peft's format and heads in bf16, settings as JSON."""
    import torch
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    from corral.models.adapters import ADAPTER_CONFIG, ADAPTER_WEIGHTS
    from corral.models.loading import weights_revision

    training = config.training
    adapter: Any = network.backbone
    settings = GuardSettings(
        base=training.base,
        base_revision=weights_revision(training.base),
        layers=training.layers,
        categories=category_codes(),
        window=config.window,
        overlap=config.overlap,
        min_context=training.max_context_tokens,
        calibration=dict(calibration),
    )
    with atomic_directory(folder, replace=True) as staged:
        save_file(
            {k: v.to(torch.bfloat16).contiguous() for k, v in get_peft_model_state_dict(adapter).items()},
            staged / ADAPTER_WEIGHTS,
        )
        save_file({k: v.contiguous() for k, v in network.heads.state_dict().items()}, staged / HEAD_WEIGHTS)
        described = adapter.peft_config["default"].to_dict()
        described |= {"base_model_name_or_path": training.base, "inference_mode": True}
        atomic_write_json(staged / ADAPTER_CONFIG, _plain(described))
        atomic_write_json(staged / GUARD_FILE, settings.model_dump(mode="json"))


def _labels(encoded: Sequence[EncodedRow]) -> np.ndarray:
    return np.array([[*row.binary, *row.categories] for row in encoded])


def _evaluation_texts(sources: Iterable[str]) -> Iterator[str]:
    for name in sources:
        try:
            rows = load_source(name)
        except NotFoundError as error:
            raise NotFoundError(
                f"`{name}` is needed to keep training clean of it", where="keep_clean_of", hint=error.hint
            ) from error
        for row in rows:
            yield from (m.text for m in row.conversation.messages if m.role != "assistant")


def _plain(value: Any) -> Any:
    """JSON values of peft's config: sets become sorted lists, enums their values."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, set | frozenset):
        return sorted(_plain(item) for item in value)
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return getattr(value, "value", value)


RECIPE: Final = DefaultGuardRecipe()
