"""Claim: on matched pairs, where style tells nothing, the guard beats a bag of words trained on the same rows."""

from __future__ import annotations

from typing import Any

import numpy as np

from corral.core.errors import RunError
from corral.core.evidence import Claim
from corral.core.metric_inputs import Floats
from corral.evals.baselines import train_bag_of_words
from corral.guards.latent_guard.centres import Variant
from corral.guards.latent_guard.fitting import harm_centres
from corral.guards.latent_guard.shards import Readings
from corral.studies.claims import Compared, claim_of, compare_over_seeds
from corral.studies.latent_guard.experiment import Experiment
from corral.studies.latent_guard.measures import ScoredPools, harm_scores
from corral.studies.latent_guard.rows import FIT, PUBLISHED, Pool, pair_names, published_fit


def beats_bag_of_words_on_matched_pairs(study: Experiment) -> Claim:
    """The guard that ships against a bag of words and other controls, on harmful prompts and harmless look-alikes."""
    config = study.config
    pools = tuple(study.pools[name] for name in pair_names(config))
    readings = tuple(study.read(pool.name) for pool in pools)
    ours = _scored(pools, [_guard(study, seed, readings) for seed in config.seeds])
    words = _scored(pools, [_words(study, seed, pools) for seed in config.seeds])
    beside: dict[str, Any] = {}

    def compare(first: ScoredPools, second: ScoredPools) -> Compared:
        return compare_over_seeds(
            first.mean_auroc(), second.mean_auroc(), first.clusters, seed=config.seed, replicates=config.replicates
        )

    for number, pool in enumerate(pools):
        beside[pool.name] = compare_over_seeds(
            ours.of_pool(number),
            words.of_pool(number),
            [(pool.name, group) for group in pool.groups],
            seed=config.seed,
            replicates=config.replicates,
        ).to_json()
    controls = {
        "prompt length": [_lengths(pools) for _ in config.seeds],
        "the published variant (all sites, raw, t_inst)": [_published(study, s, readings, FIT) for s in config.seeds],
        "a linear probe on the same rows, best site": [_probe(study, seed, readings) for seed in config.seeds],
    }
    if study.pools.get(PUBLISHED) is not None:
        controls["the published variant on the published rows"] = [
            _published(study, seed, readings, PUBLISHED) for seed in config.seeds
        ]
    for name, scores in controls.items():
        beside[f"against {name}"] = compare(ours, _scored(pools, scores)).to_json()
        beside[f"{name}, against the bag of words"] = compare(_scored(pools, scores), words).to_json()
    beside["chosen on development rows"] = [_chosen(study, seed) for seed in config.seeds]
    return claim_of(
        "beats_bag_of_words_on_matched_pairs",
        compare(ours, words),
        metric=f"AUROC of harm, mean over {', '.join(pool.name for pool in pools)}: Delta_harm of centres fitted on "
        "`fit` rows, position, sites and transform chosen on development rows; against a bag of words trained on the "
        "same rows",
        expected="the interval of the difference lies above 0",
        seeds=config.seeds,
        toy=config.toy,
        tried=config.tried.get("beats_bag_of_words_on_matched_pairs", ()),
        beside=beside,
    )


def _scored(pools: tuple[Pool, ...], scores: list[tuple[Floats, ...]]) -> ScoredPools:
    return ScoredPools(pools, tuple(scores))


def _guard(study: Experiment, seed: int, readings: tuple[Readings, ...]) -> tuple[Floats, ...]:
    centres = study.fitted(seed).centres
    return tuple(harm_scores(centres, each) for each in readings)


def _words(study: Experiment, seed: int, pools: tuple[Pool, ...]) -> tuple[Floats, ...]:
    rows = [row for row, taken in zip(study.pools[FIT].rows, study.fitted(seed).train_N, strict=True) if taken]
    guard = train_bag_of_words(rows, seed=seed)
    return tuple(
        np.array([verdict.p_harm for verdict in guard.classify(pool.conversations, target="prompt")], dtype=np.float64)
        for pool in pools
    )


def _lengths(pools: tuple[Pool, ...]) -> tuple[Floats, ...]:
    return tuple(np.array([float(len(row.text)) for row in pool.rows]) for pool in pools)


def _published(study: Experiment, seed: int, readings: tuple[Readings, ...], name: str) -> tuple[Floats, ...]:
    pool, fit = study.pools[name], study.read(name)
    chosen_N = study.fitted(seed).train_N if name == FIT else published_fit(pool, seed=seed) & fit.read_N
    centres = harm_centres(fit.rows(chosen_N), pool.harmful_N[chosen_N])
    return tuple(Variant().score(each.inst_NSD, centres) for each in readings)


def _probe(study: Experiment, seed: int, readings: tuple[Readings, ...]) -> tuple[Floats, ...]:
    """Logistic regression on standardised states of the one site and position that is best on development rows."""
    from corral.guards.latent_guard.probe import best_probe

    pool, fit = study.pools[FIT], study.read(FIT)
    train_N = study.fitted(seed).train_N
    development_N = ~train_N & fit.read_N
    if not development_N.any():
        raise RunError("no development rows", where="development")
    probe = best_probe(
        fit.rows(train_N), pool.harmful_N[train_N], fit.rows(development_N), pool.harmful_N[development_N]
    )
    return tuple(probe.score(each) for each in readings)


def _chosen(study: Experiment, seed: int) -> dict[str, Any]:
    fitted = study.fitted(seed)
    record = fitted.centres.record
    return {
        "seed": seed,
        "position": record.harm.position,
        "sites": record.harm.sites,
        "transform": record.harm.transform,
        "development auroc": fitted.development_auroc,
        "alpha": record.harm_calibration.threshold,
        "rows": int(fitted.train_N.sum()),
    }
