"""Claim, a toy: on tiny models that were trained to refuse a templated class, the refusal direction moves refusal."""

from __future__ import annotations

from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np

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
from corral.studies.latent_guard.templated import templated_prompts
from corral.studies.latent_guard.tiny_refuser import train_tiny_refuser


def steering_moves_refusal(study: Experiment) -> Claim:
    """Refusal with the chosen direction added, ablated, and left alone; three tiny models."""
    settings, seeds = study.config.steering, study.config.seeds
    found = [_measured(study.run.path / "cells", settings, seed) for seed in seeds]
    holds = all(each["added"] > each["harmless"] and each["ablated"] < each["harmful"] for each in found)
    return Claim(
        claim="steering_moves_refusal",
        metric="share of greedy replies that refuse: harmless requests with +v_ref (ours) and without (baseline)",
        baseline=mean(each["harmless"] for each in found),
        ours={
            "harmless with +v_ref": mean(each["added"] for each in found),
            "harmful": mean(each["harmful"] for each in found),
            "harmful with v_ref ablated": mean(each["ablated"] for each in found),
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


def _measured(cells: Path, settings: SteeringConfig, seed: int) -> dict[str, Any]:
    """The rates of one tiny model, measured now unless they are on disk."""
    path = cells / f"steering-{seed}.json"
    if not path.exists():
        train, _ = _split(settings)
        model = train_tiny_refuser(train, settings, cells / f"refuser-{seed}", seed=seed)
        atomic_write_json(path, {"seed": seed, **steering_rates(model, settings)})
    return dict(read_json(path))


def steering_rates(model: Path, settings: SteeringConfig) -> dict[str, Any]:
    """Refusal rates of a tiny refuser on requests that it was not trained on, steered and not.

    The direction is chosen as in arXiv 2406.11717 among all tokens after the instruction and all layers allowed.
    """
    train, test = _split(settings)
    engine = TorchEngine.load(model)
    reader = LatentReader(engine, revision=weights_revision(model), share_beginning=False)
    harmful, harmless = _of(test, harmful=True), _of(test, harmful=False)
    half = settings.test_rows // 2
    data = RefusalData(
        _of(train, harmful=True)[: 2 * half],
        _of(train, harmful=False)[: 2 * half],
        _of(train, harmful=True)[-half:],
        _of(train, harmful=False)[-half:],
    )
    # The KL is about what a good model says else; a tiny one that says two things has nothing to be kept.
    chosen, candidates = select_refusal_direction(reader, data, max_kl=float("inf"))
    import torch

    vector = torch.tensor(chosen.direction_D)
    sites = np.zeros((len(reader.sites), len(chosen.direction_D)))
    sites[chosen.layer] = chosen.direction_D
    added = steering_sweep(engine, harmless, sites, layers=[chosen.layer], coefficient=settings.coefficient)
    reversed_ = steering_sweep(engine, harmful, sites, layers=[chosen.layer], coefficient=-settings.coefficient)
    rates: dict[str, Any] = {
        "harmful": refusal_rate(engine, harmful),
        "harmless": refusal_rate(engine, harmless),
        "added": added[chosen.layer],
        "reversed": reversed_[chosen.layer],
        "layer": chosen.layer,
        "position": chosen.position,
        "candidates": len(candidates),
    }
    with ablated(engine.model.base_model, vector):
        rates["ablated"] = refusal_rate(engine, harmful)
    return rates


def _split(settings: SteeringConfig) -> tuple[list[ModerationExample], list[ModerationExample]]:
    rows = templated_prompts()
    return rows[: settings.rows], rows[settings.rows : settings.rows + settings.test_rows]


def _of(rows: list[ModerationExample], *, harmful: bool) -> tuple[Any, ...]:
    return tuple(row.conversation for row in rows if bool(row.harmful) == harmful)
