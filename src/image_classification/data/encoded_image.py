"""One image on its way into a channel: read, checked, stored as it is or transcoded.

In: an entry of a list and its root. Out: an `EncodedImage`, or the reason why there is none.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass

from image_classification.data.headers import ImageHeader, read_header
from image_classification.data.listing import ListEntry
from image_classification.data.transcoding import Transcoding, check_stored, transcode
from image_classification.errors import ImageError

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


def encode(entry: ListEntry, root: str, transcoding: Transcoding | None) -> EncodedImage:
    """Read the file of an entry and encode it; never raises for what is wrong with a file."""
    digest = b""
    try:
        with open(os.path.join(root, entry.path), "rb", buffering=0) as file:
            content = file.read()
        digest = hashlib.blake2b(content, digest_size=_DIGEST_BYTES).digest()
        if transcoding is None:
            check_stored(content)
        else:
            content = transcode(content, transcoding)
        return EncodedImage(entry, content, read_header(content), digest)
    except (OSError, ValueError) as error:  # ValueError: a NUL in a path
        reason = error.strerror if isinstance(error, OSError) else None
        return EncodedImage(entry, reason=reason or str(error))
    except ImageError as error:
        return EncodedImage(entry, digest=digest, reason=str(error))
