"""What a guard of images and clips is, and what it says: a verdict, and behind it every frame's time and score."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from corral.core.errors import GuardError
from corral.data.media import Modality, TimedFrame
from corral.data.messages import Target
from corral.guards.base import Status, Verdict


@dataclass(frozen=True, slots=True)
class FrameScore:
    """What a scorer said about one frame.

    Attributes:
        time_s: second at which the frame is first shown; 0 for a still image.
        score: probability of harm in [0, 1]; ``None`` unless ``status`` is ok.
        categories: ``taxonomy/code`` to a score in [0, 1].
        status: how the answer came about.
        detail: why the status is not ok.

    Raises:
        GuardError: a score outside [0, 1], or at odds with ``status``.
    """

    time_s: float
    score: float | None
    categories: Mapping[str, float] = field(default_factory=dict, hash=False)
    status: Status = Status.OK
    detail: str | None = None

    def __post_init__(self) -> None:
        if (self.score is not None) != (self.status is Status.OK):
            raise GuardError(f"a frame's score is `{self.score}` with status `{self.status}`")
        for score in (self.score, *self.categories.values()):
            if score is not None and not 0.0 <= score <= 1.0:
                raise GuardError(f"a frame's score is `{score}`, not a probability")

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {
            "time_s": self.time_s,
            "score": self.score,
            "categories": dict(self.categories),
            "status": self.status.value,
            "detail": self.detail,
        }


@dataclass(frozen=True, slots=True)
class MediaVerdict:
    """What one guard said about one image or clip.

    Attributes:
        verdict: as of any guard; ``windows`` counts the frames, ``rejected`` is the status of what cannot be decoded.
        modality: ``None`` where the bytes could not be read.
        sha256: of the bytes.
        frames: what was said about each frame, in order of time.
    """

    verdict: Verdict
    modality: Modality | None
    sha256: str
    frames: tuple[FrameScore, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return self.verdict.to_json() | {
            "modality": self.modality,
            "sha256": self.sha256,
            "frames": [frame.to_json() for frame in self.frames],
        }


@runtime_checkable
class FrameScorer(Protocol):
    """Anything that scores single pictures."""

    @property
    def name(self) -> str:
        """Short name, as in a verdict."""

    @property
    def revision(self) -> str:
        """Content hash or revision of weights and settings."""

    @property
    def taxonomy(self) -> str:
        """Id of the taxonomy its category scores use, "" when it scores none."""

    def score(self, frames: Iterable[TimedFrame]) -> list[FrameScore]:
        """Score each frame; same length and order as taken. Frames are large: take them one at a time."""


@runtime_checkable
class MediaGuard(Protocol):
    """Anything that judges images and clips."""

    @property
    def name(self) -> str:
        """Short name, as in a policy's list of guards."""

    @property
    def revision(self) -> str:
        """Content hash or revision of weights and settings, sampling and pooling included."""

    @property
    def taxonomy(self) -> str:
        """Id of the taxonomy its category scores use, "" when it scores none."""

    def classify_media(self, items: Sequence[bytes], *, target: Target = "prompt") -> list[MediaVerdict]:
        """Judge each image or clip; same length and order as given. What cannot be decoded gives a verdict too."""
