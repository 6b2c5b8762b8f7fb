"""One image on its way into a channel: read, checked, stored as it is or transcoded.

In: an entry of a list and its root. Out: an `EncodedImage`, or the reason why there is none.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from dataclasses import dataclass

from image_classification.errors import AlgorithmError, DataError, ImageError, UsageError
from image_classification.images.decode import DEFAULT_MAX_PIXELS, check_pixels, decode
from image_classification.images.encode import encode_jpeg, encode_png
from image_classification.images.header import ImageHeader, read_header
from image_classification.images.resize import HIDING_RATIO, INTERPOLATIONS, resize_box
from image_classification.images.restart_markers import Segmenter
from image_classification.labels.lists import ListEntry
from image_classification.records.format import RecordHeader, pack_image_record
from image_classification.samples import UInt8Array

AUTO = "auto"
_MAX_JPEG_SIDE = 65_500  # libjpeg-turbo's limit
_END_MARKS = {"JPEG": b"\xff\xd9", "PNG": b"IEND"}
_END_BYTES = 4096  # where the end mark is looked for; other programs append their data there


@dataclass(frozen=True)
class Transcoding:
    """How images are decoded and encoded again when they are packed.

    Attributes:
        resize: pixels of the shorter side (the other is rounded down), up or down, at most 65,500;
            0 keeps it.
        center_crop: cut out the middle square first.
        quality: of a JPEG, 1 to 100.
        encoding: ".jpg" or ".png".
        interpolation: how pixels are resized: a key of `images.INTERPOLATIONS`, or "auto" (bicubic
            where both sides grow, box where both shrink, else bilinear). All but "nearest" are
            antialiased when shrinking.
        color: 1 color, 0 gray, −1 as stored (gray stays gray). Alpha is composited over white and
            the EXIF orientation applied in every case.
        max_pixels: height times width of the largest image, as it comes and as it is stored.
    """

    resize: int = 0
    center_crop: bool = False
    quality: int = 95
    encoding: str = ".jpg"
    color: int = 1
    interpolation: str = "bilinear"
    max_pixels: int = DEFAULT_MAX_PIXELS

    def __post_init__(self) -> None:
        if not 0 <= self.resize <= _MAX_JPEG_SIDE or not 1 <= self.quality <= 100:
            raise UsageError(
                f"expected a resize from 0 to {_MAX_JPEG_SIDE} pixels and a quality from 1 to 100, "
                f"got {self.resize} and {self.quality}"
            )
        if self.encoding not in (".jpg", ".png") or self.color not in (-1, 0, 1):
            raise UsageError(
                "expected the encoding .jpg or .png and the color 1, 0 or -1, got "
                f"{self.encoding!r} and {self.color}"
            )
        if self.interpolation not in (*INTERPOLATIONS, AUTO):
            raise UsageError(
                f"expected an interpolation of {', '.join((*INTERPOLATIONS, AUTO))}, "
                f"got {self.interpolation!r}"
            )


def check_stored(content: bytes, max_pixels: int = DEFAULT_MAX_PIXELS) -> None:
    """Refuse what is no image or is cut off.

    Decodes only where the end mark is not in place; other damage inside is not seen.

    Raises:
        ImageError: what is wrong.
    """
    header = read_header(content)
    mark = _END_MARKS.get(header.format, b"")
    if mark not in content[-_END_BYTES:]:
        decode(content, header=header, max_pixels=max_pixels)


def transcode(content: bytes, transcoding: Transcoding) -> bytes:
    """Decode, crop, resize and encode again.

    Raises:
        ImageError: not an image, damaged, too large, or too long for a JPEG.
    """
    header = read_header(content)
    image = _decode_cropped(content, header, transcoding)
    if transcoding.encoding == ".png":
        return encode_png(image)
    if max(image.shape[:2]) > _MAX_JPEG_SIDE:
        raise ImageError(
            f"expected sides of at most {_MAX_JPEG_SIDE} pixels in a JPEG, got "
            f"{image.shape[1]} × {image.shape[0]}; crop it (--center-crop) or leave it out"
        )
    return encode_jpeg(image, transcoding.quality)


def _decode_cropped(content: bytes, header: ImageHeader, transcoding: Transcoding) -> UInt8Array:
    """The picture, cropped and then resized: uint8 (H, W, 1 or 3)."""
    full_height, full_width = header.upright_size
    top, left, height, width = 0, 0, full_height, full_width
    if transcoding.center_crop:
        height = width = min(full_height, full_width)
        top, left = (full_height - height) // 2, (full_width - width) // 2
    side = transcoding.resize
    target = _resized(height, width, side) if side else (height, width)
    # The source too: an image that is reduced while it is decoded must not pass for a small one.
    check_pixels(full_width, full_height, transcoding.max_pixels)
    check_pixels(target[1], target[0], transcoding.max_pixels, "after the resize ")
    channels = 3 if transcoding.color == 1 else 1
    if transcoding.color == -1 and header.channels > 2:
        channels = 3
    ratio = min(height / target[0], width / target[1])
    image = decode(
        content,
        channels=channels,
        header=header,
        min_size=(side, side) if side and ratio > 1 else None,
        max_pixels=transcoding.max_pixels,
        smooth_chroma=ratio < HIDING_RATIO,
    )
    # The decoder may have returned 1/2, 1/4 or 1/8 of the size; the box is in its pixels.
    down, across = image.shape[0] / full_height, image.shape[1] / full_width
    right, bottom = (left + width) * across, (top + height) * down
    box = (left * across, top * down, min(right, image.shape[1]), min(bottom, image.shape[0]))
    return resize_box(image, *target, box, _interpolation(transcoding, (height, width), target))


def _interpolation(transcoding: Transcoding, size: tuple[int, int], target: tuple[int, int]) -> str:
    if transcoding.interpolation != AUTO:
        return transcoding.interpolation
    if target[0] > size[0] and target[1] > size[1]:
        return "bicubic"
    return "box" if target[0] < size[0] and target[1] < size[1] else "bilinear"


def _resized(height: int, width: int, side: int) -> tuple[int, int]:
    """(height, width) with the shorter side at `side` and the other rounded down."""
    if height > width:
        return height * side // width, side
    return side, width * side // height


@dataclass(frozen=True)
class PackedImage:
    """The result of one image: its record, or the reason why there is none."""

    entry: ListEntry
    record: bytes = b""
    reason: str | None = None
    has_back_slashes: bool = False


def pack_image(
    entry: ListEntry,
    root: str,
    transcoding: Transcoding | None,
    pack_labels: bool,
    max_pixels: int,
    segmenter: Segmenter | None = None,
) -> PackedImage:
    """Read, check or transcode, and pack one image; what is wrong with it is the result's reason.

    Raises:
        AlgorithmError: a fault of ours, with the image's path.
    """
    try:
        content, has_back_slashes = read_image_file(root, entry.path)
        if transcoding is None:
            check_stored(content, max_pixels)
        else:
            content = transcode(content, transcoding)
        if segmenter is not None:
            content = segmenter.segment(content, max_pixels)
        several = pack_labels and len(entry.labels) > 1
        header = RecordHeader(entry.labels if several else entry.labels[0], entry.id)
        return PackedImage(entry, pack_image_record(header, content), None, has_back_slashes)
    except OSError as error:
        return PackedImage(entry, reason=error.strerror or str(error))
    except DataError as error:
        return PackedImage(entry, reason=str(error))
    except Exception as error:
        raise AlgorithmError(f"packing {entry.path} failed: {error!r}") from error


def read_image_file(root: str, path: str) -> tuple[bytes, bool]:
    """The file's bytes, and whether its back-slashes had to be read as slashes (Windows lists).

    Raises:
        OSError: there is no such regular file, or it cannot be read.
    """
    candidates = dict.fromkeys((path, path.strip(), path.strip().replace("\\", "/")))
    for candidate in candidates:
        try:
            with open(_joined(root, candidate), "rb", buffering=0, opener=_open_at_once) as file:
                if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                    raise OSError(errno.EINVAL, "not a regular file")
                return file.read(), candidate != path and "\\" in path
        except FileNotFoundError:
            continue
    raise FileNotFoundError(errno.ENOENT, f"no such file below {root}")


def _joined(root: str, path: str) -> str:
    if "\0" in path:
        raise FileNotFoundError(errno.ENOENT, "no file name has a zero byte")
    return os.path.join(root, path)


def _open_at_once(path: str, flags: int) -> int:
    """A pipe in the tree is refused instead of waited for."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


_SEEN = (64, 64)  # height and width that are decoded at least
_DIGEST_BYTES = 16  # two of a billion files collide with a chance of 1e-21


@dataclass(frozen=True)
class EncodedImage:
    """What is stored of an image.

    Attributes:
        entry: where it comes from.
        content: the image file to store; empty for an unusable image.
        header: of `content`; None for an unusable image.
        digest: of the file as it was read; equal files have equal digests. Empty if not read.
        reason: why it is unusable, or None.
    """

    entry: ListEntry
    content: bytes = b""
    header: ImageHeader | None = None
    digest: bytes = b""
    reason: str | None = None


def encode(
    entry: ListEntry,
    root: str,
    transcoding: Transcoding | None,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    segmenter: Segmenter | None = None,
) -> EncodedImage:
    """Read the file of an entry and encode it; never raises for what is wrong with a file.

    A file that is stored as it is is decoded too (a JPEG at a fraction of its size: about 1 ms), so
    that what is in a channel can be trained on.
    """
    digest = b""
    try:
        with open(os.path.join(root, entry.path), "rb", buffering=0) as file:
            content = file.read()
        digest = hashlib.blake2b(content, digest_size=_DIGEST_BYTES).digest()
        if transcoding is not None:
            content = transcode(content, transcoding)
        header = read_header(content)
        if transcoding is None:
            decode(content, header=header, min_size=_SEEN, max_pixels=max_pixels)
        if segmenter is not None:
            content = segmenter.segment(content, max_pixels)
        return EncodedImage(entry, content, header, digest)
    except (OSError, ValueError) as error:  # ValueError: a NUL in a path
        reason = error.strerror if isinstance(error, OSError) else None
        return EncodedImage(entry, reason=reason or str(error))
    except ImageError as error:
        return EncodedImage(entry, digest=digest, reason=str(error))
