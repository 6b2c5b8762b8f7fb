"""The content of a record file: counts, labels, formats, sizes; one record; images back to files.

In: an open `RecordFile`. Out: values that JSON can hold, or image files in a folder.
"""

import logging
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from image_classification.errors import DataError, ImageError
from image_classification.files import named_in_errors
from image_classification.images.header import ImageHeader, read_header
from image_classification.labels.kinds import LabelKind, classes_of
from image_classification.labels.label_map import LabelMap
from image_classification.labels.lists import ListEntry, label_text, write_list
from image_classification.loading.records import (
    RecordLabels,
    label_rows,
    read_record_labels,
)
from image_classification.records.reader import RecordFile
from image_classification.records.scan import Damage
from image_classification.samples import IntArray

EXTRACTED_LIST = "extracted.lst"
_NO_IMAGE = "no image"
_log = logging.getLogger(__name__)
_EXTENSIONS = {
    "JPEG": "jpg",
    "PNG": "png",
    "GIF": "gif",
    "WEBP": "webp",
    "BMP": "bmp",
    "TIFF": "tif",
    "PPM": "ppm",
    "AVIF": "avif",
}


@dataclass(frozen=True)
class RecordSummary:
    """A record file as a whole.

    Attributes:
        path: the file.
        size_bytes: of the file.
        records: how many.
        labels: label → records, ascending; None if the records are not image records. If records
            have several labels: class → records of that class, in the order of the classes; for
            boxes, class of an object → objects; empty for numbers that are not classes.
        label_kind: what the labels mean, a value of `LabelKind`; None without image records.
        label_width: labels per record, at most; None likewise.
        unlabeled: records of no class, if records can have several.
        index_records: records without an image that index identities.
        names: label → class name, from the `labels.json` next to the file.
        formats: image format, or "no image" → records; None if these are not image records.
        widths, heights: smallest, median and largest in pixels, upright; None without an image.
        content_bytes: smallest, median and largest payload, without header and labels.
        index: "absent", "agrees", or what is wrong with it.
        damages: the skipped bytes; empty for a sound file.
    """

    path: str
    size_bytes: int
    records: int
    labels: dict[str, int] | None
    names: dict[str, str]
    formats: dict[str, int] | None
    widths: tuple[int, int, int] | None
    heights: tuple[int, int, int] | None
    content_bytes: tuple[int, int, int] | None
    index: str
    damages: tuple[Damage, ...]
    label_kind: str | None = None
    label_width: int | None = None
    unlabeled: int = 0
    index_records: int = 0


def summarize(file: RecordFile) -> RecordSummary:
    """Summarize all records; takes about 20 µs each, because every image header is read."""
    sizes = file.record_sizes()
    labels = formats = None
    found: RecordLabels | None = None
    unlabeled = 0
    headers: list[ImageHeader | None] = []
    # If any image header fits, these are image records, and one that does not fit is damage.
    if len(sizes) and file.fitting_headers().any():
        sizes = sizes - 24 - 4 * file.record_headers["flag"].astype(np.int64)
        found = read_record_labels([file])
        labels, unlabeled = _count_labels(file, found)
        headers = [_read_header(file, number) for number in range(len(file))]
        kinds = Counter(header.format if header else _NO_IMAGE for header in headers)
        formats = dict(kinds.most_common())
    upright = [header.upright_size for header in headers if header]
    return RecordSummary(
        path=str(file.path),
        size_bytes=file.path.stat().st_size,
        records=len(file),
        labels=labels,
        names=_class_names(file, labels or {}),
        formats=formats,
        widths=_spread([width for _, width in upright]),
        heights=_spread([height for height, _ in upright]),
        content_bytes=_spread(sizes),
        index="absent" if file.index_path is None else file.index_problem or "agrees",
        damages=tuple(file.damages),
        label_kind=found.kind.value if found else None,
        label_width=found.width if found else None,
        unlabeled=unlabeled,
        index_records=int(np.count_nonzero(~found.has_image[0])) if found else 0,
    )


def _count_labels(file: RecordFile, found: RecordLabels) -> tuple[dict[str, int], int]:
    """Return label → records as `RecordSummary` has them, and the number of records of no class."""
    counts: Counter[float] = Counter()
    unlabeled = 0
    if found.kind in (LabelKind.CLASS, LabelKind.IDENTITY):
        values, sizes = np.unique(file.record_labels()[found.has_image[0]], return_counts=True)
        counts.update(dict(zip(values.tolist(), sizes.tolist(), strict=True)))
    elif found.kind is LabelKind.MULTI_HOT:
        counts.update(dict.fromkeys(map(float, range(found.width)), 0))
    if found.kind in (LabelKind.MULTI_HOT, LabelKind.DETECTION):
        for row in label_rows(file):
            classes = classes_of(row, found.kind)
            counts.update(classes)
            unlabeled += not classes
    return {label_text(label): counts[label] for label in sorted(counts)}, unlabeled


def _class_names(file: RecordFile, labels: dict[str, int]) -> dict[str, str]:
    known = LabelMap.beside(file.path)
    indexed = {str(index): name for index, name in enumerate(known.names if known else ())}
    return {label: indexed[label] for label in labels if label in indexed}


def _spread(values: IntArray | list[int]) -> tuple[int, int, int] | None:
    """Return smallest, median and largest."""
    if not len(values):
        return None
    return int(np.min(values)), int(np.median(values)), int(np.max(values))


def describe_record(file: RecordFile, number: int) -> dict[str, Any]:
    """Return header, offset and image properties of one record.

    Raises:
        DataError: there is no such record, or it is not an image record.
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


@dataclass(frozen=True)
class Extracted:
    """What was extracted.

    Attributes:
        images: image files that were written.
        others: files of content that is not an image, `<id>.bin`.
        empty: records without content, which have no file.
        listing: the list with all labels, if the images have several; else None.
    """

    images: int
    others: int
    empty: int
    listing: Path | None


def extract(file: RecordFile, numbers: Iterable[int], folder: Path) -> Extracted:
    """Write images to `folder/<label>/<id>.<extension>`.

    If all images have several labels, they are written to `folder/<id>.<extension>`, and the list
    `folder/extracted.lst` has the labels. The names consist of numbers only. A second image of the
    same id gets `-<record>` appended.

    Raises:
        DataError: a file of that name exists; nothing is overwritten.
    """
    kind = read_record_labels([file]).kind
    is_listed = kind in (LabelKind.MULTI_HOT, LabelKind.DETECTION)
    if kind is LabelKind.NUMBERS:
        several = np.count_nonzero(file.record_headers["flag"] > 1)
        is_listed = several == len(file)
        if not is_listed:
            _log.warning(
                "%s: %d of %d records have several labels, of which only the first is kept, as the "
                "name of a folder",
                *(file.path, several, len(file)),
            )
    written: dict[Path, bool] = {}
    entries: list[ListEntry] = []
    empty = 0
    for number in numbers:
        record = file.read_image(number)
        if not record.content:
            empty += 1
            continue
        header = _read_header(file, number)
        extension = _EXTENSIONS[header.format] if header else "bin"
        inside = folder if is_listed else folder / label_text(record.header.labels[0])
        path = inside / f"{record.header.id}.{extension}"
        if path in written:
            path = inside / f"{record.header.id}-{number}.{extension}"
        inside.mkdir(parents=True, exist_ok=True)
        try:
            with named_in_errors(path), path.open("xb") as image:
                image.write(record.content)
        except FileExistsError:
            raise DataError(f"{path} exists; extract into an empty folder") from None
        written[path] = header is not None
        entries.append(ListEntry(len(entries), record.header.labels, path.name))
    listing = folder / EXTRACTED_LIST if is_listed and entries else None
    if listing is not None:
        if listing.exists():
            raise DataError(f"{listing} exists; extract into an empty folder")
        write_list(listing, entries)
    images = sum(written.values())
    return Extracted(images, len(written) - images, empty, listing)


def _read_header(file: RecordFile, number: int) -> ImageHeader | None:
    try:
        return read_header(file.read_image(number).content)
    except ImageError:
        return None
