"""A scorer of frames that follows a rule: for tests, examples and simulations without a model. It protects nothing.

On the command line ``--media-guard scripted-media`` scores a frame by the share of its pixels that are pure red.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Annotated

import numpy as np
from pydantic import Field

from corral.core.files import sha256_json
from corral.data.media import TimedFrame
from corral.guards.media.base import FrameScore
from corral.guards.media.frame_guard import FrameGuard
from corral.guards.media.pooling import Pooling, PoolingRule
from corral.guards.media.sampling import Sampling, SamplingMethod

_PURE = 200
_FAINT = 60


class ScriptedScorer:
    """Scores frames by a function.

    Args:
        rule: from a frame to its score in [0, 1]; the share of red pixels by default.
        name: of the scorer.
    """

    taxonomy = ""

    def __init__(self, rule: Callable[[TimedFrame], float] | None = None, *, name: str = "scripted-media") -> None:
        self._rule = rule or red_share
        self.name = name
        self.revision = sha256_json([name, rule is not None])[:16]

    def score(self, frames: Iterable[TimedFrame]) -> list[FrameScore]:
        """Score each frame; see ``FrameScorer.score``."""
        return [FrameScore(frame.time_s, self._rule(frame)) for frame in frames]


class ScriptedMedia:
    """Loads the guard; see ``load``."""

    @staticmethod
    def load(
        *,
        sampling: SamplingMethod = "uniform",
        frames: Annotated[int, Field(ge=1)] = 16,
        rate: Annotated[float, Field(gt=0)] = 1.0,
        pooling: PoolingRule = "max",
        m: Annotated[int, Field(ge=1)] = 1,
        threshold: Annotated[float, Field(gt=0, le=1)] = 0.5,
    ) -> FrameGuard:
        """The guard of red pictures with these settings; see ``Sampling``, ``Pooling`` and ``FrameGuard``."""
        return FrameGuard(ScriptedScorer(), Sampling(sampling, frames, rate), Pooling(pooling, m), threshold)


def red_share(frame: TimedFrame) -> float:
    """Share of pixels with much red and hardly any green or blue."""
    red, green, blue = np.moveaxis(frame.rgb, 2, 0)
    return float(((red >= _PURE) & (green <= _FAINT) & (blue <= _FAINT)).mean())
