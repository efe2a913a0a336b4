"""Claim ``multi_label_head_vs_generative_speed``: one forward pass of a head against an answer that is written.

Both guards are made from one base and the same rows, and judge the same held-out prompts in one process, batch by batch
and by turns, so that whatever else the machine does falls on all of them. The fastest of several repeats counts.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from corral.core import weighted
from corral.core.evidence import Claim
from corral.core.files import atomic_write_json, read_json, sha256_json
from corral.core.metric_inputs import Floats, as_binary
from corral.core.progress import milestone, progress
from corral.core.stats import Estimate, cluster_bootstrap, wilson
from corral.data.examples import ModerationExample, rows_hash
from corral.data.messages import Conversation
from corral.guards.base import Guard
from corral.studies.claims import NOTHING_ELSE, compare_over_seeds, point_of
from corral.studies.duoguard.rows import HELD_OUT, StudyRows
from corral.studies.duoguard.settings import DuoGuardConfig
from corral.studies.duoguard.trainings import Guards

CLAIM: Final = "multi_label_head_vs_generative_speed"
LEAST_RATIO: Final = 2.0
MOST_LOST: Final = 0.05
HEAD: Final = "head"
WRITTEN: Final = "generative, written"
SCORED: Final = "generative, scored"
_SPEED: Final = "speed.json"


def multi_label_head_vs_generative_speed(guards: Guards, rows: StudyRows, config: DuoGuardConfig) -> Claim:
    """Time the guards of the first seed on held-out prompts, and compare what they say."""
    seconds = _timed(guards, rows, config)
    ratios = {name: _ratio(seconds[name], seconds[HEAD], config) for name in (WRITTEN, SCORED)}
    main = ratios[WRITTEN]
    held_out = rows.sets[HELD_OUT]
    truth, clusters = as_binary([row.harmful for row in held_out]), [row.group for row in held_out]
    seeds = config.seeds[: config.generative_seeds]
    heads = [guards.judge("zlpr", seed, held_out) for seed in seeds]
    written = [guards.judge_generative(seed, held_out, decode="generate") for seed in seeds]
    f1 = compare_over_seeds(
        [weighted.rate(truth, each.flagged, "f1") for each in heads],
        [weighted.rate(truth, each.flagged, "f1") for each in written],
        clusters,
        seed=config.seed,
        replicates=config.replicates,
    )
    level = f1.difference.low is not None and f1.difference.low > -MOST_LOST
    holds = main.low is not None and main.low > LEAST_RATIO and level
    times = {name: float(np.sum(values)) for name, values in seconds.items()}
    n = min(config.speed.rows, len(held_out))
    return Claim(
        claim=CLAIM,
        metric=f"time of a guard that writes its answer over that of the head, {n} prompts in batches of "
        f"{config.speed.batch}, fastest of {config.speed.repeats}, one process",
        baseline=1.0,
        ours={
            "ratio": main.value,
            "ratio_ci95": _interval(main),
            "ratio to scored answers": ratios[SCORED].value,
            "ratio to scored answers_ci95": _interval(ratios[SCORED]),
            "f1": f1.to_json(),
            "guards": [
                {"guard": name, "seconds": total, "ms a prompt": 1e3 * total / n} for name, total in times.items()
            ],
            "agreement": [
                _agreement(seed, head.flagged, theirs.flagged, clusters, theirs.unscored)
                for seed, head, theirs in zip(seeds, heads, written, strict=True)
            ],
        },
        n=n,
        ci95=main.ci95,
        seeds=seeds,
        expected=f"the whole interval of the ratio, batches resampled, lies above {LEAST_RATIO:g} (paper: 45.6 ms "
        "against 16.0 ms, 1B against 0.5B on a GPU), and F1 at 0.5 on the held-out rows is not lower by more than "
        f"{MOST_LOST:g}: the interval of the difference lies above that; agreement is shown. Speed does not depend on "
        "a seed, so the generative guard is trained with few",
        holds=holds,
        toy=config.toy,
        tried=config.tried.get(CLAIM, ()) or (() if holds else NOTHING_ELSE),
    )


def _timed(guards: Guards, rows: StudyRows, config: DuoGuardConfig) -> Mapping[str, Floats]:
    """Seconds of each batch by guard; measured once a run and kept in ``speed.json``."""
    chosen = rows.sets[HELD_OUT][: config.speed.rows]
    key = sha256_json([rows_hash(chosen), config.speed.model_dump(), config.scoring_dtype])
    path = guards.run.artefacts / _SPEED
    if not path.is_file() or read_json(path)["key"] != key:
        found = _measure(_loaded(guards, config), chosen, config)
        atomic_write_json(path, {"key": key, "seconds": {name: list(values) for name, values in found.items()}})
    return {name: np.array(values) for name, values in read_json(path)["seconds"].items()}


def _loaded(guards: Guards, config: DuoGuardConfig) -> dict[str, Guard]:
    seed = config.seeds[0]
    return {
        HEAD: guards.classifier("zlpr", seed),
        WRITTEN: guards.generative(seed, "generate"),
        SCORED: guards.generative(seed, "score"),
    }


def _measure(
    guards: Mapping[str, Guard], rows: Sequence[ModerationExample], config: DuoGuardConfig
) -> dict[str, list[float]]:
    batches = [
        [row.conversation for row in rows[start : start + config.speed.batch]]
        for start in range(0, len(rows), config.speed.batch)
    ]
    for guard in guards.values():
        guard.classify(batches[0], target="prompt")  # what is made ready once belongs to loading
    fastest: dict[str, list[float]] = {name: [] for name in guards}
    with progress(len(batches), "Timing") as bar:
        for batch in batches:
            for seconds in fastest.values():
                seconds.append(float("inf"))
            for _ in range(config.speed.repeats):
                for name, guard in guards.items():
                    fastest[name][-1] = min(fastest[name][-1], _seconds(guard, batch))
            bar.advance(1)
    milestone(", ".join(f"{name} {sum(values):.2f} s" for name, values in fastest.items()))
    return fastest


def _seconds(guard: Guard, batch: Sequence[Conversation]) -> float:
    started = time.perf_counter()
    guard.classify(batch, target="prompt")
    return time.perf_counter() - started


def _ratio(slow: Floats, fast: Floats, config: DuoGuardConfig) -> Estimate:
    """Total time over total time, its interval over resampled batches."""

    def statistic(weights_NR: Floats) -> Floats:
        ratio: Floats = (slow @ weights_NR) / np.maximum(fast @ weights_NR, 1e-12)
        return ratio

    return cluster_bootstrap(statistic, list(range(len(slow))), seed=config.seed, replicates=config.replicates)


def _agreement(seed: int, ours: Any, theirs: Any, clusters: Sequence[str], unscored: int) -> dict[str, Any]:
    same = int((ours == theirs).sum())
    share = wilson(same, len(ours))
    return {
        "seed": seed,
        "n": len(ours),
        "prompts": len(set(clusters)),
        "same decision": same / len(ours),
        "same decision_ci95": _interval(share),
        "kappa": point_of(weighted.rate(theirs.astype(np.int8), ours, "kappa"), len(ours)),
        "answers not read": unscored,
    }


def _interval(estimate: Estimate) -> list[float] | None:
    return None if estimate.ci95 is None else list(estimate.ci95)
