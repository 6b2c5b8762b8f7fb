"""Measures images: readable or not, size, color, digest, perceptual hash.

The perceptual hash is ImageHash's pHash (the signs of the lowest 8 × 8 frequencies of a 32 × 32
gray version; C. Zauner, 2010). It survives resizing and recompression.
"""

import hashlib
import math
from collections.abc import Callable
from importlib.util import find_spec

import numpy as np
from PIL import Image

from image_classification.errors import OUT_OF_MEMORY, DataError
from image_classification.images.decode import decode
from image_classification.images.header import read_header
from image_classification.prepare.check import Measurement, Subset
from image_classification.samples import UInt8Array
from image_classification.work import in_order

_SIDE = 64  # pixels that the shorter side keeps at least when a JPEG is decoded at a smaller size
_LEAST_SIDE = 16  # pixels; the hash of a smaller image is meaningless
_MEASURED_PIXELS = 4 << 20
_COLORLESS = 8  # levels between the channels of a gray pixel in a color JPEG
_PLAIN = 4.0  # standard deviation of the gray levels
_BITS = np.array([1 << bit for bit in range(64)], np.uint64)


def has_perceptual_hash() -> bool:
    """Return True if the library for it is installed."""
    return find_spec("imagehash") is not None


def measure(
    subset: Subset,
    workers: int,
    with_hash: bool,
    max_pixels: int,
    on_progress: Callable[[int], None],
) -> list[Measurement]:
    """Return a measurement of every image of a subset, in order.

    Args:
        subset: the images.
        workers: threads.
        with_hash: compute perceptual hashes.
        max_pixels: larger images are unusable.
        on_progress: called with 1 for every image.
    """

    def measure_one(index: int) -> Measurement:
        return _measure_one(subset, index, with_hash, max_pixels)

    found = []
    for result in in_order(measure_one, range(len(subset.keys)), workers):
        found.append(result)
        on_progress(1)
    return found


def _measure_one(subset: Subset, index: int, with_hash: bool, max_pixels: int) -> Measurement:
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
    sampled = pixels[::step, ::step]
    gray = sampled.mean(axis=2, dtype=np.float32)
    is_plain = float(gray.std()) < _PLAIN
    is_hashed = with_hash and not is_plain and min(height, width) >= _LEAST_SIDE
    spread = sampled.max(axis=2) - sampled.min(axis=2)
    return Measurement(
        digest,
        height,
        width,
        is_gray=header.channels <= 2 or bool(np.percentile(spread, 99) <= _COLORLESS),
        is_plain=is_plain,
        perceptual_hash=_hash(pixels) if is_hashed else None,
    )


def _hash(pixels: UInt8Array) -> int:
    import imagehash

    bits = imagehash.phash(Image.fromarray(pixels)).hash.reshape(64)
    return int((_BITS * bits).sum())
