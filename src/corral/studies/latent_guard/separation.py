"""Claim: harm and refusal are held along different directions, and each reading answers its own question."""

from __future__ import annotations

from typing import Any

import numpy as np

from corral.core.evidence import Claim
from corral.core.stats import cluster_bootstrap
from corral.core.weighted import Statistic, auroc, mean_of
from corral.guards.latent_guard.centres import Variant
from corral.guards.latent_guard.directions import category_directions, cosine_matrix
from corral.guards.latent_guard.fitting import harm_centres
from corral.guards.latent_guard.interventions import QUESTIONS, inversion
from corral.guards.latent_guard.scores import cosines
from corral.studies.claims import Compared, claim_of, compare_over_seeds
from corral.studies.latent_guard.experiment import Experiment
from corral.studies.latent_guard.measures import Flags
from corral.studies.latent_guard.rows import PUBLISHED, published_fit, published_test
from corral.studies.latent_guard.settings import InversionConfig

MOST_COSINE = 0.5
"""Above this mean absolute cosine two directions are hardly two."""


def harm_vs_refusal_separate(study: Experiment) -> Claim:
    """Each direction against the other on its own question, on held-out published rows."""
    config, pool, readings = study.config, study.pools[PUBLISHED], study.read(PUBLISHED)
    test_N = published_test(pool) & readings.read_N
    held, harmful_N = readings.rows(test_N), pool.harmful_N[test_N]
    refused_N = _above_class_median(held.refusal_N, harmful_N)
    groups = [group for group, taken in zip(pool.groups, test_N, strict=True) if taken]
    lengths_N = [float(len(row.text)) for row, taken in zip(pool.rows, test_N, strict=True) if taken]
    own: list[Statistic] = []
    other: list[Statistic] = []
    parts: dict[str, list[Statistic]] = {name: [] for name in _PARTS}
    angles = []
    for seed in config.seeds:
        centres = study.centres(pool, readings, published_fit(pool, seed=seed) & readings.read_N)
        harm_N, refuse_N = centres.delta_harm(held.inst_NSD), centres.delta_refuse(held.post_NSD)
        at_prompt = harm_centres(
            readings.rows(published_fit(pool, seed=seed) & readings.read_N),
            pool.harmful_N[published_fit(pool, seed=seed) & readings.read_N],
            "prompt",
        )
        figures = {
            "harm by delta_harm": auroc(harmful_N, harm_N),
            "harm by delta_refuse": auroc(harmful_N, refuse_N),
            "refusal by delta_refuse": auroc(refused_N, refuse_N),
            "refusal by delta_harm": auroc(refused_N, harm_N),
            "harm at t_post": auroc(harmful_N, Variant(position="prompt").score(held.post_NSD, at_prompt)),
            "harm by prompt length": auroc(harmful_N, lengths_N),
        }
        for name, statistic in figures.items():
            parts[name].append(statistic)
        own.append(mean_of([figures["harm by delta_harm"], figures["refusal by delta_refuse"]]))
        other.append(mean_of([figures["harm by delta_refuse"], figures["refusal by delta_harm"]]))
        angles.append(cosines(centres.harm.direction, centres.refusal.direction))

    def compare(ours: list[Statistic], theirs: list[Statistic]) -> Compared:
        return compare_over_seeds(ours, theirs, groups, seed=config.seed, replicates=config.replicates)

    harm = compare(parts["harm by delta_harm"], parts["harm by delta_refuse"])
    refusal = compare(parts["refusal by delta_refuse"], parts["refusal by delta_harm"])
    cosine = float(np.abs(np.mean(angles, axis=0)).mean())
    beside: dict[str, Any] = {
        "harm question": harm.to_json(),
        "refusal question": refusal.to_json(),
        "harm at t_inst against t_post": compare(parts["harm by delta_harm"], parts["harm at t_post"]).to_json(),
        "harm against prompt length": compare(parts["harm by delta_harm"], parts["harm by prompt length"]).to_json(),
        "cosine of v_harm and v_ref by site": [
            {"site": "mean of absolutes", "cosine": cosine, "by_seed": [float(np.abs(a).mean()) for a in angles]},
            *(
                {"site": site, "cosine": float(np.mean(_by_seed(angles, site))), "by_seed": _by_seed(angles, site)}
                for site in range(len(angles[0]))
            ),
        ],
        "auroc": [
            {"reading": name, **cluster_bootstrap(mean_of(found), groups, seed=config.seed).to_json()}
            for name, found in parts.items()
        ],
    }
    if len(categories := _categories(study)) > 1:
        beside["cosine of category directions"] = categories
    if config.inversion is not None:
        beside["reply inversion: share of No"] = _inversion(study, config.inversion, test_N)
    return claim_of(
        "harm_vs_refusal_separate",
        compare(own, other),
        metric="AUROC, mean of two questions on held-out rows (is the prompt harmful; is refusal likelier than the "
        "median of its class): each answered by its own reading, Delta_harm at t_inst and Delta_refuse at t_post "
        "(ours), or by the other's (baseline)",
        expected="on both questions the interval of own minus other lies above 0, and the mean over sites of the "
        f"absolute cosine of v_harm and v_ref is below {MOST_COSINE} (paper: about .1)",
        seeds=config.seeds,
        toy=config.toy,
        tried=config.tried.get("harm_vs_refusal_separate", ()),
        also=harm.above_zero and refusal.above_zero and cosine < MOST_COSINE,
        beside=beside,
    )


_PARTS = (
    "harm by delta_harm",
    "harm by delta_refuse",
    "refusal by delta_refuse",
    "refusal by delta_harm",
    "harm at t_post",
    "harm by prompt length",
)


def _above_class_median(refusal_N: Any, harmful_N: Flags) -> Flags:
    """Rows that the model is likelier to refuse than the median of their class, so that harm is balanced."""
    above = np.zeros_like(harmful_N)
    for label in (True, False):
        rows = harmful_N == label
        above[rows] = refusal_N[rows] > np.median(refusal_N[rows])
    return above


def _by_seed(angles: list[Any], site: int) -> list[float]:
    return [float(each[site]) for each in angles]


def _categories(study: Experiment) -> list[dict[str, Any]]:
    """Cosines of the harm directions of the first matched set's categories."""
    name = next((name for name, pool in study.pools.items() if name in study.config.pairs), None)
    if name is None:
        return []
    pool, readings = study.pools[name], study.read(name)
    harmful_N = pool.harmful_N
    labels = [
        str(row.raw.get("category") or row.raw.get("type") or "")
        for row, harmful in zip(pool.rows, harmful_N, strict=True)
        if harmful
    ]
    found = category_directions(readings.inst_NSD[harmful_N], labels, readings.inst_NSD[~harmful_N])
    matrix = cosine_matrix(found.values())
    return [
        {"category": name, **{other: float(value) for other, value in zip(found, row, strict=True)}}
        for name, row in zip(found, matrix, strict=True)
    ]


def _inversion(study: Experiment, settings: InversionConfig, test_N: Flags) -> list[dict[str, Any]]:
    """Share of `No` for harmful and harmless instructions, steered along either direction both ways."""
    pool, readings = study.pools[PUBLISHED], study.read(PUBLISHED)
    fit_N = published_fit(pool, seed=study.config.seeds[0]) & readings.read_N
    centres = study.centres(pool, readings, fit_N)
    directions = {"v_harm": centres.harm.direction, "v_ref": centres.refusal.direction}
    rows = []
    for harmful in (True, False):
        texts = [
            row.text
            for row, taken, label in zip(pool.rows, test_N, pool.harmful_N, strict=True)
            if taken and label == harmful
        ][: settings.instructions]
        for sign in (-1.0, 1.0):
            shares = inversion(
                study.readings.reader.engine,
                texts,
                directions,
                layers=settings.layers,
                coefficient=sign * settings.coefficient,
                questions=QUESTIONS[: settings.questions],
            )
            rows += [
                {"instructions": "harmful" if harmful else "harmless", "n": len(texts), "direction": name,
                 "coefficient": 0.0 if name == "none" else sign * settings.coefficient, "layer": layer, "no": share}
                for name, by_layer in shares.items()
                for layer, share in by_layer.items()
                if name != "none" or sign > 0
            ]  # fmt: skip
    return rows
