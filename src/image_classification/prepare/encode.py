"""Images on their way into records, folders or TFRecord files: read, checked, stored or transcoded.

    entries of a list ─► ImageEncoder, in threads ─► EncodedImages, in order ─► a writer

An image that cannot be used is an `EncodedImage` with a reason. `EncodingRun` logs and counts them,
and fails the run when there are more than its budget allows.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import stat
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from image_classification.errors import (
    OUT_OF_MEMORY,
    AlgorithmError,
    DataError,
    ImageError,
    UsageError,
)
from image_classification.images.decode import DEFAULT_MAX_PIXELS, check_pixels, decode
from image_classification.images.encode import encode_jpeg, encode_png
from image_classification.images.header import ImageHeader, has_end_mark, read_header
from image_classification.images.preprocessing import INTERPOLATIONS
from image_classification.images.price import check_resize
from image_classification.images.resize import HIDING_RATIO, resize_box
from image_classification.images.restart_markers import Segmenter
from image_classification.labels.lists import ListEntry
from image_classification.labels.tree import class_name
from image_classification.samples import UInt8Array
from image_classification.work import in_order

AUTO = "auto"
_MAX_JPEG_SIDE = 65_500  # libjpeg-turbo's limit
_TRIAL_SIZE = (64, 64)  # least height and width of a trial decode
_DIGEST_BYTES = 16  # the chance that two of a billion files collide is 1e-21
_NAMED = 10  # unusable images in the error; the log names all
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Transcoding:
    """How images are decoded and encoded again.

    Attributes:
        resize: pixels of the shorter side, 1 to 65,500 (the other side is rounded down); 0 keeps
            the size.
        center_crop: crop the middle square before the resize.
        quality: of a JPEG, 1 to 100.
        encoding: ".jpg" or ".png".
        color: 1 color, 0 gray, −1 as stored (gray stays gray). Alpha is composited over white and
            the EXIF orientation applied in every case.
        interpolation: a key of `INTERPOLATIONS`, or "auto" (bicubic where both sides grow, box
            where both shrink, else bilinear). All but "nearest" antialias when they shrink.
    """

    resize: int = 0
    center_crop: bool = False
    quality: int = 95
    encoding: str = ".jpg"
    color: int = 1
    interpolation: str = "bilinear"

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


def transcode(
    content: bytes, transcoding: Transcoding, max_pixels: int = DEFAULT_MAX_PIXELS
) -> bytes:
    """Decode, crop, resize and encode again.

    Args:
        content: an image file.
        transcoding: how.
        max_pixels: height times width of the largest image, before and after the resize.

    Raises:
        ImageError: not an image, damaged, too large, or too long for a JPEG.
    """
    header = read_header(content)
    image = _decode_cropped(content, header, transcoding, max_pixels)
    if transcoding.encoding == ".png":
        return encode_png(image)
    if max(image.shape[:2]) > _MAX_JPEG_SIDE:
        raise ImageError(
            f"expected sides of at most {_MAX_JPEG_SIDE} pixels in a JPEG, got "
            f"{image.shape[1]} × {image.shape[0]}; crop it (--center-crop) or leave it out"
        )
    return encode_jpeg(image, transcoding.quality)


def _decode_cropped(
    content: bytes, header: ImageHeader, transcoding: Transcoding, max_pixels: int
) -> UInt8Array:
    """Return the cropped and resized picture, uint8 (H, W, 1 or 3)."""
    full_height, full_width = header.upright_size
    top, left, height, width = 0, 0, full_height, full_width
    if transcoding.center_crop:
        height = width = min(full_height, full_width)
        top, left = (full_height - height) // 2, (full_width - width) // 2
    side = transcoding.resize
    target = _resized(height, width, side) if side else (height, width)
    # The source counts too: decoding at a fraction of the size must not hide a large image.
    check_pixels(full_width, full_height, max_pixels)
    check_pixels(target[1], target[0], max_pixels, "after the resize ")
    check_resize(*target)
    is_color = transcoding.color == 1 or (transcoding.color == -1 and header.channels > 2)
    ratio = min(height / target[0], width / target[1])
    image = decode(
        content,
        channels=3 if is_color else 1,
        header=header,
        min_size=(side, side) if side and ratio > 1 else None,
        max_pixels=max_pixels,
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
    """Return (height, width) with the shorter side at `side` and the other rounded down."""
    if height > width:
        return height * side // width, side
    return side, width * side // height


@dataclass(frozen=True)
class EncodedImage:
    """The stored form of an image, or the reason why the image cannot be used.

    Attributes:
        entry: its line in the list.
        content: the image file to store; empty for an unusable image.
        reason: why it is unusable, or None.
        digest: of the file as it was read, if the encoder inspects files; equal files have equal
            digests.
        has_back_slashes: the file was found by reading the backslashes of its path as slashes.
    """

    entry: ListEntry
    content: bytes = b""
    reason: str | None = None
    digest: bytes = b""
    has_back_slashes: bool = False

    @property
    def shown(self) -> str:
        """The path as text: bytes that are not UTF-8 as `\\xe9`."""
        return class_name(self.entry.path)

    def to_json(self) -> dict[str, Any]:
        """Return an unusable image as JSON values."""
        return {"id": self.entry.id, "path": self.entry.path, "reason": self.reason}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> EncodedImage:
        """Return the unusable image; raise KeyError where the content is not that of `to_json`."""
        entry = ListEntry(content["id"], (), content["path"])
        return cls(entry, reason=content["reason"])


@dataclass(frozen=True)
class ImageEncoder:
    """Reads image files and makes their stored form; may be called from several threads.

    Attributes:
        root: the folder that paths are relative to.
        transcoding: None stores each file's bytes.
        max_pixels: height times width of the largest image that is decoded.
        segmenter: gives JPEGs restart markers, or None.
        inspects: compute digests, and also decode what is stored as it is (a JPEG at a fraction of
            its size: about 1 ms), so that a channel can be trained on. Otherwise a file that is
            stored as it is only has to be an image that ends where it should: other damage goes
            unnoticed.
        read: reads the image of an entry that is not a file below the root, or None.
    """

    root: str
    transcoding: Transcoding | None = None
    max_pixels: int = DEFAULT_MAX_PIXELS
    segmenter: Segmenter | None = None
    inspects: bool = False
    read: Callable[[ListEntry], bytes] | None = None

    def encode(self, entry: ListEntry) -> EncodedImage:
        """Read and encode the file of an entry; a fault of the file is the result's reason.

        Raises:
            AlgorithmError: a bug in this package; the message has the image's path.
        """
        try:
            content, has_back_slashes = self._content(entry)
            digest = b""
            if self.inspects:
                digest = hashlib.blake2b(content, digest_size=_DIGEST_BYTES).digest()
            if self.transcoding is not None:
                content = transcode(content, self.transcoding, self.max_pixels)
            else:
                self._check(content)
            if self.segmenter is not None:
                content = self.segmenter.segment(content, self.max_pixels)
            return EncodedImage(entry, content, None, digest, has_back_slashes)
        except OSError as error:
            reason = error.strerror or str(error)
        except DataError as error:
            reason = str(error)
        except MemoryError:
            reason = OUT_OF_MEMORY
        except Exception as error:
            raise AlgorithmError(f"encoding {entry.path} failed: {error!r}") from error
        return EncodedImage(entry, reason=sys.intern(reason))  # a wrong root gives a million

    def _content(self, entry: ListEntry) -> tuple[bytes, bool]:
        """Return the bytes of an entry, and whether backslashes of its path are slashes."""
        if self.read is not None:
            return self.read(entry), False
        return read_image_file(self.root, entry.path)

    def _check(self, content: bytes) -> None:
        header = read_header(content)
        if self.inspects:
            decode(content, header=header, min_size=_TRIAL_SIZE, max_pixels=self.max_pixels)
        elif not has_end_mark(content, header.format):
            decode(content, header=header, max_pixels=self.max_pixels)


def read_image_file(root: str, path: str) -> tuple[bytes, bool]:
    """Return the file's bytes, and whether the backslashes of a Windows list were read as slashes.

    Raises:
        OSError: there is no such regular file, or it cannot be read.
    """
    candidates = dict.fromkeys((path, path.strip(), path.strip().replace("\\", "/")))
    for candidate in candidates if "\0" not in path else ():
        try:
            name = os.path.join(root, candidate)
            with open(name, "rb", buffering=0, opener=_open_without_waiting) as file:
                if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                    raise OSError(errno.EINVAL, "not a regular file")
                return file.read(), candidate != path and "\\" in path
        except FileNotFoundError:
            continue
    raise FileNotFoundError(errno.ENOENT, f"no such file below {root}")


def _open_without_waiting(path: str, flags: int) -> int:
    """Open a file; a pipe without a writer must be refused, not waited for."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


class EncodingRun:
    """The images of a run: encoded in threads, counted, the unusable ones logged.

    An unusable image is logged once a usable one has been seen. A wrong root makes all of them
    unusable: then the error says so, and a million lines of log would hide it.

    Args:
        encoder: encodes one image.
        total: images in the run, for the budget and the progress.
        workers: threads; None for one per core.
        on_progress: called with (images done, total) from this thread.
        resumed: unusable images that an interrupted run has met; None without a resumed run.
        done: images that it has done.

    Attributes:
        unusable: the images that cannot be used, in the order of the run.
    """

    def __init__(
        self,
        encoder: ImageEncoder,
        total: int,
        workers: int | None = None,
        on_progress: Callable[[int, int], None] | None = None,
        *,
        done: int = 0,
        unusable: Iterable[EncodedImage] = (),
    ) -> None:
        self._encoder, self._total, self._on_progress = encoder, total, on_progress
        self._workers = workers or os.cpu_count() or 1
        self.unusable = list(unusable)
        self._done = done
        self._logged = 0
        self._warned_of_back_slashes = False

    def images(self, entries: Sequence[ListEntry]) -> Iterator[EncodedImage]:
        """Encode the images of `entries` and yield them in that order."""
        for image in in_order(self._encoder.encode, entries, self._workers):
            self._done += 1
            if image.reason is not None:
                self.unusable.append(image)
            self._log(image)
            yield image
            if self._on_progress is not None:
                self._on_progress(self._done, self._total)

    def _log(self, image: EncodedImage) -> None:
        if self._done > len(self.unusable):
            for unusable in self.unusable[self._logged :]:
                _log.warning("%s cannot be used: %s", unusable.shown, unusable.reason)
            self._logged = len(self.unusable)
        if image.has_back_slashes and not self._warned_of_back_slashes:
            self._warned_of_back_slashes = True
            _log.warning("%s: backslashes in the list's paths are read as /", image.shown)

    def finish(self, max_bad: int | float) -> None:
        """Check the budget of unusable images.

        Args:
            max_bad: how many may be left out: a count (int) or a share of all (float).

        Raises:
            DataError: there are more; the message names the first ten.
        """
        if self._encoder.segmenter is not None:
            self._encoder.segmenter.warn()
        count, total = len(self.unusable), self._total
        allowed = max_bad if isinstance(max_bad, int) else int(max_bad * total)
        if count <= allowed and (count < total or not total):
            return
        named = "; ".join(f"{image.shown}: {image.reason}" for image in self.unusable[:_NAMED])
        more = f"; and {count - _NAMED} more" if count > _NAMED else ""
        if count == total:
            advice = f"no image could be used: is {self._encoder.root} the folder of the images?"
        else:
            more += ", named in the log" if more else ""
            advice = "repair them, or leave them out with --max-bad N or --max-bad P%"
        raise DataError(
            f"expected at most {allowed} unusable images, got {count} of {total}: "
            f"{named}{more}; {advice}; nothing was written"
        )
