"""Measures images: readable or not, size, color, brightness, sharpness, digest, perceptual hash.

The sharpness is the variance of the Laplacian, with the kernel 0 1 0, 1 -4 1, 0 1 0, of the gray
levels (J. L. Pech-Pacheco et al., Diatom autofocusing in brightfield microscopy: a comparative
study, ICPR 2000). Images are first reduced to a shorter side of 64 pixels, so that the number means
the same for every size.
"""

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from image_classification.errors import OUT_OF_MEMORY, DataError
from image_classification.images.decode import decode
from image_classification.images.header import read_header
from image_classification.prepare.check import Measurements, Severity, Subset
from image_classification.prepare.check.phash import HASHED_SIDE, hashes_of, thumbnail
from image_classification.samples import BoolArray, UInt8Array
from image_classification.work import in_order

_SIDE = 64  # pixels that the shorter side keeps at least when a JPEG is decoded at a smaller size
_LEAST_SIDE = 16  # pixels; the hash of a smaller image is meaningless
_MEASURED_PIXELS = 4 << 20
_COLORLESS = 8  # levels between the channels of a gray pixel in a color JPEG
_COLORED_SHARE = 0.01  # of the pixels of a gray image
_PLAIN = 4.0  # standard deviation of the gray levels
_TINY_SIDE = 32  # pixels of the shorter side
_HUGE_PIXELS = 16_000_000  # decoding one takes a tenth of a second and more
_ODD_ASPECT = 3.0  # a crop shows a third of such an image
# Measured on 900 photographs: 0.1% are below this sharpness; blurred by a Gaussian of 2% of the
# shorter side, 88% are.
BLURRED = 100.0
_BLUR_SHARE = 0.25  # of the median
_BATCH = 16  # images that a thread takes at a time, and whose hashes are computed together
# Threads hand the interpreter lock to each other several times an image. With images of 128 × 128,
# two take 1.6 times the CPU time of one (48 and 31 s for 50,000), and no less time.
_SMALL = 200 * 200  # pixels
_EVERY_ROW = 32  # rows of an image of which every one is looked at; of more, every fourth


def measure(
    subset: Subset,
    workers: int,
    max_pixels: int,
    thumbnails: UInt8Array | None,
    on_progress: Callable[[int], None],
) -> Measurements:
    """Return the measurements of every image of a subset.

    Args:
        subset: the images.
        workers: threads; for small images, one.
        max_pixels: larger images are unusable.
        thumbnails: uint8 (images, 32, 32), to be filled with what hashes are made of, or None.
        on_progress: called with the number of images that are done.
    """
    found = Measurements(len(subset.keys))

    def measure_some(some: range) -> int:
        """Fill the rows of some images, which no other thread touches."""
        small: UInt8Array = np.zeros((len(some), HASHED_SIDE, HASHED_SIDE), np.uint8)
        for place, index in enumerate(some):
            _measure_one(subset, index, max_pixels, found, small[place])
        found.hashes[some.start : some.stop] = hashes_of(small)
        if thumbnails is not None:
            thumbnails[some.start : some.stop] = small
        return len(some)

    images = len(subset.keys)
    batches = [range(i, min(i + _BATCH, images)) for i in range(0, images, _BATCH)]
    for batch in batches[:1]:
        on_progress(measure_some(batch))
        if found.sizes[batch.start : batch.stop].prod(axis=1).mean() < _SMALL:
            workers = 1
    for done in in_order(measure_some, batches[1:], workers, task_items=1):
        on_progress(done)
    return found


def _measure_one(
    subset: Subset, index: int, max_pixels: int, found: Measurements, small: UInt8Array
) -> None:
    """Fill the row of an image, and its thumbnail."""
    try:
        content = subset.read(index)
        if content:  # files without content are not copies of one image
            digest = hashlib.blake2b(content, digest_size=16).digest()
            found.digests[index] = np.frombuffer(digest, np.uint64)
        header = read_header(content)
        pixels = decode(
            content, channels=4, header=header, min_size=(_SIDE, _SIDE), max_pixels=max_pixels
        )
    except OSError as error:
        found.reasons[index] = error.strerror or str(error)
        return
    except (DataError, ValueError) as error:  # ValueError: a NUL in a path
        found.reasons[index] = str(error)
        return
    except MemoryError:
        found.reasons[index] = OUT_OF_MEMORY
        return
    found.sizes[index] = header.upright_size
    brightness, is_plain = _gray_levels(pixels)
    found.brightness[index] = brightness
    found.is_plain[index] = is_plain
    found.is_gray[index] = header.channels <= 2 or not _is_colored(pixels)
    height, width = pixels.shape[:2]
    picture = Image.frombuffer("RGBX", (width, height), pixels, "raw", "RGBX", 0, 1).convert("L")
    found.sharpness[index] = _sharpness(picture)
    if not is_plain and min(header.upright_size) >= _LEAST_SIDE:
        small[:] = thumbnail(_levels(picture))
        found.is_hashed[index] = True


def _step(pixels: UInt8Array) -> int:
    """Return which pixels of both sides are looked at: every one of a large picture would take
    three times its memory."""
    return max(1, math.isqrt(pixels.shape[0] * pixels.shape[1] // _MEASURED_PIXELS))


def _gray_levels(pixels: UInt8Array) -> tuple[float, bool]:
    """Return the mean gray level and whether the image is almost uniform.

    Some rows tell enough of the mean, and that an image is not uniform: all together deviate at
    least as much from their mean. Only where they are uniform, all are looked at.
    """
    step = _step(pixels)
    pixels = pixels[::step, ::step]
    some = pixels if len(pixels) <= _EVERY_ROW else pixels[::4]
    mean, variance = _mean_and_variance(some)
    if variance * len(some) >= _PLAIN**2 * len(pixels):
        return mean, False
    mean, variance = _mean_and_variance(pixels)
    return mean, variance < _PLAIN**2


def _mean_and_variance(pixels: UInt8Array) -> tuple[float, float]:
    """Return those of the gray levels, the means of three colors."""
    levels = pixels[:, :, 0].astype(np.uint16)
    levels += pixels[:, :, 1]
    levels += pixels[:, :, 2]
    sums = levels.ravel().astype(np.float32)
    mean = float(sums.mean())
    sums -= np.float32(mean)
    return mean / 3, float(np.square(sums, out=sums).mean()) / 9


def _is_colored(pixels: UInt8Array) -> bool:
    """Return True if more than a few pixels have a color; a part of them can tell that."""
    step = _step(pixels)
    pixels = pixels[::step, ::step]
    least = _COLORED_SHARE * pixels.shape[0] * pixels.shape[1]
    return _colored(pixels[::4]) > least or _colored(pixels) > least


def _colored(pixels: UInt8Array) -> int:
    red, green, blue = (pixels[:, :, channel] for channel in range(3))
    spread = np.maximum(np.maximum(red, green), blue)
    spread -= np.minimum(np.minimum(red, green), blue)
    return int(np.count_nonzero(spread > _COLORLESS))


def _levels(picture: Image.Image) -> UInt8Array:
    """Return the pixels of a gray image; np.asarray takes twice as long."""
    return np.frombuffer(picture.tobytes(), np.uint8).reshape(picture.height, picture.width)


def _sharpness(picture: Image.Image) -> float:
    """Return the variance of the Laplacian of a gray image; 0 for one without an inner pixel."""
    scale = _SIDE / min(picture.size)
    if scale < 1:
        width, height = (round(side * scale) for side in picture.size)
        picture = picture.resize((width, height), Image.Resampling.BILINEAR, reducing_gap=2)
    if min(picture.size) < 3:
        return 0.0
    gray = _levels(picture).astype(np.int16)
    around = gray[:-2, 1:-1] + gray[2:, 1:-1]
    around += gray[1:-1, :-2]
    around += gray[1:-1, 2:]
    around -= gray[1:-1, 1:-1] << 2
    laplacian = around.ravel().astype(np.float32)
    laplacian -= laplacian.mean()
    return float(np.square(laplacian, out=laplacian).mean())


@dataclass(frozen=True)
class ImageKind:
    """Images of a subset that are odd in the same way; the attributes are those of a `Problem`."""

    severity: Severity
    kind: str
    message: str
    indices: Sequence[int]


def image_kinds(measured: Measurements) -> Iterator[ImageKind]:
    """Yield tiny, huge, long, gray, plain and blurred images."""
    usable = measured.is_usable
    in_color = int(np.count_nonzero(usable & ~measured.is_gray))
    short, long = measured.sizes.min(axis=1), measured.sizes.max(axis=1)
    tests: list[tuple[Severity, str, str, BoolArray]] = [
        ("warning", "tiny", f"images have a side below {_TINY_SIDE} pixels", short < _TINY_SIDE),
        (
            "note",
            "huge",
            f"images have more than {_HUGE_PIXELS // 10**6} megapixels: preprocess --resize makes "
            "training several times faster",
            short * long > _HUGE_PIXELS,
        ),
        (
            "warning",
            "odd-aspect",
            f"images are more than {_ODD_ASPECT:g} times as long as wide",
            long > _ODD_ASPECT * short,
        ),
        (
            "note",
            "grey",
            f"images are gray, but {in_color} have color",
            measured.is_gray & (in_color > 0),
        ),
        ("warning", "plain", "images are nearly a single color", measured.is_plain),
        (
            "note",
            "blurred",
            "images are blurred, unlike most others",
            ~measured.is_plain & (measured.sharpness < blur_limit(measured)),
        ),
    ]
    for severity, kind, message, is_one in tests:
        indices = np.flatnonzero(usable & is_one).tolist()
        if indices:
            yield ImageKind(severity, kind, message, indices)


def blur_limit(measured: Measurements) -> float:
    """Return the sharpness below which an image is blurred: a fixed one, and less where all images
    are smooth, as X-rays are."""
    sharpness = measured.sharpness[measured.is_usable]
    return min(BLURRED, _BLUR_SHARE * float(np.median(sharpness))) if len(sharpness) else 0.0


_SIDES = (0, 32, 64, 128, 256, 512, 1024, 2048, 4096, np.inf)
_SHAPES = (0, 1 / 3, 1 / 2, 2 / 3, 4 / 5, 20 / 21, 21 / 20, 5 / 4, 3 / 2, 2, 3, np.inf)
_SHAPE_TICKS = ("", "1:3", "1:2", "2:3", "4:5", "", "", "5:4", "3:2", "2:1", "3:1", "")
_SHARPNESS = (0, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, np.inf)


def distributions(
    measured: Sequence[Measurements],
) -> list[tuple[str, list[int], list[str] | tuple[str, ...]]]:
    """Return (title, counts, ticks) of the sizes, shapes, brightness and sharpness of images."""
    usable = [(images, images.is_usable) for images in measured]
    sides = np.concatenate([images.sizes[is_usable] for images, is_usable in usable])
    brightness = np.concatenate([images.brightness[is_usable] for images, is_usable in usable])
    sharpness = np.concatenate([images.sharpness[is_usable] for images, is_usable in usable])
    gray = tuple(range(0, 257, 16))
    found = (
        ("Shorter side, pixels", sides.min(axis=1), _SIDES, _ticks(_SIDES)),
        ("Width to height", sides[:, 1] / sides[:, 0], _SHAPES, _SHAPE_TICKS),
        ("Brightness, 0 to 255", brightness, gray, _ticks(gray, 4)),
        ("Sharpness", sharpness, _SHARPNESS, _ticks(_SHARPNESS)),
    )
    return [
        (title, np.histogram(values, edges)[0].tolist(), ticks)
        for title, values, edges, ticks in found
    ]


def _ticks(edges: Sequence[float], every: int = 1) -> list[str]:
    shown = ["" if np.isinf(edge) else f"{edge:g}" for edge in edges]
    return [text if number % every == 0 else "" for number, text in enumerate(shown)]
