"""Pictures and clips that the study makes: gradients, circles, boxes and lines, under a seed; and some that are broken.

They show that images and clips go through real models. Nothing in them is harmful, so no accuracy can be shown: that
needs a licensed set of the user's (``read_manifest``).
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

import numpy as np

from corral.core.files import atomic_path
from corral.data.media.extra import media_library
from corral.data.media.frames import RgbImage
from corral.evals.tasks.content_moderation.items import BENIGN, Item, Modality, content_hash

MADE: Final = "made/shapes"
BROKEN: Final = "made/broken"
_FORMATS: Final = (("png", "PNG"), ("jpg", "JPEG"), ("webp", "WEBP"))
_FRAMES_A_SECOND: Final = 10
_SIZE: Final = (320, 240)


def made_images(folder: Path, count: int, *, seed: int) -> list[Item]:
    """Still pictures in three formats, written unless they are there."""
    items = []
    for number in range(count):
        suffix, name = _FORMATS[number % len(_FORMATS)]
        path = folder / f"image-{seed}-{number:03d}.{suffix}"
        drawing = _drawing(np.random.default_rng([seed, number]), 0.0)
        items.append(_item(_written(path, lambda n=name, d=drawing: _encoded(d, n)), "image", MADE))  # type: ignore[misc]
    return items


def made_clips(folder: Path, count: int, *, frames: int, seed: int) -> list[Item]:
    """Clips in which the shapes move, H.264 in MP4, written unless they are there."""
    items = []
    for number in range(count):
        path = folder / f"clip-{seed}-{number:03d}.mp4"
        items.append(_item(_written(path, lambda n=number: _clip(frames, [seed, 1000 + n])), "video", MADE))  # type: ignore[misc]
    return items


def broken_media(folder: Path, *, seed: int) -> list[Item]:
    """A truncated picture, a forged header, a header of 40,000 x 40,000 pixels and a truncated clip."""
    drawing = _drawing(np.random.default_rng(seed), 0.0)
    jpeg, png = _encoded(drawing, "JPEG"), _encoded(drawing, "PNG")
    huge = png[:16] + struct.pack(">II", 40_000, 40_000) + png[24:]
    clip = _clip(6, [seed, 9])
    contents: dict[str, tuple[bytes, Modality]] = {
        "truncated.jpg": (jpeg[: len(jpeg) // 2], "image"),
        "forged.png": (png[:8] + b"not a picture", "image"),
        "huge.png": (huge, "image"),
        "truncated.mp4": (clip[: len(clip) // 2], "video"),
    }
    return [
        _item(_written(folder / name, lambda d=data: d), modality, BROKEN)  # type: ignore[misc]
        for name, (data, modality) in contents.items()
    ]


def _item(path: Path, modality: Modality, source: str) -> Item:
    return Item(
        id=f"{source}/{path.name}",
        modality=modality,
        style="clip" if modality == "video" else "other",
        category=BENIGN,
        benign_kind="plain",
        language="",
        source=source,
        licence="Apache-2.0",
        cluster=path.name,
        path=path,
        content_hash=content_hash(path.read_bytes()),
    )


def _written(path: Path, make: Callable[[], bytes]) -> Path:
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary:
            temporary.write_bytes(make())
    return path


def _encoded(rgb: RgbImage, name: str) -> bytes:
    with io.BytesIO() as buffer:
        media_library("PIL.Image").fromarray(rgb).save(buffer, name)
        return buffer.getvalue()


def _clip(frames: int, seed: list[int]) -> bytes:
    av: Any = media_library("av")
    with io.BytesIO() as buffer:
        with av.open(buffer, "w", format="mp4") as output:
            stream = output.add_stream("libx264", rate=_FRAMES_A_SECOND)
            stream.width, stream.height, stream.pix_fmt = *_SIZE, "yuv420p"
            stream.codec_context.thread_count = 1
            for index, drawing in enumerate(_moving(frames, seed)):
                frame = av.VideoFrame.from_ndarray(drawing, format="rgb24")
                frame.pts, frame.time_base = index, Fraction(1, _FRAMES_A_SECOND)
                output.mux(stream.encode(frame))
            output.mux(stream.encode())
        return buffer.getvalue()


def _moving(frames: int, seed: list[int]) -> Iterator[RgbImage]:
    for index in range(frames):
        yield _drawing(np.random.default_rng(seed), index / frames)


def _drawing(generator: np.random.Generator, phase: float) -> RgbImage:
    """A gradient with circles, boxes and lines on it, moved to the right by ``phase`` of the width."""
    width, height = _SIZE
    top, bottom = generator.integers(0, 256, (2, 3))
    slope = np.linspace(0, 1, height)[:, None, None]
    background = np.broadcast_to(top * (1 - slope) + bottom * slope, (height, width, 3)).astype(np.uint8)
    image = media_library("PIL.Image").fromarray(np.ascontiguousarray(background))
    draw = media_library("PIL.ImageDraw").Draw(image)
    for _ in range(int(generator.integers(3, 9))):
        x, y, size = (int(value) for value in generator.integers((0, 0, 10), (width, height, 80)))
        colour = tuple(int(value) for value in generator.integers(0, 256, 3))
        left = (x + int(phase * width)) % width
        shape = (draw.ellipse, draw.rectangle, draw.line)[int(generator.integers(3))]
        shape([left, y, left + size, y + size], fill=colour)
    return np.asarray(image, dtype=np.uint8)
