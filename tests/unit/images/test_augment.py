"""Augmentation: numbers drawn for a batch, pixels a pure function of them."""

from __future__ import annotations

import resource
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from image_classification.images.augment import Augmentation, augment, draw_numbers
from image_classification.images.decode import decode
from image_classification.images.encode import encode_jpeg, encode_png
from image_classification.images.operations import Warp, affine, affine_matrix, color_jitter
from image_classification.images.preprocessing import Preprocessing, preprocess, resize

ALL = {
    "nothing": Augmentation(),
    "crop": Augmentation.mxnet("crop"),
    "crop_color": Augmentation.mxnet("crop_color"),
    "crop_color_transform": Augmentation.mxnet("crop_color_transform"),
    "keras": Augmentation.keras("horizontal_and_vertical", 0.2, 0.1),
    "random_resized": Augmentation(crop="random_resized", horizontal_flip=0.5),
    "random_resized_warped": Augmentation(crop="random_resized", rotation=(-20, 20), fill=0),
}


def picture(height: int = 60, width: int = 80) -> np.ndarray:
    small = np.random.default_rng(1).integers(0, 256, (9, 9, 3)).astype(np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


def numbers(augmentation: Augmentation, count: int = 1, seed: int = 0) -> np.ndarray:
    return draw_numbers(augmentation, np.random.default_rng(seed), count)


@pytest.mark.parametrize("mode", ["crop", "squash"])
def test_no_augmentation_is_the_preprocessing_of_evaluation(mode: str) -> None:
    preprocessing = Preprocessing(32, 40, resize=48, mode=mode)
    for data in (encode_png(picture()), encode_jpeg(picture(400, 300))):
        result = augment(data, preprocessing, Augmentation(), numbers(Augmentation())[0])
        assert (result == preprocess(data, preprocessing)).all()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", ALL)
def test_equal_numbers_make_equal_pixels_and_others_make_others(name: str, channels: int) -> None:
    zeros, ones = (0.0,) * channels, (1.0,) * channels
    preprocessing = Preprocessing(32, 32, channels, resize=40, mean=zeros, std=ones)
    data = encode_jpeg(picture(200, 300))
    rows = numbers(ALL[name], 8)
    first = [augment(data, preprocessing, ALL[name], row) for row in rows]
    again = [augment(data, preprocessing, ALL[name], row) for row in rows]
    assert all((a == b).all() for a, b in zip(first, again, strict=True))
    assert all(image.shape == (32, 32, channels) for image in first)
    distinct = {image.tobytes() for image in first}
    assert len(distinct) == (1 if name == "nothing" else 8)


def test_a_random_crop_is_a_window_of_the_resized_image_at_any_position() -> None:
    image = picture(12, 14)
    preprocessing, augmentation = Preprocessing(10, 10), Augmentation(crop="random")
    windows = {
        image[top : top + 10, left : left + 10].tobytes(): (top, left)
        for top in range(3)
        for left in range(5)
    }
    data = encode_png(image)
    places = [
        windows[augment(data, preprocessing, augmentation, row).tobytes()]
        for row in numbers(augmentation, 600)
    ]
    assert set(places) == set(windows.values())
    assert min(map(places.count, windows.values())) > 15  # 40 expected of each


def test_a_random_crop_of_a_photograph_is_a_window_of_the_resized_one_to_a_gray_level() -> None:
    data = encode_jpeg(picture(300, 420), 95)
    preprocessing, augmentation = Preprocessing(160, 160, resize=200), Augmentation(crop="random")
    whole = resize(decode(data), 200, 280).astype(int)
    for row in numbers(augmentation, 20):
        top, left = int(row["top"] * 41), int(row["left"] * 121)
        crop = augment(data, preprocessing, augmentation, row)
        difference = np.abs(crop - whole[top : top + 160, left : left + 160])[1:-1, 1:-1]
        assert difference.mean() < 0.7 and difference.max() < 12
        shifted = np.abs(crop[:, 1:] - whole[top : top + 160, left : left + 159]).mean()
        assert difference.mean() < shifted / 2


def test_a_flip_mirrors_the_picture_half_of_the_time() -> None:
    image = picture(10, 10)
    augmentation = Augmentation(horizontal_flip=0.5)
    rows = numbers(augmentation, 1000)
    assert 400 < rows["horizontal_flip"].sum() < 600 and not rows["vertical_flip"].any()
    for row in rows[:8]:
        expected = image[:, ::-1] if row["horizontal_flip"] else image
        assert (
            augment(encode_png(image), Preprocessing(10, 10), augmentation, row) == expected
        ).all()


@pytest.mark.parametrize("encode", [encode_jpeg, encode_png])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(32, 40), (33, 31)])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("crop", ["random_resized", "random", "center"])
def test_a_flip_only_flips_the_picture(
    encode: Callable[..., bytes],
    channels: int,
    size: tuple[int, int],
    interpolation: str,
    crop: str,
) -> None:
    zeros, ones = (0.0,) * channels, (1.0,) * channels
    preprocessing = Preprocessing(
        *size, channels, resize=50, interpolation=interpolation, mean=zeros, std=ones
    )
    data = encode(picture(200, 300))
    row = numbers(Augmentation(crop=crop))[0]
    made = {}
    for flips in ((0, 0), (1, 0), (0, 1), (1, 1)):
        row["horizontal_flip"], row["vertical_flip"] = flips
        made[flips] = augment(data, preprocessing, Augmentation(crop=crop), row)
    plain = made[0, 0]
    assert (made[1, 0] == plain[:, ::-1]).all() and (made[0, 1] == plain[::-1]).all()
    assert (made[1, 1] == plain[::-1, ::-1]).all()


def test_a_random_resized_crop_has_the_requested_area_and_aspect_ratio() -> None:
    columns, rows = np.meshgrid(np.arange(256), np.arange(256))
    image = np.stack((rows, columns, rows), axis=2).astype(np.uint8)  # a pixel tells its place
    augmentation = Augmentation(crop="random_resized", area=(0.1, 0.5), aspect=(0.5, 2.0))
    preprocessing, data = Preprocessing(64, 64), encode_png(image)
    areas, aspects = [], []
    for row in numbers(augmentation, 200):
        part = augment(data, preprocessing, augmentation, row).astype(float)
        height = (part[-1, 0, 0] - part[0, 0, 0]) * 64 / 63
        width = (part[0, -1, 1] - part[0, 0, 1]) * 64 / 63
        areas.append(height * width / 256**2)
        aspects.append(width / height)
    assert 0.085 < min(areas) < 0.15 and 0.4 < max(areas) < 0.52
    assert 0.45 < min(aspects) < 0.6 and 1.7 < max(aspects) < 2.2
    assert 0.85 < np.exp(np.mean(np.log(aspects))) < 1.15  # uniform in the logarithm


def test_a_random_resized_crop_of_an_extreme_shape_falls_back_to_the_center() -> None:
    augmentation = Augmentation(crop="random_resized", area=(1.0, 1.0))
    for shape in ((4, 400), (400, 4), (1, 1)):
        data = encode_png(picture(*shape))
        result = augment(data, Preprocessing(16, 16), augmentation, numbers(augmentation)[0])
        assert result.shape == (16, 16, 3)


def test_rotation_turns_counter_clockwise() -> None:
    image = np.zeros((41, 41, 3), np.uint8)
    image[18:23, 35:40] = 255  # on the right
    out = np.empty_like(image)
    affine(image, Warp(affine_matrix(90, 0, 0, 1), image.shape[:2], (0, 0), 0), out)
    assert (out == np.rot90(image)).all()  # now at the top


def test_zoom_above_zero_shows_more_of_the_picture() -> None:
    image = np.zeros((40, 40, 3), np.uint8)
    image[10:30, 10:30] = 255
    out = np.empty_like(image)
    bright = [
        affine(image, Warp(affine_matrix(0, zoom, 0, 1), image.shape[:2], (0, 0), 0), out).mean()
        / 255
        for zoom in (1.0, 0.0, -0.5)
    ]
    np.testing.assert_allclose(bright, [1 / 16, 1 / 4, 1], atol=0.03)


@pytest.mark.parametrize(("fill", "corner"), [("reflect", 200), (255, 255), (0, 0)])
def test_what_lies_outside_a_turned_picture_is_reflected_or_filled(
    fill: int | str, corner: int
) -> None:
    image = np.full((40, 40, 3), 200, np.uint8)
    out = np.empty_like(image)
    affine(image, Warp(affine_matrix(45, 0, 0, 1), image.shape[:2], (0, 0), fill), out)
    assert (out[0, 0] == corner).all() and (out[20, 20] == 200).all()


def test_reflection_mirrors_the_picture_at_its_edge() -> None:
    image = picture(40, 40)
    out = np.empty((40, 40, 3), np.uint8)
    affine(image, Warp(affine_matrix(0, 1.0, 0, 1), image.shape[:2], (0, 0), "reflect"), out)
    wide = np.pad(image, ((20, 20), (20, 20), (0, 0)), mode="symmetric")
    assert np.abs(out.astype(int) - resize(wide, 40, 40)).mean() < 12
    affine(image, Warp(affine_matrix(0, 0, 0, 1), image.shape[:2], (5, 0), "reflect"), out)
    assert (out[:35] == image[5:]).all() and (out[35:] == image[:-6:-1]).all()


def test_the_levels_of_the_mxnet_built_in_have_its_ranges() -> None:
    rows = numbers(Augmentation.mxnet("crop_color_transform"), 4000)
    for name, limit in (("hue", 36), ("saturation", 50), ("lightness", 50)):
        assert abs(rows[name]).max() in range(limit * 9 // 10, limit)
        assert abs(rows[name].mean()) < 1.5
    for name, low, high in (("rotation", -10, 10), ("shear", -0.1, 0.1), ("ratio", 0.75, 1.25)):
        span = high - low
        assert low <= rows[name].min() < low + span / 50
        assert high - span / 50 < rows[name].max() <= high
    assert not Augmentation.mxnet("crop").warps and not Augmentation.mxnet("crop_color").warps
    assert Augmentation.mxnet(None) == Augmentation()


def test_the_layers_of_the_tensorflow_built_in_have_their_ranges() -> None:
    rows = numbers(Augmentation.keras("vertical", -0.25, 0.1), 4000)
    assert not rows["horizontal_flip"].any() and rows["vertical_flip"].any()
    assert -90 <= rows["rotation"].min() < -88 and 88 < rows["rotation"].max() <= 90
    assert -0.1 <= rows["zoom"].min() < -0.095
    assert Augmentation.keras("None", 0, 0) == Augmentation()


def test_color_offsets_are_clamped_and_act_as_in_opencv() -> None:
    def shifted(color: tuple[int, int, int], *offsets: int) -> list[int]:
        image = np.full((1, 1, 3), color, np.uint8)
        color_jitter(image, *offsets)
        return image[0, 0].tolist()

    # hue, lightness, saturation; the results are those of OpenCV 5.0.0
    assert shifted((255, 0, 0), 60, 0, 0) == [1, 255, 1]
    assert shifted((255, 0, 0), -60, 0, 0) == [255, 1, 1]  # the hue does not wrap around
    assert shifted((0, 0, 255), 100, 0, 0) == [255, 1, 1]  # 180 is red again
    assert shifted((10, 10, 10), 0, 20, 0) == [30, 30, 30]
    assert shifted((10, 10, 10), 0, -20, 0) == [0, 0, 0]
    assert shifted((250, 250, 250), 0, 20, 0) == [255, 255, 255]
    assert shifted((200, 100, 50), 10, 20, -30) == [198, 163, 92]
    assert shifted((100, 100, 100), 0, 0, 51) == [120, 80, 80]  # gray has the hue of red


def test_no_color_offset_leaves_the_picture_nearly_as_it_was() -> None:
    image = picture()
    copy = image.copy()
    color_jitter(copy, 0, 0, 0)
    assert np.abs(copy.astype(int) - image).max() <= 6
    gray = image[:, :, :1].copy()
    color_jitter(gray, 30, 10, 30)
    assert (gray == np.minimum(image[:, :, :1].astype(int) + 10, 255)).all()


def test_the_numbers_of_a_batch_depend_only_on_the_generator() -> None:
    augmentation = ALL["crop_color_transform"]
    assert (numbers(augmentation, 5) == numbers(augmentation, 5)).all()
    assert (numbers(augmentation, 5) != numbers(augmentation, 5, seed=1)).any()


def test_color_offsets_are_drawn_as_mxnet_does_with_rare_extremes() -> None:
    """(u1 + 4·u2)/5 of two uniform draws, over the symmetric range, truncated toward 0."""
    augmentation, count = Augmentation.mxnet("crop_color"), 20_000
    numbers = draw_numbers(augmentation, np.random.default_rng(0), count)
    draws = np.random.default_rng(1).random((2, count))
    expected = 2 * (draws[0] + 4 * draws[1]) / 5 - 1
    for name, limit in (("hue", 36), ("saturation", 50), ("lightness", 50)):
        shares = numbers[name] / limit
        assert np.abs(shares).max() <= 1 and abs(shares.mean()) < 0.02
        for beyond in (0.5, 0.8, 0.9):  # a single uniform draw would be there 0.5, 0.2, 0.1
            found, wanted = (np.abs(values) >= beyond for values in (shares, expected))
            assert found.mean() == pytest.approx(wanted.mean(), abs=0.02), (name, beyond)


@pytest.mark.parametrize(
    "augmentation",
    [ALL["keras"], replace(ALL["crop_color_transform"], hue=0, saturation=0, lightness=0)],
)
@pytest.mark.parametrize("size", [(40, 700), (700, 40)])
def test_resizing_only_what_a_warped_crop_shows_gives_the_pixels_of_resizing_the_whole_image(
    monkeypatch: pytest.MonkeyPatch, augmentation: Augmentation, size: tuple[int, int]
) -> None:
    preprocessing, data = Preprocessing(32, 32, resize=36), encode_png(picture(*size))
    rows = numbers(augmentation, 40)
    wholes = [augment(data, preprocessing, augmentation, row) for row in rows]
    monkeypatch.setattr("image_classification.images.augment._MOST_RESIZED", 1 << 12)
    for row, whole in zip(rows, wholes, strict=True):
        region = augment(data, preprocessing, augmentation, row)
        assert np.abs(region.astype(int) - whole).max() <= 2


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("size", [(60_000, 1), (1, 60_000)])
def test_a_thin_image_takes_memory_for_the_crop_and_not_for_the_whole_resized_image(
    name: str, size: tuple[int, int]
) -> None:
    preprocessing, data = Preprocessing(64, 64, resize=256), encode_png(picture(*size))
    before, allowed = resource.getrlimit(resource.RLIMIT_AS), 200 << 20
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[0])
    limit = pages * resource.getpagesize() + allowed  # the whole image would have 4 billion pixels
    resource.setrlimit(resource.RLIMIT_AS, (limit, before[1]))
    try:
        images = [augment(data, preprocessing, ALL[name], row) for row in numbers(ALL[name], 4)]
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
    assert all(image.shape == (64, 64, 3) for image in images)
