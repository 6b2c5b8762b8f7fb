"""What is in a record file: counts, labels, formats, sizes; one record; images back to files.

In: an open `RecordFile`. Out: values that JSON can hold, or image files in a folder.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from image_classification.data.headers import read_header
from image_classification.data.recordio import RecordFile
from image_classification.errors import DataError, ImageError

_NO_IMAGE = "no image"
_EXTENSIONS = {"JPEG": "jpg", "PNG": "png", "GIF": "gif", "WEBP": "webp", "BMP": "bmp"}


@dataclass(frozen=True)
class RecordSummary:
    """A record file as a whole.

    Attributes:
        path: the file.
        size_bytes: of the file.
        records: how many.
        labels: label → records, ascending; None where a record has no image header.
        formats: image format, or "no image" → records; None likewise.
        content_bytes: smallest, median and largest payload, without header and labels.
        index: "absent", "agrees", or what is wrong with it.
    """

    path: str
    size_bytes: int
    records: int
    labels: dict[str, int] | None
    formats: dict[str, int] | None
    content_bytes: tuple[int, int, int] | None
    index: str


def summarise(file: RecordFile) -> RecordSummary:
    """Look at every record; costs about 20 µs each, because every image header is read."""
    sizes = file.record_sizes()
    labels = formats = None
    if len(sizes) and _has_image_headers(file):
        sizes = sizes - 24 - 4 * file.record_headers["flag"].astype(np.int64)
        values, counts = np.unique(file.record_labels(), return_counts=True)
        labels = {f"{value:g}": int(count) for value, count in zip(values, counts, strict=True)}
        formats = dict(Counter(_format(file, number) for number in range(len(file))).most_common())
    spread = (int(sizes.min()), int(np.median(sizes)), int(sizes.max())) if len(sizes) else None
    return RecordSummary(
        str(file.path),
        file.path.stat().st_size,
        len(file),
        labels,
        formats,
        spread,
        _index_state(file),
    )


def describe_record(file: RecordFile, number: int) -> dict[str, Any]:
    """Header, place and image of one record.

    Raises:
        DataError: there is no such record, or it is no image record.
    """
    if not 0 <= number < len(file):
        raise DataError(
            f"{file.path}: expected a record from 0 to {len(file) - 1}, got {number}"
            if len(file)
            else f"{file.path} has no record"
        )
    record = file.read_image(number)
    description: dict[str, Any] = {
        "record": number,
        "offset": int(file.offsets[number]),
        "key": None if file.keys is None else int(file.keys[number]),
        "id": record.header.id,
        "id2": record.header.id2,
        "flag": int(file.record_headers["flag"][number]),
        "labels": list(record.header.labels),
        "content_bytes": len(record.content),
    }
    try:
        header = read_header(record.content)
    except ImageError as error:
        return {**description, "format": _NO_IMAGE, "reason": str(error)}
    height, width = header.upright_size
    return {
        **description,
        "format": header.format,
        "width": width,
        "height": height,
        "orientation": header.orientation,
    }


def extract(file: RecordFile, numbers: Iterable[int], folder: Path) -> int:
    """Write images to `folder/<label>/<id>.<extension>`; how many.

    The names are made of numbers only. A second image of the same id gets `-<record>` appended.

    Raises:
        DataError: a file of that name was there before; nothing is overwritten.
    """
    written: set[Path] = set()
    for number in numbers:
        record = file.read_image(number)
        extension = _EXTENSIONS.get(_format(file, number), "bin")
        inside = folder / f"{record.header.labels[0]:g}"
        path = inside / f"{record.header.id}.{extension}"
        if path in written:
            path = inside / f"{record.header.id}-{number}.{extension}"
        inside.mkdir(parents=True, exist_ok=True)
        try:
            with path.open("xb") as image:
                image.write(record.content)
        except FileExistsError:
            raise DataError(f"{path} exists; extract into an empty folder") from None
        written.add(path)
    return len(written)


def _has_image_headers(file: RecordFile) -> bool:
    try:
        return file.record_headers is not None
    except DataError:
        return False


def _format(file: RecordFile, number: int) -> str:
    try:
        return read_header(file.read_image(number).content).format
    except ImageError:
        return _NO_IMAGE


def _index_state(file: RecordFile) -> str:
    if file.index_path is None:
        return "absent"
    return file.index_problem or "agrees"
