"""Measures images: readable or not, size, color, brightness, sharpness, digest, perceptual hash.

The perceptual hash is pHash as in ImageHash: which of the lowest 8 × 8 frequencies of a 32 × 32
gray version are above their median (C. Zauner, Implementation and Benchmarking of Perceptual Image
Hash Functions, 2010). It survives resizing and recompression. The hash of the mirrored image needs
no second transform: mirroring negates the odd frequencies of a row.

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
from image_classification.prepare.check import Measurement, Severity, Subset
from image_classification.samples import FloatArray
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
# Measured on 900 photographs: 0.1 % are below this sharpness; blurred by a Gaussian of 2 % of the
# shorter side, 88 % are.
BLURRED = 100.0
_BLUR_SHARE = 0.25  # of the median
HASHED_SIDE, FREQUENCIES = 32, 8
# The type II discrete cosine transform of 32 values, without its constant factor.
COSINES = np.cos(
    np.pi * np.outer(np.arange(FREQUENCIES), np.arange(HASHED_SIDE) + 0.5) / HASHED_SIDE
)
_MIRROR = (-1.0) ** np.arange(FREQUENCIES)


def measure(
    subset: Subset,
    workers: int,
    max_pixels: int,
    with_thumbnail: bool,
    on_progress: Callable[[int], None],
) -> list[Measurement]:
    """Return a measurement of every image of a subset, in order.

    Args:
        subset: the images.
        workers: threads.
        max_pixels: larger images are unusable.
        with_thumbnail: keep what cropped copies are found with, 1 KB of each image.
        on_progress: called with 1 for every image.
    """

    def measure_one(index: int) -> Measurement:
        return _measure_one(subset, index, max_pixels, with_thumbnail)

    found = []
    for result in in_order(measure_one, range(len(subset.keys)), workers):
        found.append(result)
        on_progress(1)
    return found


def _measure_one(subset: Subset, index: int, max_pixels: int, with_thumbnail: bool) -> Measurement:
    digest = b""
    try:
        content = subset.read(index)
        if content:  # files without content are not copies of one image
            digest = hashlib.blake2b(content, digest_size=16).digest()
        header = read_header(content)
        pixels = decode(content, header=header, min_size=(_SIDE, _SIDE), max_pixels=max_pixels)
    except OSError as error:
        return Measurement(digest, reason=error.strerror or str(error))
    except (DataError, ValueError) as error:  # ValueError: a NUL in a path
        return Measurement(digest, reason=str(error))
    except MemoryError:
        return Measurement(digest, reason=OUT_OF_MEMORY)
    height, width = header.upright_size
    # Every pixel of a large picture would take three times its memory.
    step = max(1, math.isqrt(pixels.shape[0] * pixels.shape[1] // _MEASURED_PIXELS))
    red, green, blue = (pixels[::step, ::step, channel] for channel in range(3))
    gray = (np.add(red, green, dtype=np.float32) + blue) / 3
    is_plain = float(gray.std()) < _PLAIN
    spread = np.maximum(np.maximum(red, green), blue) - np.minimum(np.minimum(red, green), blue)
    colored = np.count_nonzero(spread > _COLORLESS) / spread.size
    picture = Image.fromarray(pixels).convert("L")
    is_hashed = not is_plain and min(height, width) >= _LEAST_SIDE
    size = (HASHED_SIDE, HASHED_SIDE)
    small = picture.resize(size, Image.Resampling.LANCZOS) if is_hashed else None
    hashes = (None, None) if small is None else _hashes(small)
    return Measurement(
        digest,
        height,
        width,
        is_gray=header.channels <= 2 or colored <= _COLORED_SHARE,
        is_plain=is_plain,
        brightness=float(gray.mean()),
        sharpness=_sharpness(picture),
        perceptual_hash=hashes[0],
        mirrored_hash=hashes[1],
        thumbnail=b"" if small is None or not with_thumbnail else small.tobytes(),
    )


def _hashes(small: Image.Image) -> tuple[int, int]:
    """Return the perceptual hashes of a gray image of 32 × 32 pixels and of its mirror image."""
    gray = np.asarray(small, np.float64)
    low = COSINES @ gray @ COSINES.T
    return _hash(low), _hash(low * _MIRROR)


def _hash(frequencies: FloatArray) -> int:
    values = frequencies.ravel()
    median = np.sort(values)[31:33].mean()  # several times faster than np.median
    return int.from_bytes(np.packbits(values > median, bitorder="little").tobytes(), "little")


def _sharpness(picture: Image.Image) -> float:
    """Return the variance of the Laplacian of a gray image; 0 for one without an inner pixel."""
    scale = _SIDE / min(picture.size)
    if scale < 1:
        width, height = (round(side * scale) for side in picture.size)
        picture = picture.resize((width, height), Image.Resampling.BILINEAR, reducing_gap=2)
    if min(picture.size) < 3:
        return 0.0
    gray = np.asarray(picture, np.float32)
    around = gray[:-2, 1:-1] + gray[2:, 1:-1] + gray[1:-1, :-2] + gray[1:-1, 2:]
    return float((around - 4 * gray[1:-1, 1:-1]).var())


@dataclass(frozen=True)
class ImageKind:
    """Images of a subset that are odd in the same way; the attributes are those of a `Problem`."""

    severity: Severity
    kind: str
    message: str
    indices: Sequence[int]


def image_kinds(measured: Sequence[Measurement]) -> Iterator[ImageKind]:
    """Yield tiny, huge, long, gray, plain and blurred images."""
    usable = [(i, image) for i, image in enumerate(measured) if image.reason is None]
    in_color = sum(not image.is_gray for _, image in usable)
    limit = blur_limit([image for _, image in usable])
    tests: list[tuple[Severity, str, str, Callable[[Measurement], bool]]] = [
        (
            "warning",
            "tiny",
            f"images have a side below {_TINY_SIDE} pixels",
            lambda image: min(image.height, image.width) < _TINY_SIDE,
        ),
        (
            "note",
            "huge",
            f"images have more than {_HUGE_PIXELS // 10**6} megapixels: preprocess --resize makes "
            "training several times faster",
            lambda image: image.height * image.width > _HUGE_PIXELS,
        ),
        (
            "warning",
            "odd-aspect",
            f"images are more than {_ODD_ASPECT:g} times as long as wide",
            lambda image: (
                max(image.height, image.width) > _ODD_ASPECT * min(image.height, image.width)
            ),
        ),
        (
            "note",
            "grey",
            f"images are gray among {in_color} in color",
            lambda image: image.is_gray and in_color > 0,
        ),
        ("warning", "plain", "images have almost one color only", lambda image: image.is_plain),
        (
            "note",
            "blurred",
            "images are blurred among sharp ones",
            lambda image: not image.is_plain and image.sharpness < limit,
        ),
    ]
    for severity, kind, message, is_one in tests:
        indices = [i for i, image in usable if is_one(image)]
        if indices:
            yield ImageKind(severity, kind, message, indices)


def blur_limit(images: Sequence[Measurement]) -> float:
    """Return the sharpness below which an image is blurred: a fixed one, and less where all images
    are smooth, as X-rays are."""
    return min(BLURRED, _BLUR_SHARE * float(np.median([i.sharpness for i in images] or [0.0])))
