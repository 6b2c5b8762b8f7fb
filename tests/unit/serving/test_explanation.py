"""The picture and the box that a class activation map becomes."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from image_classification.images.preprocessing import Preprocessing, seen_box
from image_classification.samples import UInt8Array
from image_classification.serving.explanation import explain

WHOLE = (0.0, 0.0, 1.0, 1.0)


def pixels(picture: bytes) -> UInt8Array:
    return np.asarray(Image.open(io.BytesIO(picture)))


def test_the_box_is_that_of_the_cells_connected_with_the_strongest_one() -> None:
    values = np.zeros((8, 8), np.float32)
    values[2:4, 1:3] = 6
    values[3, 2] = 10
    values[7, 7] = 9  # as strong, elsewhere
    values[4, 2] = 4.9  # weaker than half
    found = explain(values, WHOLE)
    assert found.box == (1 / 8, 2 / 8, 3 / 8, 4 / 8)
    shown = pixels(found.picture)
    assert shown.shape == (64, 64)
    assert shown[28, 20] > 200 and shown[60, 60] > 200 and shown[4, 60] == 0


def test_the_box_and_the_picture_are_those_of_the_whole_image() -> None:
    values = np.full((2, 2), -1.0, np.float32)
    values[0, 0] = 3
    wide = seen_box((100, 200), Preprocessing(height=50, width=50, resize=50))
    assert wide == (0.25, 0, 0.75, 1)
    found = explain(values, wide)
    assert found.box == (0.25, 0, 0.5, 0.5)
    shown = pixels(found.picture)
    assert not shown[:, :16].any() and not shown[:, 48:].any() and shown[:16, 16:24].min() > 200


def test_a_map_in_which_nothing_speaks_for_the_class_is_black_and_has_no_box() -> None:
    for values in (np.full((7, 7), -2.0), np.zeros((7, 7)), np.full((7, 7), np.nan)):
        found = explain(values.astype(np.float32), WHOLE)
        assert found.box is None and not pixels(found.picture).any()


@pytest.mark.parametrize("shape", [(1, 1), (300, 500), (65_536, 1)])
def test_a_map_of_any_size_has_a_picture_and_a_box(shape: tuple[int, int]) -> None:
    values = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    values[: -(-shape[0] // 2), : -(-shape[1] // 2)] = 9
    box = explain(values, WHOLE).box
    assert box is not None and box[:2] == (0, 0) and box[3] >= 0.5
