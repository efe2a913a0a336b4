"""How a chat model is trained with DOOR: settings alone, so that reading a recipe needs no training library."""

from __future__ import annotations

from pydantic import Field

from corral.core.config import Config
from corral.train.fine_tuning_settings import FineTuningConfig, PreferenceStageConfig


class HarmfulStartConfig(Config):
    """What of the harmful answer stands before both sides."""

    p_zero: float = Field(0.5, ge=0, le=1, description="share of triples without any, as released")
    longest: int = Field(100, ge=1, description="tokens, at the most, as released")


class DoorConfig(FineTuningConfig):
    """DOOR, and with ``weighted`` W-DOOR; defaults are the released code's."""

    weighted: bool = Field(False, description="W-DOOR: weigh the safe answer's tokens by a preference-trained model")
    share: float = Field(0.2, gt=0, le=1, description="alpha: of both safety terms; the rest is the help rows'")
    beta: float = Field(0.5, gt=0, description="of unlearning: how soon it is content")
    tau: float = Field(1.0, gt=0, description="weighted only: the larger, the more even the weights")
    start: HarmfulStartConfig = Field(default_factory=HarmfulStartConfig)
    preference: PreferenceStageConfig = Field(
        default_factory=PreferenceStageConfig, description="weighted only: training of the model that weighs"
    )
