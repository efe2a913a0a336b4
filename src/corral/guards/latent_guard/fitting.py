"""Fitting centres: prompts to readings, readings to centres, calibration on a development split.

Harm centres are means at the instruction's last token of prompts labelled harmful and harmless; refusal centres are
means at the prompt's last token of prompts that the model is about to refuse and to accept, which its own refusal score
says (arXiv 2406.11717) unless labels are given.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from corral.core.errors import ConfigError, DataError, MetricError
from corral.core.files import sha256_json
from corral.core.metrics import auroc
from corral.data.messages import Conversation
from corral.data.refusals import opens_with_refusal
from corral.guards.calibration import Calibration, fit_calibration
from corral.guards.latent_guard.centres import Centres, CentresRecord, Position, Variant
from corral.guards.latent_guard.reading import LatentReader
from corral.guards.latent_guard.scores import (
    MIN_ROWS,
    TRANSFORMS,
    ClassCentres,
    RunningMoments,
    centres_of_rows,
    class_centres,
    delta,
    site_scores,
)
from corral.guards.latent_guard.shards import Readings, ReadingShards
from corral.models.positions import template_parts

if TYPE_CHECKING:
    from corral.models.engines.torch import TorchEngine

Flags = NDArray[np.bool_]
RefusalRule = Literal["sign", "thirds"]
REFUSAL_RULES: Final[tuple[RefusalRule, ...]] = get_args(RefusalRule)
HARM_NAMES: Final = ("harmful", "harmless")
REFUSAL_NAMES: Final = ("refused", "accepted")


@dataclass(frozen=True, slots=True)
class LabelledPrompts:
    """Prompts with the labels that centres are taken by.

    Attributes:
        conversations: each ends with the instruction.
        harmful_N: whether it is harmful.
        refused_N: whether the model refuses it; ``None`` to take the model's own refusal score.
        ids: of the rows, for the record.
        sources: of the rows, likewise.
    """

    conversations: tuple[Conversation, ...]
    harmful_N: tuple[bool, ...]
    refused_N: tuple[bool, ...] | None = None
    ids: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("harmful_N", "refused_N", "ids", "sources"):
            values = getattr(self, name)
            if values and len(values) != len(self.conversations):
                raise DataError(f"{len(values)} values for {len(self.conversations)} prompts", where=name)


def fit_centres(
    reader: LatentReader,
    prompts: LabelledPrompts,
    *,
    folder: Path | None = None,
    refusal_rule: RefusalRule = "thirds",
    command: str = "",
) -> Centres:
    """Centres of a model; uncalibrated, of the published variant.

    Args:
        reader: of the model.
        prompts: labelled.
        folder: keeps the readings in shards, so that a killed fit goes on; in memory when ``None``.
        refusal_rule: see ``refusal_labels``.
        command: what made them, for the record.

    Raises:
        DataError: fewer than 8 rows of a class, one missing, or an empty prompt.
    """
    if folder is None:
        readings = read_in_memory(reader, prompts.conversations)
    else:
        shards = ReadingShards(folder, prompts.conversations, reader.revision)
        shards.complete(reader)
        readings = shards.all()
    return centres_of_readings(reader, prompts, readings, refusal_rule=refusal_rule, command=command)


def centres_of_readings(
    reader: LatentReader,
    prompts: LabelledPrompts,
    readings: Readings,
    *,
    refusal_rule: RefusalRule = "thirds",
    command: str = "",
) -> Centres:
    """As ``fit_centres``, from readings that are at hand; prompts that could not be read are left out."""
    harmful_N = np.array(prompts.harmful_N, dtype=bool)
    read_N = readings.read_N
    harm = harm_centres(readings.rows(read_N), harmful_N[read_N])
    if prompts.refused_N is not None:
        refused_N = np.array(prompts.refused_N, dtype=bool)
        refused_N, accepted_N = refused_N & read_N, ~refused_N & read_N
    else:
        refused_N, accepted_N = refusal_labels(readings, harmful_N, refusal_rule)
    refusal = centres_of_rows(readings.post_NSD[refused_N], readings.post_NSD[accepted_N], REFUSAL_NAMES)
    counts = {
        "harmful": harm.positives,
        "harmless": harm.negatives,
        "refused": refusal.positives,
        "accepted": refusal.negatives,
    }
    record = CentresRecord(
        model=reader.engine.name,
        model_revision=reader.model_revision,
        template=reader.template,
        added_system=template_parts(reader.engine.chat).added_system,
        dtype=reader.dtype,
        hidden_size=int(reader.engine.model.config.hidden_size),
        sites=tuple(site.name for site in reader.sites),
        step_back=reader.step_back,
        counts=counts,
        data=dict(Counter(prompts.sources)),
        data_sha256=sha256_json(list(prompts.ids)),
        refusal_rule="given" if prompts.refused_N is not None else refusal_rule,
        command=command,
    )
    return Centres(harm, refusal, record)


def harm_centres(readings: Readings, harmful_N: Flags, position: Position = "instruction") -> ClassCentres:
    """Centres of harm at a position.

    Raises:
        DataError: fewer than 8 rows of a class.
    """
    states_NSD = readings.at(position)
    return centres_of_rows(states_NSD[harmful_N], states_NSD[~harmful_N], HARM_NAMES)


def stream_harm_centres(shards: ReadingShards, harmful_N: Flags) -> ClassCentres:
    """The same from shards one after the other, for sets that do not fit memory.

    Raises:
        DataError: fewer than 8 rows of a class.
        RunError: shards are missing.
    """
    positive, negative = RunningMoments(), RunningMoments()
    start = 0
    for part in shards.parts():
        labels = harmful_N[start : start + len(part)]
        positive.add(part.inst_NSD[labels & part.read_N])
        negative.add(part.inst_NSD[~labels & part.read_N])
        start += len(part)
    return class_centres(positive, negative, HARM_NAMES)


def refusal_labels(readings: Readings, harmful_N: Flags, rule: RefusalRule) -> tuple[Flags, Flags]:
    """Which prompts count as refused and which as accepted, by the model's refusal score.

    Args:
        readings: of the prompts.
        harmful_N: their labels.
        rule: ``sign`` takes harmful prompts with a score above 0 and harmless ones below (arXiv 2406.11717); a model
            that hardly refuses leaves none. ``thirds`` (ours) takes the highest and the lowest third of the harmful
            and of the harmless prompts each, so that harm is balanced and the direction is not one of harm in disguise.

    Raises:
        ConfigError: an unknown rule.
    """
    if rule == "sign":
        refused_N, accepted_N = harmful_N & (readings.refusal_N > 0), ~harmful_N & (readings.refusal_N < 0)
    elif rule == "thirds":
        refused_N, accepted_N = np.zeros_like(harmful_N), np.zeros_like(harmful_N)
        for label in (True, False):
            rows = np.flatnonzero((harmful_N == label) & readings.read_N)
            ranked = rows[np.argsort(readings.refusal_N[rows], kind="stable")]
            third = len(ranked) // 3
            accepted_N[ranked[:third]] = True
            refused_N[ranked[len(ranked) - third :]] = True
    else:
        raise ConfigError(f"`{rule}`", where="refusal_rule", hint=f"Use {' or '.join(REFUSAL_RULES)}.")
    return refused_N & readings.read_N, accepted_N & readings.read_N


def refused_by_replies(
    engine: TorchEngine,
    conversations: Sequence[Conversation],
    *,
    refuses: Callable[[str], bool] = opens_with_refusal,
    max_new_tokens: int = 32,
) -> tuple[bool, ...]:
    """Which prompts the model refuses, by what it writes: the costly alternative to its refusal score.

    Args:
        engine: the model.
        conversations: prompts.
        refuses: says so of a reply; by default a list of refusal phrases.
        max_new_tokens: of a reply, greedy.
    """
    from corral.models.engines.base import GenerationSettings

    replies = engine.generate(list(conversations), GenerationSettings(max_new_tokens=max_new_tokens))
    return tuple(refuses(reply.text) for reply in replies)


def choose_variant(
    development: Readings,
    positive_N: Flags,
    centres: Mapping[Position, ClassCentres],
    *,
    sites: Sequence[str] = (),
) -> tuple[Variant, float]:
    """The variant that tells the classes apart best on a development split, and its AUROC there.

    Args:
        development: rows that the centres were not taken of.
        positive_N: their labels, both kinds.
        centres: of the two classes, at each position that is tried.
        sites: choices of sites to try; all sites, the highest 10, and each alone when empty.

    Raises:
        ConfigError: nothing to try.
        MetricError: one class only.
    """
    count = development.inst_NSD.shape[1]
    choices = sites or ("all", *(("last:10",) if count >= 10 else ()), *(f"site:{i}" for i in range(count)))
    best: tuple[Variant, float] | None = None
    for position, transform in product(centres, TRANSFORMS):
        scores_NS = site_scores(development.at(position), centres[position], transform)
        for choice in choices:
            value = auroc(positive_N, delta(scores_NS, choice))
            if value is None:
                raise MetricError("the development split has one class only")
            if best is None or value > best[1]:
                best = Variant(position=position, sites=choice, transform=transform), value
    if best is None:
        raise ConfigError("no variant to try", where="centres")
    return best


def calibrate(
    scores_N: NDArray[np.float64],
    positive_N: Flags,
    *,
    split: str,
    operating_point: Literal["zero", "best_f1"] | float = "best_f1",
) -> Calibration:
    """The map from Delta to a probability whose 0.5 is alpha.

    Args:
        scores_N: Delta of development rows.
        positive_N: their labels.
        split: name of the development rows.
        operating_point: ``zero`` is alpha = 0 as published; ``best_f1``; or the largest false-positive rate.

    Raises:
        MetricError: see ``fit_calibration``.
    """
    max_fpr = operating_point if isinstance(operating_point, float) else None
    fitted = fit_calibration(scores_N, positive_N, split=split, max_fpr=max_fpr)
    if operating_point == "zero":
        return fitted.model_copy(update={"threshold": 0.0, "rule": "alpha=0"})
    return fitted


def read_in_memory(reader: LatentReader, conversations: Sequence[Conversation]) -> Readings:
    """Readings of a few prompts, without a folder.

    Raises:
        DataError: a prompt that cannot be read; names its index.
    """
    found = reader.read(conversations)
    for index, reading in enumerate(found):
        if isinstance(reading, Exception):
            reading.where = f"prompts[{index}]" + (f".{reading.where}" if reading.where else "")
            raise reading
    readings = [reading for reading in found if not isinstance(reading, Exception)]
    if len(readings) < 1:
        raise DataError("no prompts were given", hint=f"A centre needs {MIN_ROWS} of each class.")
    return Readings(
        np.stack([reading.inst_SD for reading in readings]),
        np.stack([reading.post_SD for reading in readings]),
        np.array([reading.refusal for reading in readings]),
        np.ones(len(readings), dtype=bool),
    )
