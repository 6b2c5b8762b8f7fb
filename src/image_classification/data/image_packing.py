"""From one line of a list to its record.

In: a list entry, the root of its path. Out: a record's payload, or the reason why there is none.
"""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass

from image_classification.data.listing import ListEntry
from image_classification.data.recordio import RecordHeader, pack_image_record
from image_classification.data.segmenting import Segmenter
from image_classification.data.transcoding import Transcoding, check_stored, transcode
from image_classification.errors import AlgorithmError, DataError


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
