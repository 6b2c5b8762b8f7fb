"""The 85 hard images beside the checkout behave as their manifest says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from image_classification.errors import ImageError
from image_classification.images.decode import decode
from image_classification.images.preprocessing import Preprocessing, preprocess

SHARED = Path(
    os.environ.get("IMAGE_CLASSIFICATION_SHARED", Path(__file__).parents[3].parent / "shared")
)
HARD = SHARED / "data" / "hard"


def manifest() -> list[Any]:
    path = HARD / "manifest.json"
    if not path.is_file():
        reason = f"no hard images at {HARD}; set IMAGE_CLASSIFICATION_SHARED"
        return [pytest.param({}, marks=pytest.mark.skip(reason=reason))]
    return [
        pytest.param(entry, id=entry["file"]) for entry in json.loads(path.read_text())["files"]
    ]


@pytest.mark.shared
@pytest.mark.parametrize("entry", manifest())
def test_a_hard_image_is_decoded_or_refused_as_its_manifest_says(entry: dict[str, Any]) -> None:
    data = (HARD / entry["file"]).read_bytes()
    try:
        image = decode(data)
    except ImageError as error:
        assert entry["expect"] in ("refuse", "either"), error
        assert len(str(error)) > 20
        return
    assert entry["expect"] in ("decode", "either")
    assert image.dtype == np.uint8 and image.flags.c_contiguous
    height, width, channels = image.shape
    assert channels == 3
    if "upright_size" in entry:
        assert [width, height] == entry["upright_size"]
    if "mean_rgb" in entry:
        tolerance = 25 if entry["mode"] == "CMYK" else 3
        assert np.abs(image.mean((0, 1)) - entry["mean_rgb"]).max() <= tolerance
    gray = decode(data, channels=1)
    assert gray.shape == (height, width, 1)
    small = preprocess(data, Preprocessing(height=32, width=32, resize=36))
    assert small.shape == (32, 32, 3)


@pytest.mark.shared
def test_the_nine_landscapes_all_show_the_same_upright_scene(shared: Path) -> None:
    pictures = [
        decode((HARD / f"orientation/Landscape_{n}.jpg").read_bytes()).astype(int) for n in range(9)
    ]
    edge = np.ones(pictures[0].shape[:2], bool)
    edge[300:900, 500:1300] = False  # the digit in the middle differs
    for picture in pictures[1:]:
        assert np.abs(picture - pictures[0])[edge].mean() < 6


MEASURE = """
import resource, sys, time
from pathlib import Path
from image_classification.images.decode import decode
from image_classification.images.encode import encode_jpeg, encode_png
from image_classification.errors import ImageError
import numpy as np
for encode in (encode_jpeg, encode_png):
    decode(encode(np.zeros((64, 64, 3), np.uint8)))
data = Path(sys.argv[1]).read_bytes()
before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
try:
    decode(data)
except ImageError:
    pass
seconds = time.perf_counter() - began
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024, seconds)
"""


@pytest.mark.shared
@pytest.mark.parametrize(
    "name",
    ["65536-uint32-limit.png", "giant-image.jpg", "max_size.jpg", "decompression_bomb.gif",
     "png_decompression_dos.png"],
)  # fmt: skip
def test_a_bomb_costs_neither_memory_nor_time(shared: Path, name: str) -> None:
    command = [sys.executable, "-c", MEASURE, str(HARD / "bomb" / name)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    megabytes, seconds = map(float, output.split())
    assert megabytes < 50
    assert seconds < 0.2
