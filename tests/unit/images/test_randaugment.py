"""RandAugment's operations and random erasing on one image."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from image_classification.images.augment import Augmentation, augment, draw_numbers
from image_classification.images.encode import encode_png
from image_classification.images.operations import ERASED_AREA, ERASED_ASPECT, random_erasing
from image_classification.images.preprocessing import Preprocessing
from image_classification.images.randaugment import OPERATIONS, randaugment

UNSIGNED = {"_autocontrast", "_equalize", "_identity", "_posterize", "_solarize"}


def picture(height: int = 40, width: int = 60, channels: int = 3) -> np.ndarray:
    small = np.random.default_rng(1).integers(0, 256, (9, 9, 3)).astype(np.uint8)
    image = Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)
    return np.array(image)[:, :, :channels].copy()


def apply(index: int, magnitude: float, image: np.ndarray | None = None) -> np.ndarray:
    result = picture() if image is None else image.copy()
    randaugment(result, np.array([index]), np.array([magnitude]))
    return result


@pytest.mark.parametrize("index", range(len(OPERATIONS)), ids=lambda i: OPERATIONS[i].__name__)
def test_an_operation_grows_with_its_magnitude_and_does_nothing_at_zero(index: int) -> None:
    name, image = OPERATIONS[index].__name__, picture().astype(int)
    change = [np.abs(apply(index, m) - image).mean() for m in (0.0, 0.3, 1.0)]
    if name in {"_autocontrast", "_equalize", "_identity"}:
        assert change[0] == change[1] == change[2]
        return
    assert change[0] < 0.5 < change[1]
    assert change[1] < change[2] or "translate" in name  # what is moved in is all gray
    is_same = np.array_equal(apply(index, 0.6), apply(index, -0.6))
    assert is_same is (name in UNSIGNED)


@pytest.mark.parametrize("index", range(len(OPERATIONS)), ids=lambda i: OPERATIONS[i].__name__)
def test_an_operation_takes_gray_images(index: int) -> None:
    assert apply(index, 0.5, picture(channels=1)).shape == (40, 60, 1)


def test_geometry_moves_the_picture_about_its_center() -> None:
    marked = np.zeros((41, 41, 3), np.uint8)
    marked[18:23, 18:23] = 255
    names = [operation.__name__ for operation in OPERATIONS]
    for name in ("_rotate", "_shear_x", "_shear_y"):
        assert apply(names.index(name), 0.5, marked)[20, 20].min() > 200, name
    moved = apply(names.index("_translate_x"), 0.5, marked)
    assert np.argmax(moved.max(axis=(0, 2))) < 18


@pytest.mark.parametrize("seed", range(20))
def test_erasing_fills_one_rectangle_of_allowed_size_with_the_mean(seed: int) -> None:
    image = np.full((100, 120, 3), 200, np.uint8)
    random_erasing(image, np.random.default_rng(seed).random(4).tolist(), (10.4, 20.0, 30.0))
    erased = (image == (10, 20, 30)).all(axis=-1)
    rows, columns = np.nonzero(erased)
    height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
    assert rows.size == height * width
    assert rows.size <= ERASED_AREA[1] * image.shape[0] * image.shape[1] * 1.05
    if height < 100 and width < 120:
        assert rows.size >= ERASED_AREA[0] * image.shape[0] * image.shape[1] * 0.9
        assert ERASED_ASPECT[0] * 0.9 <= height / width <= ERASED_ASPECT[1] * 1.1
    assert (image[~erased] == 200).all()


def test_images_are_erased_at_the_requested_rate_and_changed_by_the_requested_operations() -> None:
    augmentation = Augmentation(operations=2, magnitude=15, erasing=0.25)
    rows = draw_numbers(augmentation, np.random.default_rng(0), 4000)
    assert rows["erased"].mean() == pytest.approx(0.25, abs=0.03)
    assert set(rows["operations"].ravel()) == set(range(len(OPERATIONS)))
    preprocessing, data = Preprocessing(40, 60), encode_png(picture())
    made = {augment(data, preprocessing, augmentation, row).tobytes() for row in rows[:20]}
    assert len(made) > 15


def test_the_numbers_of_randaugment_do_not_change_those_of_other_augmentations() -> None:
    rows = draw_numbers(Augmentation.mxnet("crop"), np.random.default_rng(3), 2)
    draws = np.random.default_rng(3).random((2, 40))
    np.testing.assert_array_equal(rows["top"], draws[:, 0])
    np.testing.assert_array_equal(rows["horizontal_flip"], draws[:, 2] < 0.5)
