"""Decoding: orientation, modes, limits, damage; and that nothing else ever comes out of it."""

from __future__ import annotations

import io
import struct
import threading
import time
import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile, PngImagePlugin

from image_classification.errors import (
    ImageDamagedError,
    ImageError,
    ImageFormatError,
    ImageTooLargeError,
)
from image_classification.images.decode import decode
from image_classification.images.encode import encode_jpeg, encode_png
from image_classification.images.header import read_header
from image_classification.images.preprocessing import resize

Transpose = Image.Transpose
STORED_AS = {  # how an upright picture is stored under each orientation
    1: None,
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_90,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_270,
}


def scene(height: int = 48, width: int = 64) -> np.ndarray:
    """Four quadrants of different colors: no flip or turn of it looks the same."""
    image = np.zeros((height, width, 3), np.uint8)
    image[: height // 2, : width // 2] = (250, 10, 10)
    image[: height // 2, width // 2 :] = (10, 250, 10)
    image[height // 2 :, : width // 2] = (10, 10, 250)
    image[height // 2 :, width // 2 :] = (200, 200, 20)
    return image


def written(image: Image.Image, image_format: str, **options: object) -> bytes:
    content = io.BytesIO()
    image.save(content, image_format, **options)
    return content.getvalue()


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    small = np.random.default_rng(seed).integers(0, 256, (8, 8, 3)).astype(np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


def exif(orientation: int) -> bytes:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags.tobytes()


def stored(orientation: int) -> Image.Image:
    turn = STORED_AS[orientation]
    image = Image.fromarray(scene())
    return image if turn is None else image.transpose(turn)


@pytest.mark.parametrize("orientation", STORED_AS)
@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP"])
def test_the_exif_orientation_turns_the_picture_upright(
    image_format: str, orientation: int
) -> None:
    quality = {"lossless": True} if image_format == "WEBP" else {}
    if image_format == "JPEG":
        quality = {"quality": 95, "subsampling": 0}
    data = written(stored(orientation), image_format, exif=exif(orientation), **quality)
    image = decode(data)
    assert image.shape == (48, 64, 3)
    assert image.flags.c_contiguous and image.flags.writeable
    assert np.abs(image.astype(int) - scene()).mean() < 2
    assert read_header(data).upright_size == (48, 64)
    assert read_header(data).orientation == orientation


def test_the_orientation_is_applied_to_a_picture_decoded_at_reduced_scale() -> None:
    upright = np.repeat(np.repeat(scene(), 8, axis=0), 8, axis=1)
    data = written(
        Image.fromarray(upright).transpose(STORED_AS[6]), "JPEG", exif=exif(6), quality=95
    )
    image = decode(data, min_size=(48, 64))
    assert image.shape == (48, 64, 3)
    assert np.abs(image.astype(int) - scene()).mean() < 4


def test_the_orientation_in_a_png_text_profile_is_applied() -> None:
    tiff = exif(6)
    for compressed in (False, True):
        text = PngImagePlugin.PngInfo()
        lines = "\n".join(tiff.hex()[i : i + 72] for i in range(0, len(tiff.hex()), 72))
        text.add_text("Raw profile type exif", f"\nexif\n{len(tiff):8}\n{lines}\n", compressed)
        data = written(stored(6), "PNG", pnginfo=text)
        assert (decode(data) == scene()).all()


@pytest.mark.parametrize("orientation", [0, 9, 255, 65535])
def test_an_illegal_orientation_counts_as_upright(orientation: int) -> None:
    data = written(Image.fromarray(scene()), "JPEG", exif=exif(orientation), quality=95)
    assert decode(data).shape == (48, 64, 3)
    assert read_header(data).orientation == 1


@given(st.binary(max_size=60))
def test_unreadable_exif_counts_as_upright(garbage: bytes) -> None:
    plain = encode_jpeg(scene())
    for content in (b"Exif\0\0" + garbage, b"Exif\0\0II*\0" + garbage):
        segment = b"\xff\xe1" + struct.pack(">H", len(content) + 2) + content
        image = decode(plain[:2] + segment + plain[2:])
        assert image.size == scene().size


def test_16_bit_gray_is_scaled_not_clipped() -> None:
    wide = np.linspace(0, 65535, 32 * 32).reshape(32, 32).astype(np.uint16)
    image = decode(written(Image.fromarray(wide), "PNG"))
    assert image.shape == (32, 32, 3)
    assert np.abs(image[:, :, 0] - wide / 257).max() <= 0.5
    assert (
        decode(written(Image.fromarray(wide), "PNG"), channels=1)[:, :, 0] == image[..., 0]
    ).all()


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA"])
def test_alpha_is_composited_over_white(mode: str) -> None:
    image = Image.new("RGBA", (4, 2), (0, 0, 0, 255))
    image.paste((0, 0, 0, 0), (0, 0, 2, 2))
    image.putpixel((3, 0), (0, 0, 0, 128))
    picture = image.convert("P") if mode == "PA" else image.convert(mode)
    pixels = decode(written(picture, "PNG"))
    assert (pixels[:, :2] == 255).all()
    assert (pixels[1, 2:] == 0).all()
    if mode != "PA":
        assert abs(int(pixels[0, 3, 0]) - 127) <= 1


@pytest.mark.parametrize(
    ("dtype", "key", "other"),
    [(np.uint8, 7, 9), (np.uint8, (7, 8, 9), (9, 8, 7)), (np.uint16, 700, 0)],
)
def test_the_transparent_color_of_a_png_becomes_white(
    dtype: type, key: object, other: object
) -> None:
    image = np.full((4, 4, *np.shape(key)), other, dtype)
    image[:, :2] = key
    pixels = decode(written(Image.fromarray(image), "PNG", transparency=key))
    assert (pixels[:, :2] == 255).all()
    assert (pixels[:, 2:] < 20).all()


@pytest.mark.parametrize("image_format", ["GIF", "PNG", "WEBP"])
def test_an_animation_gives_its_first_frame(image_format: str) -> None:
    frames = [Image.new("RGB", (16, 16), color) for color in ("red", "blue")]
    options = {"lossless": True} if image_format == "WEBP" else {}
    data = written(frames[0], image_format, save_all=True, append_images=frames[1:], **options)
    assert (decode(data) == (255, 0, 0)).all()


def test_one_channel_is_luma_whatever_the_format() -> None:
    gray = np.asarray(Image.fromarray(scene()).convert("L"))
    assert (decode(encode_png(scene()), channels=1)[:, :, 0] == gray).all()
    jpeg = decode(encode_jpeg(scene(), 100), channels=1)
    assert jpeg.shape == (48, 64, 1)
    assert np.abs(jpeg[:, :, 0].astype(int) - gray).mean() < 2


@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 300), st.integers(1, 300))
@settings(deadline=None)
def test_a_picture_at_a_smaller_scale_never_falls_below_the_wanted_size(
    height: int, width: int, min_height: int, min_width: int
) -> None:
    image = decode(encode_jpeg(noise(height, width)), min_size=(min_height, min_width))
    scales = {
        scale
        for scale in (1, 2, 4, 8)
        if image.shape[:2] == (-(-height // scale), -(-width // scale))
    }
    assert scales, f"{image.shape} is not 1, 1/2, 1/4 or 1/8 of {(height, width)}"
    if scales != {1}:
        assert image.shape[0] >= min(height, min_height)
        assert image.shape[1] >= min(width, min_width)


def test_a_large_picture_is_decoded_at_the_smallest_scale_that_suffices() -> None:
    data = encode_jpeg(noise(600, 800))
    assert decode(data, min_size=(75, 100)).shape[:2] == (75, 100)
    assert decode(data, min_size=(76, 100)).shape[:2] == (150, 200)
    assert decode(data, min_size=(300, 300)).shape[:2] == (300, 400)
    assert decode(data, min_size=(301, 300)).shape[:2] == (600, 800)
    assert decode(data).shape[:2] == (600, 800)


def test_a_jpeg_that_simplejpeg_refuses_is_scaled_by_pillow() -> None:
    data = written(Image.fromarray(noise(600, 800)).convert("CMYK"), "JPEG")
    assert decode(data, min_size=(150, 200)).shape[:2] == (150, 200)


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "GIF", "WEBP", "BMP"])
def test_too_many_pixels_are_refused_with_the_numbers_and_the_remedy(image_format: str) -> None:
    data = written(Image.fromarray(scene()), image_format)
    assert decode(data, max_pixels=48 * 64).shape == (48, 64, 3)
    with pytest.raises(
        ImageTooLargeError, match=r"64 × 48 .*raise the limit \(IMAGE_CLASSIFICATION_MAX_PIXELS\)"
    ):
        decode(data, max_pixels=48 * 64 - 1)


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"", "0 bytes"),
        (b"II*\0" + bytes(100), "TIFF"),
        (b"\0\0\0\x18ftypheic" + bytes(100), "HEIC"),
        (b"version https://git-lfs.github.com/spec/v1", "Git LFS pointer"),
        (b"P3\n1 1\n255\n1 2 3", "PNM"),
        (b"hello", "unknown bytes that begin with b'hello'"),
    ],
)
def test_an_unsupported_format_is_named_with_the_accepted_ones(data: bytes, name: str) -> None:
    with pytest.raises(ImageFormatError) as raised:
        decode(data)
    assert name in str(raised.value)
    assert "JPEG, PNG, GIF, WEBP, BMP" in str(raised.value)


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "GIF", "WEBP", "BMP"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_a_truncated_picture_is_refused(image_format: str, share: float) -> None:
    data = written(Image.fromarray(noise(200, 300)), image_format)
    with pytest.raises(ImageDamagedError):
        decode(data[: int(len(data) * share)])


def test_a_second_frame_header_cannot_hide_a_larger_picture_from_the_limit() -> None:
    plain = encode_jpeg(scene())
    at = plain.index(b"\xff\xc0")
    length = int.from_bytes(plain[at + 2 : at + 4], "big") + 2
    frame = bytearray(plain[at : at + length])
    frame[5:9] = struct.pack(">HH", 60000, 60000)
    for place in (at, at + length):
        with pytest.raises(ImageError):
            decode(plain[:place] + frame + plain[place:])


def test_a_png_of_two_headers_is_refused_before_the_larger_is_decoded() -> None:
    plain = encode_png(scene())
    header = plain[8:33]
    larger = header[:8] + struct.pack(">II", 5000, 5000) + header[16:21]
    larger += struct.pack(">I", zlib.crc32(larger[4:]))
    with pytest.raises(ImageDamagedError, match=r"contradicts itself: 64 × 48 .* 5000 × 5000"):
        decode(plain[:33] + larger + plain[33:], max_pixels=48 * 64)


def test_cmyk_is_converted_as_pillow_does_it() -> None:
    data = written(Image.fromarray(scene()).convert("CMYK"), "JPEG", quality=95)
    with Image.open(io.BytesIO(data)) as image:
        assert (decode(data) == np.asarray(image.convert("RGB"))).all()


def test_a_progressive_jpeg_of_very_many_scans_is_refused_unread() -> None:
    data = written(Image.fromarray(scene()), "JPEG", progressive=True)
    assert decode(data).shape == (48, 64, 3)
    with pytest.raises(ImageDamagedError, match="at most 100 scans"):
        decode(data[:-2] + b"\xff\xda\0\x08\x01\x01\0\x01\x3f\0" * 200)


def test_a_text_chunk_that_inflates_enormously_is_never_inflated() -> None:
    plain = encode_png(scene())
    text = b"Comment\0\0" + zlib.compress(bytes(200 << 20))
    chunk = struct.pack(">I", len(text)) + b"zTXt" + text
    chunk += struct.pack(">I", zlib.crc32(chunk[4:]))
    assert (decode(plain[:33] + chunk + plain[33:]) == scene()).all()


def seeds() -> list[bytes]:
    small = Image.fromarray(noise(24, 32))
    return [
        written(small, "JPEG", exif=exif(6)),
        written(small, "JPEG", progressive=True),
        written(small.convert("CMYK"), "JPEG"),
        written(small, "PNG", exif=exif(3)),
        written(small.convert("P"), "PNG", transparency=3),
        written(small.convert("LA"), "PNG"),
        written(small, "GIF"),
        written(small, "GIF", save_all=True, append_images=[small.rotate(90)], disposal=2),
        written(small, "WEBP", exif=exif(8)),
        written(small, "WEBP", lossless=True),
        written(small, "BMP"),
        written(small.convert("P"), "BMP"),
    ]


SEEDS = seeds()
EDITS = st.lists(
    st.tuples(st.floats(0, 1), st.one_of(st.binary(max_size=4), st.integers(1, 200))), max_size=6
)


@given(st.sampled_from(range(len(SEEDS))), EDITS)
@example(0, [(0.0, 200)])
@settings(max_examples=1500, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_bytes_give_an_image_or_an_image_error(
    seed: int, edits: list[tuple[float, bytes | int]]
) -> None:
    """Bytes are overwritten anywhere, the header twice as often, or cut out."""
    data = bytearray(SEEDS[seed])
    for place, edit in edits:
        at = int(place * place * len(data))
        if isinstance(edit, int):
            del data[at : at + edit]
        else:
            data[at : at + len(edit)] = edit
    for min_size in (None, (4, 4)):
        try:
            image = decode(bytes(data), max_pixels=1 << 20, min_size=min_size)
        except ImageError as error:
            assert str(error)
        else:
            assert image.dtype == np.uint8 and image.shape[2] == 3 and image.flags.c_contiguous


def test_decoding_changes_no_setting_of_pillow() -> None:
    before = (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES)
    decode(written(Image.fromarray(scene()), "GIF"))
    with pytest.raises(ImageDamagedError):
        decode(encode_png(scene())[:60])
    assert (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES) == before


@pytest.mark.parametrize("work", ["decode", "resize"])
def test_other_threads_run_while_a_picture_is_decoded_or_resized(work: str) -> None:
    data = encode_jpeg(noise(2500, 2500))
    image = decode(data)
    ticks: list[float] = []
    done = threading.Event()

    def tick() -> None:
        while not done.wait(0.001):
            ticks.append(time.perf_counter())

    thread = threading.Thread(target=tick)
    thread.start()
    began = time.perf_counter()
    for _ in range(4):
        _ = decode(data) if work == "decode" else resize(image, 1250, 1250)
    ended = time.perf_counter()
    done.set()
    thread.join()
    heard = np.array([began, *(t for t in ticks if began < t < ended), ended])
    # With the lock held there would be four gaps of a quarter each.
    assert np.diff(heard).max() < 0.2 * (ended - began)


def test_png_keeps_every_pixel_and_jpeg_nearly() -> None:
    image = noise(40, 50)
    assert (decode(encode_png(image)) == image).all()
    assert (decode(encode_png(image[:, :, :1]), channels=1) == image[:, :, :1]).all()
    assert np.abs(decode(encode_jpeg(image, 95)).astype(int) - image).mean() < 5
    gray = decode(encode_jpeg(image[:, :, :1], 95), channels=1)
    assert np.abs(gray.astype(int) - image[:, :, :1]).mean() < 2
    assert read_header(encode_jpeg(image[:, :, :1])).channels == 1


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("interpolation", ["bilinear", "nearest", "bicubic", "area", "lanczos"])
def test_resizing_a_box_is_resizing_all_and_cropping(channels: int, interpolation: str) -> None:
    image = noise(90, 120)[:, :, :channels]
    whole = resize(image, 60, 80, interpolation)
    box = resize(image, 30, 40, interpolation, box=(15, 15, 75, 60))
    assert np.abs(whole[10:40, 10:50].astype(int) - box).max() <= 1


def test_shrinking_averages_instead_of_skipping_pixels() -> None:
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    assert np.abs(resize(stripes, 8, 8).astype(int) - 127).max() <= 5


def test_resizing_flips_on_request_and_writes_into_the_given_array() -> None:
    out = np.zeros((48, 64, 3), np.uint8)
    assert resize(scene(), 48, 64, out=out, horizontal_flip=True) is out
    assert (out == scene()[:, ::-1]).all()
    assert (resize(scene(), 48, 64, vertical_flip=True) == scene()[::-1]).all()
