"""Pillow's pixels become an array within the time that the picture has, transparent ones white."""

from __future__ import annotations

import time

import numpy as np
import pytest
from PIL import Image

from image_classification.errors import ImageTooLargeError
from image_classification.images.header import ImageHeader
from image_classification.images.pixel_stream import to_array
from image_classification.images.price import Allowance, price_of

FOREVER = Allowance(float("inf"), "PNG", 2)


@pytest.mark.parametrize("mode", ["1", "L", "RGB"])
@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_transparent_color_and_no_other_becomes_white(
    mode: str, depth: int, channels: int
) -> None:
    scale = 255 // ((1 << depth) - 1) if depth < 16 else 1
    values = np.random.default_rng(0).integers(0, 4, (40, 30, len(mode))) % (1 << depth) * scale
    pixels = values.astype(np.uint8) if mode == "RGB" else values[:, :, 0].astype(np.uint8)
    image = Image.fromarray(pixels).convert(mode)
    plain = np.asarray(image.convert("RGB" if channels == 3 else "L"))
    chosen = tuple(pixels[0, 0].tolist()) if mode == "RGB" else int(pixels[0, 0])
    if mode == "1":
        key: object = int(np.asarray(image.convert("L"))[0, 0])
    else:
        in_file = {16: lambda level: level << 8}.get(depth, lambda level: level // scale)
        key = tuple(map(in_file, chosen)) if mode == "RGB" else in_file(chosen)
    is_key = (np.asarray(image.convert("RGB")) == np.asarray(image.convert("RGB"))[0, 0]).all(2)
    image.info["transparency"] = key
    got = to_array(image, ImageHeader("PNG", 30, 40, bit_depth=depth), channels, FOREVER)
    assert (got[is_key] == 255).all()
    assert (got[~is_key] == plain.reshape(40, 30, channels)[~is_key]).all()


def test_the_time_is_checked_between_strips() -> None:
    image = Image.new("RGBA", (1000, 1000))
    over = Allowance(time.thread_time() - 1, "PNG of 1000 × 1000 pixels", 2)
    with pytest.raises(ImageTooLargeError, match="takes more than 2 seconds of CPU time"):
        to_array(image, ImageHeader("PNG", 1000, 1000), 3, over)


def test_an_interlaced_png_and_one_with_a_transparent_color_cost_more() -> None:
    def seconds(interlaced: int, more: bytes) -> float:
        start = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(8) + bytes((8, 2, 0, 0, interlaced))
        return price_of(start + bytes(4) + more, ImageHeader("PNG", 1000, 1000)).seconds

    assert seconds(0, b"") < 0.03
    assert seconds(1, b"") > seconds(0, b"") + 0.008
    assert seconds(0, b"tRNS") > seconds(0, b"") + 0.013
