"""What pooling rules do to false alarms and to short events, on clips whose frame scores are planted.

A harmless clip's frames score uniformly in [0, 1] and independently; a frame is flagged at its own threshold with
probability q. In a harmful clip a run of frames scores high. So the false-alarm rate that independence predicts can be
seen, and what calibration on clips does to it and to recall. Simulated: real frames are correlated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from corral.core.metric_inputs import Floats
from corral.core.stats import wilson
from corral.evals.report_tables import Table
from corral.guards.media.pooling import Pooling, clip_threshold, independent_flag_rate
from corral.studies.content_moderation.settings import VideoConfig

_HARM_LOW: Final = 0.985


def pooling_table(config: VideoConfig, *, seed: int) -> list[dict[str, Any]]:
    """A row for each rule and number of frames: predicted and seen rates, before and after calibration."""
    rows = []
    for k in config.frames:
        development, test, harmful = _clips(config, k, seed)
        for rule, m in config.rules:
            pool = Pooling(rule, m)
            calibrated = clip_threshold([pool(clip) for clip in development.tolist()], max_fpr=config.max_fpr)
            scores = [pool(clip) for clip in test.tolist()]
            found = [pool(clip) for clip in harmful.tolist()]
            own = 1 - config.frame_rate
            rows.append(
                {
                    "rule": rule if rule == "max" else f"{rule}, m = {m}",
                    "frames": k,
                    "predicted_fpr": None if rule == "top_mean" else independent_flag_rate(config.frame_rate, k, m),
                    "fpr": _rate(scores, own),
                    "recall": _rate(found, own),
                    "calibrated_threshold": calibrated,
                    "calibrated_fpr": _rate(scores, calibrated),
                    "calibrated_recall": _rate(found, calibrated),
                }
            )
    return rows


def as_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """The rows as reports print them."""
    columns = ("rule", "frames", "false alarms predicted", "false alarms", "recall")
    return Table(
        "Pooling on simulated clips with planted scores, frames independent",
        (*columns, "false alarms, calibrated", "recall, calibrated"),
        tuple(
            (
                row["rule"],
                str(row["frames"]),
                "-" if row["predicted_fpr"] is None else f"{row['predicted_fpr']:.3f}",
                *(f"{row[name]['value']:.3f}" for name in ("fpr", "recall", "calibrated_fpr", "calibrated_recall")),
            )
            for row in rows
        ),
    )


def _clips(config: VideoConfig, k: int, seed: int) -> tuple[Floats, Floats, Floats]:
    generator = np.random.default_rng([seed, k])
    development, test, harmful = generator.random((3, config.clips, k))
    length = max(1, round(config.short_share * k))
    for clip in harmful:
        start = int(generator.integers(0, k - length + 1))
        clip[start : start + length] = generator.uniform(_HARM_LOW, 1.0, length)
    return development, test, harmful


def _rate(scores: list[float], threshold: float) -> dict[str, Any]:
    return wilson(sum(score >= threshold for score in scores), len(scores)).to_json()
