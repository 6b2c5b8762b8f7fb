"""Large pictures are converted in strips: the same pixels, for a few copies less of them."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from image_classification.images.decode import decode

MEASURE = """
import sys
from pathlib import Path
from image_classification.images.decode import decode
def peak():  # not ru_maxrss, in which a child begins with its parent's
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
small, large = (Path(name).read_bytes() for name in sys.argv[1:])
decode(small)
before = peak()
decode(large)
print(peak() - before)
"""


def encoded(picture: Image.Image, image_format: str) -> bytes:
    content = io.BytesIO()
    picture.save(content, image_format, lossless=True)
    return content.getvalue()


@pytest.mark.parametrize("image_format", ["PNG", "WEBP"])
@pytest.mark.parametrize("channels", [3, 1])
def test_a_picture_of_several_strips_is_composited_as_one(image_format: str, channels: int) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (1_501, 1_600, 4), np.uint8)
    noise[noise[..., 3] < 9] = (255, 255, 255, 0)  # what is invisible, WEBP need not keep
    picture = Image.fromarray(noise)
    white = Image.new("RGBA", picture.size, "white")
    whole = Image.alpha_composite(white, picture).convert("RGB" if channels == 3 else "L")
    pixels = decode(encoded(picture, image_format), channels=channels)
    assert pixels.shape == (1_501, 1_600, channels)
    assert np.array_equal(pixels.squeeze(), np.asarray(whole))


@pytest.mark.parametrize(("image_format", "bytes_a_pixel"), [("PNG", 10), ("WEBP", 18)])
def test_a_transparent_picture_costs_little_more_than_its_decoder_and_the_result(
    tmp_path: Path, image_format: str, bytes_a_pixel: int
) -> None:
    paths = [tmp_path / "small", tmp_path / "large"]
    for path, side in zip(paths, (64, 4_000), strict=True):
        path.write_bytes(encoded(Image.new("RGBA", (side, side), (200, 9, 9, 99)), image_format))
    command = [sys.executable, "-c", MEASURE, *map(str, paths)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert int(output) < bytes_a_pixel * 4_000**2
