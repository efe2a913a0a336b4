"""A vision model on an OpenAI-compatible endpoint as a scorer of frames, asked for a JSON verdict on each picture."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Annotated, Final

from pydantic import Field

from corral.core.files import sha256_json
from corral.data.media import TimedFrame
from corral.data.media.extra import media_library
from corral.data.media.frames import RgbImage
from corral.data.messages import Conversation
from corral.guards.json_judge.asking import Asked, ask_judge
from corral.guards.json_judge.prompts import TAXONOMY, categories_of, image_prompt, prompt_revision
from corral.guards.media.base import FrameScore
from corral.guards.media.frame_guard import FrameGuard
from corral.guards.media.pooling import Pooling, PoolingRule
from corral.guards.media.sampling import Sampling, SamplingMethod
from corral.models.engines.base import Engine

LONGEST_SIDE: Final = 768
_JPEG_QUALITY: Final = 90
_ANSWER_TOKENS: Final = 128
_AT_ONCE: Final = 8


class VisionScorer:
    """Scores frames by a model that reads pictures.

    Args:
        engine: the model; takes conversations with image parts, as ``OpenAIEngine`` without a tokenizer does.
        categories: codes of the taxonomy ``content_moderation``; all by default.
        longest_side: pixels to which larger pictures are scaled down before they are sent, as JPEG.
        name: of the scorer.
    """

    taxonomy = TAXONOMY

    def __init__(
        self,
        engine: Engine,
        *,
        categories: Sequence[str] = (),
        longest_side: int = LONGEST_SIDE,
        name: str = "vision",
    ) -> None:
        self.name = name
        self._engine = engine
        self._categories = categories_of(categories)
        self._codes = [category.code for category in self._categories]
        self._longest_side = longest_side
        settings = [engine.name, prompt_revision(self._categories), longest_side, _JPEG_QUALITY]
        self.revision = sha256_json(settings)[:16]

    def score(self, frames: Iterable[TimedFrame]) -> list[FrameScore]:
        """Score each frame; see ``FrameScorer.score``."""

        def question(uri: str, reminded: bool) -> Conversation:
            return image_prompt(uri, self._categories, reminded=reminded)

        times: list[float] = []
        prompts: list[Callable[[bool], Conversation]] = []
        for frame in frames:
            times.append(frame.time_s)
            prompts.append(partial(question, jpeg_data_uri(frame.rgb, self._longest_side)))
        results = [
            result
            for start in range(0, len(prompts), _AT_ONCE)
            for result in ask_judge(
                self._engine, prompts[start : start + _AT_ONCE], self._codes, max_new_tokens=_ANSWER_TOKENS
            )
        ]
        return [_frame_score(time_s, result) for time_s, result in zip(times, results, strict=True)]


class Vision:
    """Loads the guard; see ``load``."""

    @staticmethod
    def load(
        *,
        base_url: str,
        model: str,
        categories: Sequence[str] = (),
        sampling: SamplingMethod = "uniform",
        frames: Annotated[int, Field(ge=1)] = 8,
        rate: Annotated[float, Field(gt=0)] = 1.0,
        pooling: PoolingRule = "max",
        m: Annotated[int, Field(ge=1)] = 1,
        threshold: Annotated[float, Field(gt=0, le=1)] = 0.5,
    ) -> FrameGuard:
        """The guard that asks ``model`` at ``base_url``; see ``Sampling``, ``Pooling`` and ``FrameGuard``."""
        from corral.models.engines.openai import OpenAIEngine

        scorer = VisionScorer(OpenAIEngine(base_url, model), categories=categories)
        return FrameGuard(scorer, Sampling(sampling, frames, rate), Pooling(pooling, m), threshold)


def jpeg_data_uri(rgb: RgbImage, longest_side: int) -> str:
    """The picture as a JPEG in a ``data:`` URI, scaled down when a side is longer than this."""
    pillow = media_library("PIL.Image")
    image = pillow.fromarray(rgb)
    image.thumbnail((longest_side, longest_side))
    with io.BytesIO() as buffer:
        image.save(buffer, format="JPEG", quality=_JPEG_QUALITY)
        return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _frame_score(time_s: float, result: Asked) -> FrameScore:
    p_harm = result.answer.p_harm
    if p_harm is None:
        return FrameScore(time_s, None, status=result.status, detail=result.detail)
    categories = {f"{TAXONOMY}/{code}": p_harm for code in result.answer.categories}
    return FrameScore(time_s, p_harm, categories, detail=result.detail)
