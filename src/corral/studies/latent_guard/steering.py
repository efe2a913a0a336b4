"""Claim, a toy: on tiny models that were trained to refuse a templated class, the refusal direction moves refusal."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from statistics import mean
from typing import Any, Final

import numpy as np

from corral.core.errors import DataError
from corral.core.evidence import Claim
from corral.core.files import atomic_write_json, read_json
from corral.data.examples import ModerationExample
from corral.guards.latent_guard.directions import RefusalData, select_refusal_direction
from corral.guards.latent_guard.interventions import refusal_rate, steering_sweep
from corral.guards.latent_guard.reading import LatentReader
from corral.models.engines.torch import TorchEngine
from corral.models.loading import weights_revision
from corral.models.steering import ablated
from corral.studies.claims import NOTHING_ELSE
from corral.studies.latent_guard.experiment import Experiment
from corral.studies.latent_guard.settings import SteeringConfig
from corral.studies.latent_guard.templated import taught_prompts, templated_prompts
from corral.studies.latent_guard.tiny_refuser import train_tiny_refuser

_FOR_MEANS: Final = 32
_FOR_VALIDATION: Final = 12


def steering_moves_refusal(study: Experiment) -> Claim:
    """Refusal with the chosen direction added, ablated, and left alone; three tiny models."""
    settings, seeds = study.config.steering, study.config.seeds
    found = [_measured(study.run.path / "cells", settings, seed) for seed in seeds]
    holds = all(_moves(each) for each in found)
    return Claim(
        claim="steering_moves_refusal",
        metric="share of greedy replies that refuse: harmless requests with +v_ref (ours) and without (baseline)",
        baseline=mean(each["harmless"] for each in found),
        ours={
            "models": found,
        },
        n=settings.test_rows * len(seeds),
        ci95=None,
        seeds=seeds,
        expected="in every tiny model adding v_ref raises refusal of harmless requests, and ablating it lowers "
        "refusal of those that it was trained to refuse",
        holds=holds,
        toy=True,
        tried=() if holds else NOTHING_ELSE,
    )


def _moves(rates: Mapping[str, Any]) -> bool:
    """Whether both ways worked; no where no direction was found."""
    if rates["added"] is None:
        return False
    return bool(rates["added"] > rates["harmless"] and rates["ablated"] < rates["harmful"])


def _measured(cells: Path, settings: SteeringConfig, seed: int) -> dict[str, Any]:
    """The rates of one tiny model, trained and measured now unless that is on disk."""
    path = cells / f"steering-{seed}.json"
    if not path.exists():
        model = train_tiny_refuser(settings, cells, seed=seed)
        atomic_write_json(path, {"seed": seed, **steering_rates(model, settings)})
    return dict(read_json(path))


def steering_rates(model: Path, settings: SteeringConfig) -> dict[str, Any]:
    """Refusal rates of a tiny refuser on requests that it was not trained on, steered and not.

    The direction is chosen as in arXiv 2406.11717 among all tokens after the instruction and all layers allowed.
    """
    import torch

    train, test = split_prompts(settings)
    engine = TorchEngine.load(model)
    reader = LatentReader(engine, revision=weights_revision(model), share_beginning=False)
    harmful, harmless = _of(test, harmful=True), _of(test, harmful=False)
    refused, answered = _of(train, harmful=True), _of(train, harmful=False)
    data = RefusalData(
        refused[:_FOR_MEANS], answered[:_FOR_MEANS], refused[-_FOR_VALIDATION:], answered[-_FOR_VALIDATION:]
    )
    rates: dict[str, Any] = {
        "harmful": refusal_rate(engine, harmful),
        "harmless": refusal_rate(engine, harmless),
        "added": None,
        "reversed": None,
        "ablated": None,
    }
    try:
        # No bound on the change of harmless prompts: a model that can say two things has little else to keep. It is
        # shown.
        chosen, candidates = select_refusal_direction(
            reader, data, max_kl=float("inf"), coefficient=settings.coefficient
        )
    except DataError as error:
        return rates | {"problem": error.message}
    sites = np.zeros((len(reader.sites), len(chosen.direction_D)))
    sites[chosen.layer] = chosen.direction_D
    for name, prompts, sign in (("added", harmless, 1.0), ("reversed", harmful, -1.0)):
        swept = steering_sweep(engine, prompts, sites, layers=[chosen.layer], coefficient=sign * settings.coefficient)
        rates[name] = swept[chosen.layer]
    with ablated(engine.model.base_model, torch.tensor(chosen.direction_D)):
        rates["ablated"] = refusal_rate(engine, harmful)
    return rates | {
        "layer": chosen.layer,
        "position": chosen.position,
        "kl of harmless": chosen.kl,
        "candidates": len(candidates),
    }


def split_prompts(settings: SteeringConfig) -> tuple[list[ModerationExample], list[ModerationExample]]:
    """What the tiny model is trained on, and as many other requests of either kind."""
    taught = taught_prompts(settings.refused, settings.answered)
    known = {row.id for row in taught}
    rest = [row for row in templated_prompts() if row.id not in known]
    half = settings.test_rows // 2
    return taught, [row for label in (True, False) for row in [r for r in rest if bool(r.harmful) == label][:half]]


def _of(rows: list[ModerationExample], *, harmful: bool) -> tuple[Any, ...]:
    return tuple(row.conversation for row in rows if bool(row.harmful) == harmful)
