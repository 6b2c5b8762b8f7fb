"""What is random in a training image: a value, and the numbers that are drawn for a batch.

In: an `Augmentation` and a generator. Out: one row of numbers for each image, all drawn at once,
so that an image depends neither on the thread that makes it nor on the time.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from image_classification.data.policy import MAX_OPERATIONS, OPERATIONS
from image_classification.errors import HyperparameterError

_TRIALS = 10  # areas and aspect ratios tried before the centre is taken, as in torchvision

NUMBERS = np.dtype(
    [
        ("top", "f8"), ("left", "f8"), ("tall", "f8", _TRIALS), ("wide", "f8", _TRIALS),
        ("mirror", "?"), ("upside_down", "?"),
        ("rotation", "f8"), ("zoom", "f8"), ("shear", "f8"), ("ratio", "f8"),
        ("hue", "i8"), ("saturation", "i8"), ("lightness", "i8"),
        ("operations", "i8", MAX_OPERATIONS), ("signs", "f8", MAX_OPERATIONS),
        ("erased", "?"), ("erasing", "f8", 4),
    ]
)  # fmt: skip
"""One row for each image: `top` and `left` as shares, 0 to below 1, of the room for the crop; the
parts to try, `tall` and `wide` as shares of the side of a square of the image's area."""


@dataclass(frozen=True)
class Augmentation:
    """What is random in a training image; the default is nothing, which equals `prepare`.

    Attributes:
        crop: "center", "random" (any position of the resized image) or "random_resized" (a part
            of random area and aspect ratio, resized to the input; `Preprocessing.resize` and
            `mode` play no part).
        area: lowest and highest share of the image's area, for "random_resized".
        aspect: lowest and highest width / height, drawn uniformly in its logarithm.
        horizontal_flip, vertical_flip: probabilities.
        rotation: lowest and highest angle in degrees, positive counter-clockwise.
        zoom: lowest and highest zoom; 0.1 shows 10 % more of the image, −0.1 less.
        shear: largest shear either way.
        stretch: largest change of the aspect ratio either way: 1 ± stretch.
        hue, saturation, lightness: largest offsets either way, see `colour`.
        fill: what lies outside a warped image: "reflect" or a grey level.
        operations, magnitude: of a RandAugment policy, 0 to 4 operations of strength 0 to 30.
        erasing: probability that a rectangle is erased.
    """

    crop: str = "center"
    area: tuple[float, float] = (0.08, 1.0)
    aspect: tuple[float, float] = (3 / 4, 4 / 3)
    horizontal_flip: float = 0.0
    vertical_flip: float = 0.0
    rotation: tuple[float, float] = (0.0, 0.0)
    zoom: tuple[float, float] = (0.0, 0.0)
    shear: float = 0.0
    stretch: float = 0.0
    hue: int = 0
    saturation: int = 0
    lightness: int = 0
    fill: int | str = "reflect"
    operations: int = 0
    magnitude: float = 9.0
    erasing: float = 0.0

    @classmethod
    def mxnet(cls, augmentation_type: str | None) -> Augmentation:
        """The levels of the MXNet built-in (contract, 2.5); None or "none" is no augmentation."""
        if augmentation_type in (None, "", "none"):
            return cls()
        crop = cls(crop="random", horizontal_flip=0.5)
        colour = replace(crop, hue=36, saturation=50, lightness=50)
        levels = {
            "crop": crop,
            "crop_color": colour,
            "crop_color_transform": replace(
                colour, rotation=(-10.0, 10.0), shear=0.1, stretch=0.25, fill=255
            ),
        }
        if augmentation_type not in levels:
            raise HyperparameterError(
                f"augmentation_type must be one of {', '.join(levels)}, got {augmentation_type!r}"
            )
        return levels[str(augmentation_type)]

    @classmethod
    def keras(cls, flip: str, rotation: float, zoom: float) -> Augmentation:
        """The three layers of the TensorFlow built-in: RandomFlip, RandomRotation, RandomZoom.

        Args:
            flip: "horizontal_and_vertical", "horizontal", "vertical" or "None".
            rotation: largest turn either way as a fraction of a full turn.
            zoom: largest zoom either way.
        """
        modes = ("horizontal_and_vertical", "horizontal", "vertical", "None")
        if flip not in modes:
            raise HyperparameterError(
                f"augmentation_random_flip must be one of {', '.join(modes)}, got {flip!r}"
            )
        degrees = 360 * abs(rotation)
        return cls(
            horizontal_flip=0.5 if "horizontal" in flip else 0.0,
            vertical_flip=0.5 if "vertical" in flip else 0.0,
            rotation=(-degrees, degrees),
            zoom=(-abs(zoom), abs(zoom)),
        )

    @property
    def warps(self) -> bool:
        """Whether images are rotated, zoomed, sheared or stretched."""
        return any((*self.rotation, *self.zoom, self.shear, self.stretch))


def plan(
    augmentation: Augmentation, generator: np.random.Generator, count: int
) -> npt.NDArray[np.void]:
    """The numbers of `count` images, dtype `NUMBERS`; as many draws for each, whatever is used."""
    draws = generator.random((count, 20 + 2 * _TRIALS))
    numbers = np.zeros(count, NUMBERS)
    numbers["top"], numbers["left"] = draws[:, 0], draws[:, 1]
    numbers["mirror"] = draws[:, 2] < augmentation.horizontal_flip
    numbers["upside_down"] = draws[:, 3] < augmentation.vertical_flip
    stretch = augmentation.stretch
    ranges = {
        "rotation": augmentation.rotation,
        "zoom": augmentation.zoom,
        "shear": (-augmentation.shear, augmentation.shear),
        "ratio": (1 - stretch, 1 + stretch),
    }
    for column, (name, (low, high)) in enumerate(ranges.items(), start=4):
        numbers[name] = low + (high - low) * draws[:, column]
    for column, name in enumerate(("hue", "saturation", "lightness")):
        limit = getattr(augmentation, name)
        # MXNet's mean of two draws, which makes extremes rarer; truncated towards 0 like there.
        share = (draws[:, 8 + 2 * column] + 4 * draws[:, 9 + 2 * column]) / 5
        numbers[name] = np.trunc((2 * share - 1) * limit)
    (low, high), (flat, wide) = augmentation.area, np.log(augmentation.aspect)
    area = low + (high - low) * draws[:, 20 : 20 + _TRIALS]
    aspect = np.exp(flat + (wide - flat) * draws[:, 20 + _TRIALS :])
    numbers["tall"], numbers["wide"] = np.sqrt(area / aspect), np.sqrt(area * aspect)
    _plan_policy(numbers, augmentation, generator.random((count, 5 + 2 * MAX_OPERATIONS)))
    return numbers


def _plan_policy(
    numbers: npt.NDArray[np.void], augmentation: Augmentation, draws: npt.NDArray[np.float64]
) -> None:
    numbers["erased"] = draws[:, 0] < augmentation.erasing
    numbers["erasing"] = draws[:, 1:5]
    numbers["operations"] = len(OPERATIONS) * draws[:, 5 : 5 + MAX_OPERATIONS]
    numbers["signs"] = np.where(draws[:, 5 + MAX_OPERATIONS :] < 0.5, -1.0, 1.0)
