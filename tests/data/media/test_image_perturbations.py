import numpy as np
import pytest

from corral.core.errors import ConfigError
from corral.data.media.perturbations import IMAGE_PERTURBATIONS, image_perturbation

_Y, _X = np.mgrid[0:48, 0:64]
_BOXES = 40 * ((_X // 6 + _Y // 6) % 2)
RGB = np.stack([3 * _X + _BOXES, 4 * _Y + _BOXES, (_X + _Y) + _BOXES], axis=-1).astype(np.uint8)


@pytest.mark.parametrize("name", sorted(IMAGE_PERTURBATIONS))
def test_strength_0_gives_the_very_same_picture_and_more_changes_more(name: str) -> None:
    edit = image_perturbation(name)
    assert edit.apply(RGB, strength=0.0) is RGB
    weak, strong = (edit.apply(RGB, strength=strength).astype(int) for strength in (0.2, 1.0))
    assert weak.shape == strong.shape == RGB.shape
    assert 0 < np.abs(weak - RGB).mean() < np.abs(strong - RGB).mean()


@pytest.mark.parametrize("name", sorted(IMAGE_PERTURBATIONS))
def test_the_same_arguments_give_the_same_picture(name: str) -> None:
    first, second = (image_perturbation(name).apply(RGB, strength=0.5, seed=3) for _ in range(2))
    assert np.array_equal(first, second)


def test_full_grey_has_equal_channels_and_a_full_border_is_grey() -> None:
    grey = image_perturbation("grey").apply(RGB, strength=1.0)
    assert np.array_equal(grey[..., 0], grey[..., 1])
    assert (image_perturbation("border").apply(RGB, strength=1.0)[0, 0] == 128).all()


def test_unknown_names_and_strengths_are_refused() -> None:
    with pytest.raises(ConfigError, match="blurr"):
        image_perturbation("blurr")
    with pytest.raises(ConfigError, match="outside"):
        image_perturbation("blur").apply(RGB, strength=-1)
