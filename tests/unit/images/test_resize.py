"""The fast way of resizing is the exact one up to a gray level, with and without its library."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from image_classification.images import resize as reduction
from image_classification.images.decode import decode
from image_classification.images.preprocessing import resize
from image_classification.images.resize import resize_box
from image_classification.prepare.encode import Transcoding, transcode
from image_classification.samples import UInt8Array

fast_only = pytest.mark.skipif(
    reduction.cykooz_resizer is None, reason="cykooz.resizer has no build for this machine"
)


def scene(height: int, width: int) -> UInt8Array:
    """Smooth shapes with texture, as in a photograph."""
    generator = np.random.default_rng(0)
    pixels = np.full((height, width, 3), 128, np.float32)
    for cells, weight in ((3, 60), (20, 30), (100, 10)):
        noise = Image.fromarray(generator.integers(0, 256, (cells, cells, 3), np.uint8))
        layer = noise.resize((width, height), Image.Resampling.BICUBIC)
        pixels += weight * (np.asarray(layer, np.float32) / 128 - 1)
    return np.clip(pixels, 0, 255).astype(np.uint8)


@fast_only
@pytest.mark.parametrize("size", [(375, 375), (300, 420), (900, 900), (100, 90)])
@pytest.mark.parametrize("box", [(0.0, 0.0, 1.0, 1.0), (0.101, 0.0, 0.83, 0.97)])
@pytest.mark.parametrize("channels", [1, 3])
def test_fast_resizing_equals_the_exact_filter_except_for_rounding(
    monkeypatch: pytest.MonkeyPatch, size: tuple[int, int], box: tuple[float, ...], channels: int
) -> None:
    image = np.ascontiguousarray(scene(*size)[:, :, :channels])
    left, top, right, bottom = box
    part = (left * size[1], top * size[0], right * size[1], bottom * size[0])
    fast = resize_box(image, 256, 200, part)
    monkeypatch.setattr(reduction, "cykooz_resizer", None)
    exact = resize_box(image, 256, 200, part)
    assert fast.shape == (256, 200, channels) and fast.dtype == np.uint8
    difference = np.abs(fast.astype(int) - exact.astype(int))
    assert difference.mean() < 0.6 and difference.max() <= 3


@fast_only
@pytest.mark.parametrize("side", [300, 375, 450, 512])
def test_a_pattern_too_fine_for_the_result_is_damped_as_by_the_exact_filter(side: int) -> None:
    """Plain linear interpolation would make waves of it."""
    image = np.zeros((side, side, 3), np.uint8)
    image[:, ::2] = 255
    exact = float(resize(image, 256, 256).std())
    fast = float(resize_box(image, 256, 256, (0, 0, side, side)).std())
    assert abs(fast - exact) < 1


@fast_only
def test_without_the_library_pillow_gives_the_same_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    content = io.BytesIO()
    Image.fromarray(scene(375, 500)).save(content, "JPEG", quality=95)
    transcoding = Transcoding(resize=256, center_crop=True, encoding=".png")
    fast = decode(transcode(content.getvalue(), transcoding))
    monkeypatch.setattr(reduction, "cykooz_resizer", None)
    exact = decode(transcode(content.getvalue(), transcoding))
    assert 0 < np.abs(fast.astype(int) - exact.astype(int)).mean() < 0.6
