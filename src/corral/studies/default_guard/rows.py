"""Rows of the default guard's recipe: what each stage learns, what is held out for fitting and what for measuring."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from corral.core.errors import NotFoundError
from corral.core.files import sha256_json
from corral.data.decontamination import EvaluationIndex
from corral.data.examples import ModerationExample, example_to_json
from corral.data.messages import TARGETS
from corral.data.mixture import Mixture
from corral.data.sources import SOURCES, load_source
from corral.data.splits import group_fraction, split_by_group
from corral.studies.attack_rows import attack_rows
from corral.studies.default_guard.settings import DefaultGuardConfig
from corral.studies.drawing import asked_texts, draw_held_out, draw_mixture

BENIGN: Final = "benign_"
"""What the names of sources of harmless prompts begin with."""
_MEASURED_SHARE: Final = 0.25


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


def draw(config: DefaultGuardConfig) -> Mixture:
    """The rows of the last stage's mixture.

    Raises:
        ConfigError: an entry names a source whose licence does not let weights ship.
    """
    stage = config.last
    if stage is None:
        return draw_mixture(config.mixture, keep_clean_of=config.keep_clean_of, seed=config.seed, share=config.share)
    clean = kept_clean_of(config)
    anew = draw_mixture(config.mixture, keep_clean_of=clean, seed=stage.draw_seed, share=stage.share)
    beside = draw_mixture(stage.mixture, keep_clean_of=clean, seed=stage.draw_seed) if stage.mixture else Mixture()
    return Mixture([*anew.rows, *beside.rows], [*anew.counts, *beside.counts])


def kept_clean_of(config: DefaultGuardConfig) -> tuple[str, ...]:
    """Evaluation sources that the last stage is kept clean of."""
    named = [stage.keep_clean_of for stage in config.further if stage.keep_clean_of]
    return named[-1] if named else config.keep_clean_of


def development_rows(config: DefaultGuardConfig, *, at_most: int) -> list[ModerationExample]:
    """Rows of the mixture's sources that no training on these settings sees, at most so many an entry."""
    return draw_held_out(
        [*config.mixture, *(entry for stage in config.further for entry in stage.mixture)],
        keep_clean_of=kept_clean_of(config),
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
    clean = kept_clean_of(config)
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


def sources_of(config: DefaultGuardConfig) -> list[str]:
    """Names of all sources that the recipe reads, those that it keeps clean of too."""
    refitted = [entry for refit in config.refit for entry in refit.mixture]
    entries = [*config.mixture, *(entry for stage in config.further for entry in stage.mixture), *refitted]
    clean = [*config.keep_clean_of, *(name for stage in config.further for name in stage.keep_clean_of)]
    return [*(entry.source for entry in entries), *clean]
