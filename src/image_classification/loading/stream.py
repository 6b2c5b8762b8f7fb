"""Records out of a stream that cannot be sought: Pipe mode.

In: bytes in RecordIO framing (layout in `record_format`). Out: payloads, then image records: as
MXNet packs them, or from alternating records of an image and its label, as an augmented manifest
with RecordWrapperType=RecordIO comes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

from image_classification.errors import DataError, RecordError
from image_classification.labels.values import parse_class_index, parse_multi_hot
from image_classification.records.format import (
    FIRST,
    LAST,
    LENGTH_BITS,
    LENGTH_MASK,
    MAGIC_BYTES,
    MIDDLE,
    PART_HEADER,
    RECORD_MAGIC,
    WHOLE,
    ImageRecord,
    RecordHeader,
    unpack_image_record,
)


@dataclass(frozen=True)
class StreamFormat:
    """What the records of a stream hold.

    Attributes:
        are_pairs: image, label, image, label, …; else image records.
        classes: how many there are.
        is_multi_label: several labels an image.
        label_format: of the labels in pairs: class-id, multi-hot or "".
    """

    are_pairs: bool
    classes: int
    is_multi_label: bool = False
    label_format: str = ""


def read_payloads(stream: BinaryIO, name: str) -> Iterator[bytes]:
    """The payload of every record, to the end of the stream.

    Raises (while iterating):
        RecordError: broken framing, or the stream ends inside a record; with byte and record.
    """
    position = number = 0
    pieces: list[bytes] = []
    while head := stream.read(PART_HEADER.size):
        place = f"{name}: damaged at byte {position}, record {number}"
        if len(head) < PART_HEADER.size:
            raise RecordError(f"{place}: the pipe ends inside a record's header")
        magic, word = PART_HEADER.unpack(head)
        if magic != RECORD_MAGIC:
            raise RecordError(
                f"{place}: expected the magic {MAGIC_BYTES.hex()}, got {head[:4].hex()}: the pipe "
                "must hold record files, or an augmented manifest with RecordWrapperType=RecordIO"
            )
        kind, length = word >> LENGTH_BITS, word & LENGTH_MASK
        if kind not in ((MIDDLE, LAST) if pieces else (WHOLE, FIRST)):
            raise RecordError(f"{place}: a part of kind {kind} is out of order")
        piece = stream.read(length)
        if len(piece) < length:
            raise RecordError(f"{place}: expected {length} bytes, got {len(piece)} to its end")
        position += len(head) + length + len(stream.read(-length % 4))
        pieces.append(piece)
        if kind in (WHOLE, LAST):
            yield MAGIC_BYTES.join(pieces)
            pieces, number = [], number + 1
    if pieces:
        raise RecordError(f"{name}: the pipe ends before the last part of record {number}")


def image_records(
    payloads: Iterable[bytes], name: str, layout: StreamFormat
) -> Iterator[ImageRecord]:
    """Image records with their labels; the id of an image in pairs is its number in the stream.

    The label is a class index or, with several labels, a tuple of `classes` zeros and ones.

    Raises (while iterating):
        RecordError: a payload that is not what `layout` says, a label beyond `classes`.
    """
    if layout.are_pairs:
        yield from _pairs(iter(payloads), name, layout)
        return
    for number, payload in enumerate(payloads):
        try:
            record = unpack_image_record(payload)
            _check_labels(record.header, layout)
        except DataError as error:
            raise RecordError(f"{name}, record {number}: {error}") from error
        yield record


def _pairs(payloads: Iterator[bytes], name: str, layout: StreamFormat) -> Iterator[ImageRecord]:
    for number, image in enumerate(payloads):
        text = next(payloads, None)
        if text is None:
            raise RecordError(
                f"{name}: the last image, number {number}, has no label record behind it: "
                "AttributeNames must name the image and then the label"
            )
        try:
            label = _label(text, layout)
            header = RecordHeader(label, number)
            _check_labels(header, layout)
        except DataError as error:
            raise RecordError(f"{name}, label of image {number}: {error}") from error
        yield ImageRecord(header, image)


def _label(text: bytes, layout: StreamFormat) -> float | tuple[float, ...]:
    try:
        decoded = text.decode("utf-8")
    except ValueError:
        raise DataError(
            f"expected the text of a label, got {len(text)} bytes that are none: AttributeNames "
            "must name the image and then the label"
        ) from None
    if layout.is_multi_label:
        row = parse_multi_hot(decoded, layout.classes, layout.label_format)
        return tuple(float(value) for value in row)
    return float(parse_class_index(decoded))


def _check_labels(header: RecordHeader, layout: StreamFormat) -> None:
    labels, classes = header.labels, layout.classes
    if layout.is_multi_label:
        if len(labels) != classes or not set(labels) <= {0.0, 1.0}:
            raise DataError(
                f"expected {classes} labels 0 or 1 with multi_label=1, got {labels[:20]}; "
                "num_classes must be the number of labels that were packed"
            )
    elif len(labels) != 1:
        raise DataError(f"expected one label, got {len(labels)}; set multi_label=1 for several")
    elif not (0 <= labels[0] < classes and labels[0].is_integer()):
        raise DataError(
            f"expected a class from 0 to {classes - 1}, got {labels[0]:g}; num_classes must be "
            "that of the data"
        )
