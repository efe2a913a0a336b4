"""The last part of the default guard's recipe: some heads are trained anew on the trunk as it came out of training.

All heads share one trunk, and a stage that helps one may cost another. A refit draws rows that label the chosen heads,
reads them once with the frozen trunk and trains those heads alone: what the guard says otherwise does not change.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import Field, field_validator

from corral.core.config import Config
from corral.core.errors import NotFoundError
from corral.core.files import atomic_directory, atomic_write_json, read_json
from corral.core.runs import Run
from corral.data.examples import ModerationExample
from corral.data.mixture import Mixture, MixtureEntry
from corral.data.splits import split_by_group
from corral.guards.calibration import Calibration
from corral.guards.default.guard import GUARD_FILE, HEAD_WEIGHTS, WEIGHT_FILES, TrainedGuard
from corral.guards.default.network import CATEGORY_HEAD, HEADS, GuardHeads, category_codes
from corral.studies.attack_rows import AttackRowsConfig, attack_rows
from corral.studies.drawing import draw_mixture
from corral.studies.training import training_module
from corral.train.guard.classifier_settings import GuardTrainingConfig
from corral.train.guard.refit_settings import HeadRefitConfig

ACCOUNT: Final = "mixture.json"
REFIT_SPLIT: Final = "held-out groups of the refit's mixture"


class HeadRefit(Config):
    """Which heads are trained anew, and on what.

    Groups are held out by the recipe's seed, as in every stage: with a larger share, those that the stages held out
    are among them.
    """

    heads: tuple[str, ...] = Field(
        min_length=1, description="binary heads, or `categories`; all other outputs stay bit for bit"
    )
    start_from: Path | None = Field(
        None, description="`artefacts` of a finished run whose guard is refitted, in place of training one"
    )
    mixture: tuple[MixtureEntry, ...] = Field(min_length=1, description="rows that label the heads")
    attacks: AttackRowsConfig | None = Field(None, description="rows asked again in attack styles; null: none")
    draw_seed: int = Field(3, description="of the draw")
    held_out: float = Field(0.2, gt=0, lt=1, description="share of groups for calibration")
    training: HeadRefitConfig = Field(default_factory=HeadRefitConfig)

    @field_validator("heads")
    @classmethod
    def _known(cls, heads: tuple[str, ...]) -> tuple[str, ...]:
        if unknown := [name for name in heads if name not in HEADS]:
            raise ValueError(f"no head is called `{unknown[0]}`; there are {', '.join(HEADS)}")
        return heads

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the scores that these heads give: a binary head one, the category head one for each category."""
        return tuple(score for head in self.heads for score in (category_codes() if head == CATEGORY_HEAD else (head,)))


@dataclass(frozen=True)
class RefitRows:
    """What the heads learn from and what calibrates them.

    Attributes:
        mixture: as drawn.
        training: those that are learnt, with rows in attack styles.
        held_out: those that calibrate.
    """

    mixture: Mixture
    training: list[ModerationExample]
    held_out: list[ModerationExample]


def refit_rows(refit: HeadRefit, *, keep_clean_of: Sequence[str], seed: int) -> RefitRows:
    """Draw the refit's mixture and hold groups out.

    Args:
        refit: settings.
        keep_clean_of: evaluation sources whose texts are left out.
        seed: of the split.

    Raises:
        ConfigError: an entry names a source whose licence does not let weights ship.
    """
    mixture = draw_mixture(refit.mixture, keep_clean_of=keep_clean_of, seed=refit.draw_seed)
    kept, held = split_by_group(mixture.rows, held_out=refit.held_out, seed=seed)
    styled = list(attack_rows(kept, refit.attacks, seed=refit.draw_seed)) if refit.attacks else []
    return RefitRows(mixture, [*kept, *styled], list({id(row): row for row in held}.values()))


def made_before(artefacts: Path) -> tuple[Path, list[dict[str, Any]]]:
    """The guard of a finished run, and the account of the rows of its stages.

    Raises:
        NotFoundError: the folder does not hold both.
    """
    missing = [
        name for name in (ACCOUNT, *(f"guard/{name}" for name in WEIGHT_FILES)) if not (artefacts / name).is_file()
    ]
    if missing:
        raise NotFoundError(
            f"no `{missing[0]}`", where=str(artefacts), hint="`refit.start_from` is the `artefacts` folder of a run."
        )
    return artefacts / "guard", list(read_json(artefacts / ACCOUNT)["stages"])


def refit_guard(
    start: Path,
    folder: Path,
    rows: Sequence[ModerationExample],
    refit: HeadRefit,
    *,
    encoding: GuardTrainingConfig,
    run: Run,
    work: Path,
) -> None:
    """Write to ``folder`` the guard in ``start`` with the chosen heads trained anew, these not calibrated yet.

    Token states and checkpoints are kept in the folder ``work``; a killed run goes on from both.

    Args:
        start: folder of a guard.
        folder: of the new one.
        rows: labelled rows.
        refit: settings.
        encoding: how much of a long row is read.
        run: that is under way.
        work: folder of what is kept until it is done.
    """
    from safetensors.torch import load_file

    classifier, states_of, refitting = (
        training_module(f"guard.{name}") for name in ("classifier", "token_states", "refit")
    )
    guard = TrainedGuard.load(weights=start)
    encoded = classifier.encode_rows(rows, classifier.load_encoder(encoding), encoding)
    states = states_of.cached_states(guard.hidden_states, encoded, work / "states", revision=guard.revision)
    stored = load_file(start / HEAD_WEIGHTS)
    heads = GuardHeads(stored["query"].shape[1], len(stored["categories.bias"]))
    heads.load_state_dict(stored)
    labelled = [
        refitting.StateRow(of_row, row.binary, row.categories) for of_row, row in zip(states, encoded, strict=True)
    ]
    refitted = refitting.refit_heads(heads, refit.heads, labelled, refit.training, work / "checkpoints", run=run)
    _write(folder, start, refitted, refit.outputs)


def _write(folder: Path, start: Path, heads: GuardHeads, names: Sequence[str]) -> None:
    """The guard in ``start`` with these heads, and without the calibration of the scores that are named."""
    from safetensors.torch import save_file

    settings = read_json(start / GUARD_FILE)
    settings["calibration"] = {name: each for name, each in settings["calibration"].items() if name not in names}
    with atomic_directory(folder, replace=True) as staged:
        for name in WEIGHT_FILES:
            (staged / name).write_bytes((start / name).read_bytes())
        save_file({name: tensor.contiguous() for name, tensor in heads.state_dict().items()}, staged / HEAD_WEIGHTS)
        atomic_write_json(staged / GUARD_FILE, settings)


def add_calibration(folder: Path, calibration: Mapping[str, Calibration], names: Sequence[str]) -> None:
    """Add the calibration of the named scores to that of the guard in ``folder``, which stays as it is."""
    settings = read_json(folder / GUARD_FILE)
    fitted = {name: calibration[name].model_dump(mode="json") for name in names if name in calibration}
    atomic_write_json(folder / GUARD_FILE, {**settings, "calibration": {**settings["calibration"], **fitted}})
