"""Colour jitter in hue, saturation and lightness, as MXNet's image augmenter computes it.

In and out: uint8 RGB. The offsets are added in OpenCV's 8-bit HLS space (hue 0 to 180 in steps of
two degrees, saturation and lightness 0 to 255) and the sums are clamped, the hue too.
Source: apache/mxnet 1.9.1 `src/io/image_aug_default.cc`; OpenCV's `cvtColor`, RGB to HLS.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from image_classification.data.samples import UInt8Array

_Plane = npt.NDArray[Any]  # float32 (H, W)
_HUE_LIMIT, _LIMIT = 180, 255


def _share(hue: _Plane, channel: int) -> _Plane:
    """How far, −1 to 1, a channel lies from the lightness towards the chroma, for 0 to 180."""
    sixths = (hue / 30 + (0, 4, 2)[channel]) % 6  # red is full at 0, green at 2, blue at 4 sixths
    return np.asarray(2 * np.clip(np.abs(sixths - 3) - 1, 0, 1) - 1, np.float32)


_SHARES = tuple(_share(np.arange(_HUE_LIMIT + 1), channel) for channel in range(3))


def shift_colour(image: UInt8Array, hue: int, lightness: int, saturation: int) -> None:
    """Add the offsets to every pixel of `image` (uint8, H·W·3 RGB or H·W·1 grey), in place.

    Grey images have only a lightness. About 3 ms for 224 × 224; frees the interpreter lock.
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
    """Hue, lightness, saturation in OpenCV's 8-bit steps; grey pixels have hue 0."""
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
