"""Settings of the content moderation study."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

from pydantic import Field

from corral.core.config import Config
from corral.data.mixture import MixtureEntry
from corral.guards.media.pooling import PoolingRule

ClaimId = Literal[
    "three_modalities_scored", "llm_vs_classical_text", "benign_news_overflagging", "perturbation_and_injection"
]
CLAIMS: Final[tuple[ClaimId, ...]] = (
    "three_modalities_scored",
    "llm_vs_classical_text",
    "benign_news_overflagging",
    "perturbation_and_injection",
)


class EndpointConfig(Config):
    """A published moderator behind an OpenAI-compatible server; without ``base_url`` it is missing.

    ``asks`` says whether it is a general model that is prompted, or an endpoint of the shape of ``/v1/moderations``.
    """

    name: str
    model: str
    reads: Literal["text", "pictures"]
    asks: Literal["chat", "moderations"] = "chat"
    base_url: str | None = None


class ClassicConfig(Config):
    """What the bag of words is fitted to."""

    mixture: tuple[MixtureEntry, ...]
    keep_clean_of: tuple[str, ...] = ()
    held_out: float = Field(0.2, gt=0, lt=1, description="share of groups that are kept for testing and calibration")


class VideoConfig(Config):
    """The simulation of pooling on clips with planted scores."""

    clips: int = Field(2000, ge=10, description="harmless clips to calibrate on, as many to test, as many harmful ones")
    frames: tuple[int, ...] = (4, 16, 60)
    rules: tuple[tuple[PoolingRule, int], ...] = Field(
        (("max", 1), ("m_of_k", 2), ("top_mean", 3)), description="pooling rules, each with its m"
    )
    frame_rate: float = Field(0.01, gt=0, lt=1, description="false-flag rate of one frame at its own threshold")
    max_fpr: float = Field(0.05, gt=0, lt=1, description="what thresholds are calibrated to")
    short_share: float = Field(0.05, gt=0, le=1, description="share of a harmful clip's frames that show the harm")


class ContentModerationConfig(Config):
    """Settings of the recipe."""

    seed: int = 0
    seeds: tuple[int, ...] = Field((0, 1, 2), description="of perturbations")
    text_sets: Mapping[str, int] = Field(default_factory=dict, description="public text set to how many items of it")
    control_places: int = Field(3, ge=1, le=8, description="places of each pair of self-written controls")
    self_written_harmful: bool = Field(
        False, description="add the packaged one-sentence requests: for runs without data"
    )
    images: int = Field(24, ge=1)
    clips: int = Field(12, ge=1)
    clip_frames: int = Field(30, ge=2, description="frames of a made clip, ten a second")
    sampled_frames: int = Field(8, ge=1, description="frames of a clip that are judged")
    manifest: str | None = Field(None, description="CSV or JSONL file that lists the user's own images and clips")
    manifest_needed: bool = False
    guard: str = Field("default", description="the guard of text, a trained classifier")
    judge: str | None = Field(None, description="the model that is prompted; `tiny:random` for a tiny random one")
    judge_items: int = Field(
        200, ge=1, description="items that slow moderators see under conditions and the judge sees"
    )
    judge_controls: int = Field(200, ge=2, description="controls beside them")
    written_items: int = Field(24, ge=0, description="items about which the judge writes its answer")
    media_guard: str = "open-nsfw"
    endpoints: tuple[EndpointConfig, ...] = ()
    classic: ClassicConfig
    text_perturbations: tuple[str, ...] = ("homoglyph", "zero_width")
    strengths: tuple[float, ...] = (0.1, 0.3)
    image_perturbations: tuple[str, ...] = ()
    image_strength: float = Field(0.5, ge=0, le=1)
    video: VideoConfig = Field(default_factory=VideoConfig)
    show_content: bool = Field(False, description="show texts and pictures of errors, which may describe serious harm")
    replicates: int = Field(2000, ge=10)
    tried: Mapping[str, tuple[str, ...]] = Field(default_factory=dict)

    @property
    def toy(self) -> bool:
        """Whether the text is self-written or the judge random, so that text claims are toys."""
        return not self.text_sets or self.judge == "tiny:random"

    def missing(self) -> list[str]:
        """What the user has to give before the run can start."""
        servers = [
            f"`endpoints.{i}.base_url`: the server of {each.model}"
            for i, each in enumerate(self.endpoints)
            if each.base_url is None
        ]
        return servers + (["`manifest`: your images and clips"] if self.manifest_needed and not self.manifest else [])
