"""One image on its way into a channel: read, checked, stored as it is or transcoded.

In: an entry of a list and its root. Out: an `EncodedImage`, or the reason why there is none.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass

from image_classification.data.headers import ImageHeader, read_header
from image_classification.data.images import DEFAULT_MAX_PIXELS, decode
from image_classification.data.listing import ListEntry
from image_classification.data.segmenting import Segmenter
from image_classification.data.transcoding import Transcoding, transcode
from image_classification.errors import ImageError

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
