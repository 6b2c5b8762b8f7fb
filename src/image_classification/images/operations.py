"""Three changes of training images: color jitter, an affine warp and random erasing.

In and out: uint8 H·W·C. Color jitter adds offsets in OpenCV's 8-bit HLS space (hue 0 to 180 in
steps of two degrees, lightness and saturation 0 to 255) and clamps the sums, the hue too.
Sources: color jitter and affine matrix: apache/mxnet 1.9.1, `src/io/image_aug_default.cc`, times
Keras' zoom; HLS: OpenCV's `cvtColor`; random erasing: Zhong et al., "Random Erasing Data
Augmentation" (2017), with its areas and aspect ratios, but with the mean color, which normalization
makes 0, instead of noise.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from image_classification.images.jpeg_regions import Box
from image_classification.images.preprocessing import flipped
from image_classification.samples import Array, Float64Array, UInt8Array

ERASED_AREA = (0.02, 0.33)
ERASED_ASPECT = (0.3, 10 / 3)

_Plane = Array  # float32 (H, W)
_HUE_LIMIT, _LIMIT = 180, 255
_REACH = 2  # pixels around a point that bilinear interpolation can look at, and one for rounding


def _share(hue: _Plane, channel: int) -> _Plane:
    """How far, −1 to 1, a channel lies from the lightness toward the chroma, for 0 to 180."""
    sixths = (hue / 30 + (0, 4, 2)[channel]) % 6  # red is full at 0, green at 2, blue at 4 sixths
    return np.asarray(2 * np.clip(np.abs(sixths - 3) - 1, 0, 1) - 1, np.float32)


_SHARES = tuple(_share(np.arange(_HUE_LIMIT + 1), channel) for channel in range(3))


def color_jitter(image: UInt8Array, hue: int, lightness: int, saturation: int) -> None:
    """Add the offsets to every pixel of `image` (uint8, H·W·3 RGB or H·W·1 gray), in place.

    Gray images have only a lightness. About 3 ms for 224 × 224; releases the interpreter lock.
    """
    if image.shape[2] == 1:
        image[...] = np.clip(image.astype(np.int16) + lightness, 0, 255)
        return
    planes = np.array(image.transpose(2, 0, 1), np.float32, order="C")  # contiguous: 3 times faster
    hues, light, saturations = _to_hls(*planes)
    hues = np.clip(hues + hue, 0, _HUE_LIMIT).astype(np.intp)
    light = np.clip(light + lightness, 0, _LIMIT)
    saturations = np.clip(saturations + saturation, 0, _LIMIT)
    chroma = saturations * (_LIMIT - np.abs(2 * light - _LIMIT)) / (2 * _LIMIT)
    for channel, shares in enumerate(_SHARES):
        image[:, :, channel] = np.rint(light + chroma * shares[hues])


def _to_hls(red: _Plane, green: _Plane, blue: _Plane) -> tuple[_Plane, _Plane, _Plane]:
    """Hue, lightness, saturation in OpenCV's 8-bit steps; gray pixels have hue 0."""
    high = np.maximum(np.maximum(red, green), blue)
    low = np.minimum(np.minimum(red, green), blue)
    total, chroma = high + low, high - low
    # Where the chroma is 0, so are all the numerators below.
    divisor = np.maximum(chroma, 1)
    hue = (red - green) / divisor + 4
    np.copyto(hue, (blue - red) / divisor + 2, where=high == green)
    np.copyto(hue, (green - blue) / divisor, where=high == red)
    hue += 6 * (hue < 0)
    room = np.minimum(total, 2 * _LIMIT - total)
    saturation = _LIMIT * chroma / np.maximum(room, 1)
    return np.rint(30 * hue), np.rint(total / 2), np.rint(saturation)


@dataclass(frozen=True)
class Warp:
    """An affine map of an image of `size` onto a window in it.

    Attributes:
        matrix: (2, 2), where the image's points go, (x, y) from its center, y downward.
        size: (height, width) of the whole image in pixels.
        corner: (top, left) of the window in the image's pixels.
        fill: "reflect" (the image mirrored at its edges, edge pixels repeated) or a gray level.
    """

    matrix: Float64Array
    size: tuple[int, int]
    corner: tuple[int, int]
    fill: int | str

    @property
    def inverse(self) -> Float64Array:
        """The (2, 2) matrix from the window's points to the image's."""
        return np.asarray(np.linalg.inv(self.matrix), np.float64)

    @property
    def origin(self) -> Float64Array:
        """The (x, y) in the image that the window's first corner shows."""
        center = np.array((self.size[1] / 2, self.size[0] / 2))
        origin: Float64Array = self.inverse @ (np.array(self.corner[::-1]) - center) + center
        return origin

    def source(self, height: int, width: int) -> Box | None:
        """Return the (top, left, height, width) of the image that a window of this size shows.

        With mirrored edges it includes the pixels that the mirror shows. None if the window lies
        outside the image.
        """
        corners = _corners(self.origin, self.inverse, width, height)
        spans = []
        for axis, side in ((1, self.size[0]), (0, self.size[1])):
            low = math.floor(corners[:, axis].min()) - _REACH
            high = math.ceil(corners[:, axis].max()) + _REACH
            if self.fill == "reflect":
                low, high = min(low, 2 * side - high), max(high, -low)
            low, high = max(low, 0), min(high, side)
            if low >= high:
                return None
            spans.append((low, high - low))
        (top, rows), (left, columns) = spans
        return top, left, rows, columns


def affine(
    image: UInt8Array,
    warp: Warp,
    out: UInt8Array,
    horizontal_flip: bool = False,
    vertical_flip: bool = False,
    at: tuple[int, int] = (0, 0),
) -> UInt8Array:
    """Warp an image and write the window to `out`; bilinear.

    Args:
        image: uint8 (H, W, channels), 1 or 3 channels: the image, or its part at `at` that has all
            of `warp.source`.
        warp: what to do.
        out: uint8 (height, width, channels), of the window.
        horizontal_flip, vertical_flip: flip the result.
        at: (top, left) of the part in the whole image.
    """
    height, width, channels = out.shape
    inverse = warp.inverse
    # Pillow asks where an output point comes from: origin + inverse · point.
    origin = warp.origin - np.array((at[1], at[0]))
    fill = warp.fill
    if fill == "reflect":
        image, margin = _reflected(image, origin, inverse, width, height)
        origin += margin
    picture = Image.fromarray(image if channels == 3 else image[:, :, 0])
    (a, b), (d, e) = inverse.tolist()
    warped = picture.transform(
        (width, height),
        Image.Transform.AFFINE,
        (a, b, float(origin[0]), d, e, float(origin[1])),
        Image.Resampling.BILINEAR,
        fillcolor=(int(fill),) * channels if fill != "reflect" else None,
    )
    out[...] = np.asarray(flipped(warped, horizontal_flip, vertical_flip)).reshape(out.shape)
    return out


def affine_matrix(rotation: float, zoom: float, shear: float, ratio: float) -> Float64Array:
    """Return the (2, 2) matrix for `affine`.

    Args:
        rotation: degrees, positive counterclockwise.
        zoom: above 0 shrinks the picture by 1 + zoom, so that more of it is seen.
        shear: sideways shift per unit of height.
        ratio: height to width change; 1 leaves it.
    """
    cosine, sine = math.cos(math.radians(rotation)), math.sin(math.radians(rotation))
    across = 2 / (1 + ratio)
    down = ratio * across
    matrix = np.array(
        (
            (across * cosine - shear * sine * down, across * sine + shear * cosine * down),
            (-sine * down, cosine * down),
        )
    )
    return matrix / (1 + zoom)


def _corners(origin: Float64Array, inverse: Float64Array, width: int, height: int) -> Float64Array:
    """Return the (x, y) in the image of the four corners of a window."""
    return np.array(((0, 0), (width, 0), (0, height), (width, height))) @ inverse.T + origin


def _reflected(
    image: UInt8Array, origin: Float64Array, inverse: Float64Array, width: int, height: int
) -> tuple[UInt8Array, int]:
    """`image` with as much mirrored margin as the window reaches beyond it, and that margin."""
    corners = _corners(origin, inverse, width, height)
    size = (image.shape[1], image.shape[0])
    beyond = max(float(np.max(-corners)), float(np.max(corners - size)), 0.0)
    margin = math.ceil(beyond) + 1
    return np.pad(image, ((margin, margin), (margin, margin), (0, 0)), mode="symmetric"), margin


def random_erasing(image: UInt8Array, shares: Sequence[float], color: Sequence[float]) -> None:
    """Fill a rectangle of `image`, in place.

    Args:
        image: uint8 (H, W, C).
        shares: four random numbers, 0 to below 1, that decide area, aspect ratio (in its
            logarithm), top and left within their ranges.
        color: C values, 0–255.
    """
    rows, columns, _ = image.shape
    area = rows * columns * (ERASED_AREA[0] + (ERASED_AREA[1] - ERASED_AREA[0]) * shares[0])
    low, high = math.log(ERASED_ASPECT[0]), math.log(ERASED_ASPECT[1])
    ratio = math.exp(low + (high - low) * shares[1])
    height = min(rows, max(1, round(math.sqrt(area * ratio))))
    width = min(columns, max(1, round(math.sqrt(area / ratio))))
    top = int(shares[2] * (rows - height + 1))
    left = int(shares[3] * (columns - width + 1))
    image[top : top + height, left : left + width] = [round(value) for value in color]
