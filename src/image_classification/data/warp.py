"""One affine warp of an image about its centre: rotation, zoom, shear and stretch together.

In: uint8 H·W·C. Out: a window of the warped image. Source of the matrix: apache/mxnet 1.9.1
`src/io/image_aug_default.cc`, times Keras' zoom.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from PIL import Image

from image_classification.data.samples import UInt8Array

_Float64Array = npt.NDArray[np.float64]


def warp(
    image: UInt8Array,
    matrix: _Float64Array,
    corner: tuple[int, int],
    fill: int | str,
    out: UInt8Array,
    mirror: bool = False,
    upside_down: bool = False,
) -> UInt8Array:
    """Warp `image` and write the window of `out`'s size at `corner` to `out`; bilinear.

    Args:
        image: uint8 (H, W, channels), 1 or 3 channels.
        matrix: (2, 2), where the picture's points go, (x, y) from its centre, y downwards.
        corner: (top, left) of the window in the picture's pixels.
        fill: "reflect" (the picture mirrored at its edges, edge pixels repeated) or a grey level.
        out: uint8 (height, width, channels).
        mirror, upside_down: flip the result.
    """
    height, width, channels = out.shape
    centre = np.array((image.shape[1] / 2, image.shape[0] / 2))
    inverse: _Float64Array = np.asarray(np.linalg.inv(matrix), np.float64)
    # Pillow asks where an output point comes from: origin + inverse · point.
    origin: _Float64Array = inverse @ (np.array((corner[1], corner[0])) - centre) + centre
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
    if mirror:
        warped = warped.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if upside_down:
        warped = warped.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    out[...] = np.asarray(warped).reshape(out.shape)
    return out


def affine_matrix(rotation: float, zoom: float, shear: float, ratio: float) -> _Float64Array:
    """The (2, 2) matrix for `warp`.

    Args:
        rotation: degrees, positive counter-clockwise.
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


def _reflected(
    image: UInt8Array, origin: _Float64Array, inverse: _Float64Array, width: int, height: int
) -> tuple[UInt8Array, int]:
    """`image` with as much mirrored margin as the window reaches beyond it, and that margin."""
    corners = np.array(((0, 0), (width, 0), (0, height), (width, height))) @ inverse.T + origin
    size = (image.shape[1], image.shape[0])
    beyond = max(float(np.max(-corners)), float(np.max(corners - size)), 0.0)
    margin = math.ceil(beyond) + 1
    return np.pad(image, ((margin, margin), (margin, margin), (0, 0)), mode="symmetric"), margin
