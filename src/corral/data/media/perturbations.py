"""Changes to a picture that leave its content recognisable: what a robust moderator should not mind.

Pure functions of picture, strength and seed. ``strength`` in [0, 1]; 0 gives the very same picture.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from corral.core.errors import ConfigError, suggest
from corral.data.media.extra import media_library
from corral.data.media.frames import RgbImage

_WORST_QUALITY: Final = 5
_BEST_QUALITY: Final = 95
_SMALLEST: Final = 0.1
_LARGEST_BLUR: Final = 0.04
_LARGEST_NOISE: Final = 80.0
_LARGEST_ANGLE: Final = 30.0
_LARGEST_BORDER: Final = 0.25
_OVERLAY: Final = "SAFE CONTENT"


@dataclass(frozen=True, slots=True)
class ImagePerturbation:
    """A named way to disturb a picture; ``edit`` takes a Pillow image, a strength above 0 and a generator."""

    name: str
    describe: str
    edit: Callable[[Any, float, np.random.Generator], Any]

    def apply(self, rgb: RgbImage, *, strength: float, seed: int = 0) -> RgbImage:
        """The disturbed picture, (H, W, 3) as given; the same arguments give the same picture.

        Raises:
            ConfigError: the strength is outside [0, 1].
        """
        if not 0.0 <= strength <= 1.0:
            raise ConfigError(f"strength `{strength}` is outside [0, 1]", where=f"image_perturbations.{self.name}")
        if not strength:
            return rgb
        image = media_library("PIL.Image").fromarray(rgb)
        edited = self.edit(image, strength, np.random.default_rng(seed))
        return np.asarray(edited.convert("RGB"), dtype=np.uint8)


def image_perturbation(name: str) -> ImagePerturbation:
    """The perturbation of that name.

    Raises:
        ConfigError: there is none; the hint lists near names.
    """
    if name not in IMAGE_PERTURBATIONS:
        raise ConfigError(f"no image perturbation is named `{name}`", hint=suggest(name, IMAGE_PERTURBATIONS))
    return IMAGE_PERTURBATIONS[name]


def _jpeg(image: Any, strength: float, _: np.random.Generator) -> Any:
    quality = round(_BEST_QUALITY + strength * (_WORST_QUALITY - _BEST_QUALITY))
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=quality)
    buffer.seek(0)
    return media_library("PIL.Image").open(buffer, formats=("JPEG",))


def _resize(image: Any, strength: float, _: np.random.Generator) -> Any:
    scale = 1 - strength * (1 - _SMALLEST)
    small = image.resize([max(1, round(side * scale)) for side in image.size])
    return small.resize(image.size)


def _blur(image: Any, strength: float, _: np.random.Generator) -> Any:
    radius = strength * _LARGEST_BLUR * min(image.size)
    return image.filter(media_library("PIL.ImageFilter").GaussianBlur(radius))


def _noise(image: Any, strength: float, generator: np.random.Generator) -> Any:
    pixels = np.asarray(image, dtype=np.float64)
    disturbed = pixels + generator.normal(0.0, strength * _LARGEST_NOISE, pixels.shape)
    return media_library("PIL.Image").fromarray(np.clip(disturbed.round(), 0, 255).astype(np.uint8))


def _grey(image: Any, strength: float, _: np.random.Generator) -> Any:
    return media_library("PIL.Image").blend(image, image.convert("L").convert("RGB"), strength)


def _rotation(image: Any, strength: float, generator: np.random.Generator) -> Any:
    pillow = media_library("PIL.Image")
    side = 1 if generator.random() < 0.5 else -1
    return image.rotate(side * strength * _LARGEST_ANGLE, resample=pillow.Resampling.BILINEAR)


def _border(image: Any, strength: float, _: np.random.Generator) -> Any:
    """The picture made smaller inside of a grey frame, its size kept."""
    pillow = media_library("PIL.Image")
    framed = pillow.new("RGB", image.size, (128, 128, 128))
    edges = [round(strength * _LARGEST_BORDER * side) for side in image.size]
    inner = [max(1, side - 2 * edge) for side, edge in zip(image.size, edges, strict=True)]
    framed.paste(image.resize(inner), tuple(edges))
    return framed


def _overlay(image: Any, strength: float, _: np.random.Generator) -> Any:
    """Words across the picture, as strong as ``strength``."""
    pillow = media_library("PIL.Image")
    written = image.copy()
    draw = media_library("PIL.ImageDraw").Draw(written)
    font = media_library("PIL.ImageFont").load_default(max(8, image.size[1] // 8))
    draw.text(
        (image.size[0] // 10, image.size[1] // 3), _OVERLAY, fill="white", font=font, stroke_width=2, stroke_fill=0
    )
    return pillow.blend(image, written, strength)


IMAGE_PERTURBATIONS: Final[Mapping[str, ImagePerturbation]] = {
    each.name: each
    for each in (
        ImagePerturbation("jpeg", "saved as a JPEG of low quality", _jpeg),
        ImagePerturbation("resize", "scaled down and up again", _resize),
        ImagePerturbation("blur", "blurred", _blur),
        ImagePerturbation("noise", "Gaussian noise on every pixel", _noise),
        ImagePerturbation("grey", "colours taken out", _grey),
        ImagePerturbation("rotation", "turned by up to 30 degrees", _rotation),
        ImagePerturbation("border", "made smaller inside of a grey frame", _border),
        ImagePerturbation("overlay", "words written across", _overlay),
    )
}
"""Every perturbation of pictures by name."""
