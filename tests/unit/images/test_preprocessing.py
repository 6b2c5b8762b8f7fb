"""The preprocessing of evaluation: its geometry, its JSON form, and its refusals."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from image_classification.errors import DataError, ImageError, ImageTooLargeError
from image_classification.images.decode import decode
from image_classification.images.encode import encode_jpeg, encode_png
from image_classification.images.preprocessing import Preprocessing, preprocess, resize


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    small = np.random.default_rng(seed).integers(0, 256, (9, 9, 3)).astype(np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


def test_preprocessing_survives_its_json_form() -> None:
    values = [
        Preprocessing(224, 224),
        Preprocessing(28, 32, channels=1, mean=(127.5,), std=(63.75,), mode="squash"),
        Preprocessing(5, 7, resize=9, interpolation="area", small_images="refuse", max_pixels=10),
    ]
    for value in values:
        assert Preprocessing.from_json(json.loads(json.dumps(value.to_json()))) == value


@pytest.mark.parametrize(
    "change",
    [
        {"color": 1}, {"height": "224"}, {"height": True}, {"resize": 0}, {"mode": "stretch"},
        {"mean": [1.0]}, {"mean": 3}, {"std": [1.0, 1.0, 0.0]}, {"std": [1.0, 1.0, "one"]},
        {"interpolation": "sinc"}, {"channels": 4}, {"max_pixels": 0}, {"mode": None},
        {"small_images": "skip"}, {"mean": [1.0, 2.0, float("nan")]}, {"mode": ["crop"]},
    ],
)  # fmt: skip
def test_an_impossible_or_unknown_field_is_named(change: dict[str, object]) -> None:
    with pytest.raises(DataError, match=next(iter(change))):
        Preprocessing.from_json({**Preprocessing(4, 4).to_json(), **change})


def test_a_missing_field_and_a_wrong_document_are_refused() -> None:
    content = Preprocessing(4, 4).to_json()
    del content["std"]
    for wrong in (content, [], None, "crop"):
        with pytest.raises(DataError, match="expected the fields"):
            Preprocessing.from_json(wrong)


@given(
    st.integers(20, 200), st.integers(20, 200), st.integers(8, 64), st.integers(8, 64),
    st.integers(8, 90),
)  # fmt: skip
@settings(deadline=None, max_examples=60)
def test_the_crop_is_the_center_of_the_image_resized_by_its_shorter_side(
    height: int, width: int, rows: int, columns: int, shorter: int
) -> None:
    shorter = max(shorter, rows, columns)
    image = picture(height, width)
    scaled = (
        (shorter, shorter * width // height)
        if height <= width
        else (shorter * height // width, shorter)
    )
    top, left = (scaled[0] - rows) // 2, (scaled[1] - columns) // 2
    expected = resize(image, *scaled)[top : top + rows, left : left + columns]
    result = preprocess(encode_png(image), Preprocessing(rows, columns, resize=shorter))
    assert result.shape == (rows, columns, 3)
    difference = np.abs(result.astype(int) - expected)
    assert difference.max() <= 2 and difference.mean() < 0.5


def test_without_resize_the_center_is_cut_out_pixel_by_pixel() -> None:
    image = picture(61, 83)
    assert (preprocess(encode_png(image), Preprocessing(20, 31)) == image[20:40, 26:57]).all()


def test_squash_resizes_both_sides_and_ignores_resize() -> None:
    image = picture(60, 90)
    result = preprocess(encode_png(image), Preprocessing(32, 16, mode="squash", resize=77))
    assert (result == resize(image, 32, 16)).all()


@pytest.mark.parametrize(("height", "width"), [(10, 100), (100, 10), (10, 10), (39, 40)])
def test_a_small_image_is_enlarged_until_it_covers_the_crop(height: int, width: int) -> None:
    image = np.full((height, width, 3), 200, np.uint8)
    for chosen in (None, 20):
        result = preprocess(encode_png(image), Preprocessing(40, 40, resize=chosen))
        assert result.shape == (40, 40, 3)
        assert (result == 200).all()


def test_a_small_image_keeps_its_aspect_ratio_when_it_is_enlarged() -> None:
    image = picture(10, 100)
    expected = resize(image, 40, 400)[:, 180:220]
    result = preprocess(encode_png(image), Preprocessing(40, 40))
    assert np.abs(result.astype(int) - expected).max() <= 2


def test_a_small_image_is_refused_with_sizes_and_remedy_if_that_is_chosen() -> None:
    exact = Preprocessing(40, 30, small_images="refuse")
    assert preprocess(encode_png(picture(40, 30)), exact).shape == (40, 30, 3)
    with pytest.raises(ImageError, match=r"30 × 39 pixels.*at least 30 × 40.*set resize to"):
        preprocess(encode_png(picture(39, 30)), exact)
    enough = Preprocessing(40, 30, small_images="refuse", resize=40)
    assert preprocess(encode_png(picture(12, 12)), enough).shape == (40, 30, 3)


def test_a_large_jpeg_reduced_in_the_decoder_looks_like_one_decoded_whole() -> None:
    data = encode_jpeg(picture(900, 1200))
    preprocessing = Preprocessing(96, 96, resize=110)
    whole = resize(decode(data), 110, 146)[7:103, 25:121]
    assert np.abs(preprocess(data, preprocessing).astype(int) - whole).mean() < 2.5


def test_nearest_takes_pixels_of_the_whole_image() -> None:
    data = encode_jpeg(picture(320, 400))
    chosen = Preprocessing(40, 50, mode="squash", interpolation="nearest")
    assert (preprocess(data, chosen) == resize(decode(data), 40, 50, "nearest")).all()


def test_the_result_is_written_where_the_caller_wants_it() -> None:
    batch = np.zeros((3, 16, 16, 1), np.uint8)
    gray = Preprocessing(16, 16, channels=1, mean=(0.0,), std=(1.0,), resize=16)
    data = encode_png(picture(30, 40))
    slot = batch[1]
    assert preprocess(data, gray, slot) is slot
    assert (batch[1] == preprocess(data, gray)).all() and batch[1].any()
    assert not batch[0].any() and not batch[2].any()


def test_the_pixel_limit_is_the_value_s_own() -> None:
    with pytest.raises(ImageTooLargeError):
        preprocess(encode_png(picture(30, 40)), Preprocessing(8, 8, max_pixels=1199))
