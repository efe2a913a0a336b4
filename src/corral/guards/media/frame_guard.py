"""A guard of images and clips made of a scorer of frames, a way to sample them and a rule to pool their scores."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property

from corral.core.errors import MediaError, MissingDependencyError
from corral.core.files import sha256_json
from corral.data.media import MediaLimits, Modality, open_media
from corral.data.messages import Target
from corral.guards.base import Status, Verdict
from corral.guards.failures import failure_detail
from corral.guards.media.base import FrameScore, FrameScorer, MediaVerdict
from corral.guards.media.pooling import Pooling
from corral.guards.media.sampling import Sampling


@dataclass(frozen=True)
class FrameGuard:
    """Judges an image by its only frame, and a clip by pooled scores of sampled frames.

    Attributes:
        scorer: of single frames.
        sampling: which frames of a clip.
        pooling: of their scores, and of each category's.
        threshold: pooled score from which a clip is flagged; an image is flagged from 0.5. Scores are moved so that
            0.5 is the operating point of both (``centred``).
        limits: of what is decoded.
    """

    scorer: FrameScorer
    sampling: Sampling = field(default_factory=Sampling)
    pooling: Pooling = field(default_factory=Pooling)
    threshold: float = 0.5
    limits: MediaLimits = field(default_factory=MediaLimits)

    @property
    def name(self) -> str:
        """That of the scorer."""
        return self.scorer.name

    @property
    def taxonomy(self) -> str:
        """That of the scorer."""
        return self.scorer.taxonomy

    @cached_property
    def revision(self) -> str:
        """Hash of the scorer's revision and all settings."""
        settings = [asdict(self.sampling), asdict(self.pooling), self.threshold, asdict(self.limits)]
        return sha256_json([self.scorer.revision, *settings])[:16]

    def classify_media(self, items: Sequence[bytes], *, target: Target = "prompt") -> list[MediaVerdict]:
        """Judge each image or clip; see ``MediaGuard.classify_media``.

        Raises:
            MissingDependencyError: a library of ``corral[media]`` is not installed.
        """
        return [self._judge(item, target) for item in items]

    def _judge(self, data: bytes, target: Target) -> MediaVerdict:
        started = time.perf_counter()
        digest = hashlib.sha256(data).hexdigest()
        modality: Modality | None = None
        try:
            media = open_media(data, self.limits)
            modality = media.modality
            frames = tuple(self.scorer.score(media.frames(self.sampling.indices(media)[: self.limits.max_frames])))
        except MissingDependencyError:
            raise
        except MediaError as error:
            return MediaVerdict(self._failed(target, Status.REJECTED, error.message), modality, digest)
        except Exception as error:
            detail = failure_detail("the scorer of frames failed", error)
            return MediaVerdict(self._failed(target, Status.ERROR, detail), modality, digest)
        latency_ms = 1e3 * (time.perf_counter() - started)
        return MediaVerdict(self._verdict(frames, modality, target, latency_ms), modality, digest, frames)

    def _verdict(self, frames: Sequence[FrameScore], modality: Modality, target: Target, latency_ms: float) -> Verdict:
        """Pool what was said. Frames without an answer count as harmless, but then only the rest can give a verdict."""
        if not frames:
            return self._failed(target, Status.ERROR, "the scorer of frames gave no score")
        threshold = self.threshold if modality == "clip" else 0.5
        p_harm = centred(self.pooling([frame.score or 0.0 for frame in frames]), threshold)
        failed = next((frame for frame in frames if frame.status is not Status.OK), None)
        if failed is not None and p_harm < 0.5:
            return self._failed(target, failed.status, f"frame at {failed.time_s:.2f} s: {failed.detail}")
        codes = sorted({code for frame in frames for code in frame.categories})
        return Verdict(
            target,
            self.name,
            self.revision,
            flagged=p_harm >= 0.5,
            p_harm=p_harm,
            categories={
                code: centred(self.pooling([frame.categories.get(code, 0.0) for frame in frames]), threshold)
                for code in codes
            },
            windows=len(frames),
            latency_ms=latency_ms,
        )

    def _failed(self, target: Target, status: Status, detail: str) -> Verdict:
        return Verdict.failed(target, self.name, self.revision, status, detail)


def centred(score: float, threshold: float) -> float:
    """The score moved so that ``threshold`` becomes 0.5: straight lines from 0 to the threshold and from there to 1."""
    if threshold >= 1.0:
        return 0.5 if score >= threshold else score / 2
    if score < threshold:
        return min(score / (2 * threshold), _BELOW_HALF)
    return 0.5 + (score - threshold) / (2 * (1 - threshold))


_BELOW_HALF = 0.5 - 2**-53
