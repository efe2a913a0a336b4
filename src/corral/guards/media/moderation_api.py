"""A moderation endpoint as a scorer of frames: each picture is a request with one image part."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

from pydantic import Field

from corral.core.files import sha256_json
from corral.data.media import TimedFrame
from corral.guards.media.base import FrameScore
from corral.guards.media.frame_guard import FrameGuard
from corral.guards.media.pooling import Pooling, PoolingRule
from corral.guards.media.sampling import Sampling, SamplingMethod
from corral.guards.media.vision import LONGEST_SIDE, jpeg_data_uri
from corral.guards.moderation_api.client import TAXONOMY, Moderation, ModerationClient, NoModeration


class ModerationApiScorer:
    """Scores frames by a moderation endpoint that takes pictures.

    Args:
        client: of the endpoint.
        longest_side: pixels to which larger pictures are scaled down before they are sent, as JPEG.
        name: of the scorer.
    """

    taxonomy = TAXONOMY

    def __init__(
        self, client: ModerationClient, *, longest_side: int = LONGEST_SIDE, name: str = "moderation-api-media"
    ) -> None:
        self.name = name
        self._client = client
        self._longest_side = longest_side
        self.revision = sha256_json([client.revision, longest_side])[:16]

    def score(self, frames: Iterable[TimedFrame]) -> list[FrameScore]:
        """Score each frame; see ``FrameScorer.score``."""
        times, inputs = [], []
        for frame in frames:
            times.append(frame.time_s)
            uri = jpeg_data_uri(frame.rgb, self._longest_side)
            inputs.append([{"type": "image_url", "image_url": {"url": uri}}])
        return [_score(time_s, answer) for time_s, answer in zip(times, self._client.ask(inputs), strict=True)]


class ModerationApi:
    """Loads the guard; see ``load``."""

    @staticmethod
    def load(
        *,
        base_url: str,
        model: str = "",
        sampling: SamplingMethod = "uniform",
        frames: Annotated[int, Field(ge=1)] = 8,
        rate: Annotated[float, Field(gt=0)] = 1.0,
        pooling: PoolingRule = "max",
        m: Annotated[int, Field(ge=1)] = 1,
        threshold: Annotated[float, Field(gt=0, le=1)] = 0.5,
    ) -> FrameGuard:
        """The guard of ``model`` at ``base_url``; see ``Sampling``, ``Pooling`` and ``FrameGuard``."""
        scorer = ModerationApiScorer(ModerationClient(base_url, model))
        return FrameGuard(scorer, Sampling(sampling, frames, rate), Pooling(pooling, m), threshold)


def _score(time_s: float, answer: Moderation | NoModeration) -> FrameScore:
    if isinstance(answer, NoModeration):
        return FrameScore(time_s, None, status=answer.status, detail=answer.detail)
    return FrameScore(time_s, answer.p_harm, answer.categories)
