"""TFRecord files of `tf.train.Example`s, written and read without TensorFlow.

Written: records for `tf.data.TFRecordDataset` and `tf.io.parse_single_example`. Read: where the
image of each record is, and its label, in the spellings of TensorFlow's tools. A record is
`length (uint64) · masked CRC-32C of the length · data · masked CRC-32C of the data`,
little-endian. Source: tensorflow `tensorflow/core/lib/io/record_writer.h` (framing),
`tensorflow/core/example/{example,feature}.proto` (messages), Protocol Buffers' "Encoding".
"""

import re
import struct
from array import array
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from image_classification.errors import LabelError, RecordError, UsageError
from image_classification.records import format as fmt
from image_classification.records.packed_labels import (
    PackedImage,
    PackedLabel,
    label_of_list,
    label_of_text,
)
from image_classification.samples import Array, BoolArray, IntArray

_MASK_DELTA = 0xA282EAD8
_LENGTH_DELIMITED = 2  # wire type
_BYTES_LIST, _FLOAT_LIST, _INT64_LIST = 1, 2, 3  # fields of Feature
_WIRE_TYPES = {_BYTES_LIST: (2,), _FLOAT_LIST: (2, 5), _INT64_LIST: (2, 0)}
_IMAGE_FEATURES = (
    *("image/encoded", "image", "image_raw", "image_bytes", "encoded", "image/encoded_image"),
    *("image_encoded", "encoded_image", "jpeg", "png", "img", "image/raw"),
)
_LABEL_FEATURES = (
    *("image/class/label", "label", "class", "target", "labels", "image/label", "image/class"),
    *("class_id", "label_id", "class_label", "class/label", "category", "category_id", "y"),
    *("image/labels", "image/class/labels", "classes", "targets", "tags", "label_ids", "class_ids"),
)
_NAME_FEATURES = (
    *("image/class/text", "label_name", "class_name", "image/class/name", "class/text"),
    *("label/text", "label_text", "class_text", "category_name", "label_names", "class_names"),
)
_MOST_TEXT = 2**20  # bytes of a label
_NAME = re.compile(r"(?i).*\.(?:tfrecords?|tfrec|tfr)(?:-\d+-of-\d+)?")
_SHARD_NAME = re.compile(r".*-\d+-of-\d+|.*\.record")  # of other programs too
_POLYNOMIAL = 0x82F63B78  # Castagnoli, reversed


def frame_tfrecord(data: bytes) -> bytes:
    """Frame `data` as one record of a TFRecord file."""
    length = struct.pack("<Q", len(data))
    return b"".join((length, _masked_crc(length), data, _masked_crc(data)))


def encode_example(features: Mapping[str, bytes | int | Sequence[bytes] | Sequence[int]]) -> bytes:
    """Encode a `tf.train.Example`: each feature is a bytes_list or an int64_list.

    Keys are written in the given order, so equal features give equal bytes. Integers are 0 or more.
    A list without a value is an int64_list.
    """
    entries = []
    for key, value in features.items():
        values = [value] if isinstance(value, (int, bytes)) else value
        texts = [item for item in values if isinstance(item, bytes)]
        if texts:
            content = b"".join(encode_field(1, text) for text in texts)
            feature = encode_field(_BYTES_LIST, content)
        else:
            numbers = [encode_varint(item) for item in values if isinstance(item, int)]
            feature = encode_field(_INT64_LIST, encode_field(1, b"".join(numbers)))  # packed
        entries.append(encode_field(1, encode_field(1, key.encode()) + encode_field(2, feature)))
    return encode_field(1, b"".join(entries))


def encode_field(number: int, content: bytes) -> bytes:
    """Encode a length-delimited field of a protocol buffer."""
    return b"".join(
        (encode_varint(number << 3 | _LENGTH_DELIMITED), encode_varint(len(content)), content)
    )


def encode_varint(value: int) -> bytes:
    """Encode an integer, 0 or more, in groups of seven bits, the lowest first."""
    groups = bytearray()
    while value > 0x7F:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    groups.append(value)
    return bytes(groups)


def _masked_crc(data: bytes) -> bytes:
    crc: int = _crc32c().value(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + _MASK_DELTA) & 0xFFFFFFFF)


@cache
def _crc32c() -> Any:
    try:
        import google_crc32c
    except ImportError as error:
        raise UsageError(
            "TFRecord and TensorBoard files need google-crc32c for their checksums: "
            "pip install 'sagemaker-image-classification[tfrecord]'"
        ) from error
    return google_crc32c


def require_checksums() -> None:
    """Raise a UsageError that names what to install, before any work is done."""
    _crc32c()


def is_tfrecord(path: Path) -> bool:
    """Return whether a file is named as a TFRecord file, or named as a shard and begins as one."""
    if _NAME.fullmatch(path.name):
        return True
    if not _SHARD_NAME.fullmatch(path.name):
        return False
    with path.open("rb") as file:
        head = file.read(12)
    return len(head) == 12 and bool(_right_lengths(head, np.zeros(1, np.int64))[0])


def is_undamaged(data: fmt.Mapped, record: fmt.Span) -> bool:
    """Return whether the data of a record (begin, size) has the checksum that follows it.

    True without google-crc32c, which is optional for reading.
    """
    begin, size = record
    try:
        expected = _masked_crc(bytes(data[begin : begin + size]))
    except UsageError:
        return True
    return bytes(data[begin + size : begin + size + 4]) == expected


@cache
def _crc_table() -> Array:
    """uint32 (256,): the CRC-32C of each byte."""
    table: Array = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, table >> 1 ^ np.uint32(_POLYNOMIAL), table >> 1)
    return table


def _right_lengths(data: fmt.Mapped, starts: IntArray) -> BoolArray:
    """bool (records,): whether the length of the record at each start has its checksum."""
    content = np.frombuffer(data, np.uint8)
    crc: Array = np.full(len(starts), 0xFFFFFFFF, np.uint32)
    for byte in range(8):
        crc = _crc_table()[(crc ^ content[starts + byte]) & 0xFF] ^ crc >> 8
    crc = ~crc
    masked = (crc >> 15 | crc << 17) + np.uint32(_MASK_DELTA)
    stored = [content[starts + 8 + byte].astype(np.uint32) << 8 * byte for byte in range(4)]
    right: BoolArray = masked == sum(stored[1:], stored[0])
    return right


def scan_examples(path: Path, data: fmt.Mapped) -> Iterator[PackedImage]:
    """Yield where the image of every record is, and its label.

    Raises:
        RecordError: the file is damaged, compressed or no TFRecord file of images.
        LabelError: a record has no feature with its class, or that of boxes.
    """
    starts, position = array("q"), 0
    while position + 16 <= len(data):
        starts.append(position)
        position += 16 + int.from_bytes(data[position : position + 8], "little")
    found: IntArray = np.frombuffer(starts, np.int64) if starts else np.empty(0, np.int64)
    wrong = np.flatnonzero(~_right_lengths(data, found))
    if len(wrong):
        where = f"record {wrong[0]} at byte {found[wrong[0]]}"
        packed = "gzip" if data[:2] == b"\x1f\x8b" else "zlib" if data[:1] == b"\x78" else ""
        raise RecordError(
            f"{path}: compressed with {packed}; decompress it, so that single images can be read"
            + (f" (gunzip -c {path} > FILE.tfrecord)" if packed == "gzip" else "")
            if packed and not wrong[0]
            else f"{path}: not a TFRecord file, or a damaged one: {where} has a wrong checksum"
        )
    if position != len(data):
        raise RecordError(
            f"{path}: truncated in record {max(len(starts) - 1, 0)}: expected {position} bytes, "
            f"got {len(data)}; copy it again"
        )
    for number, start in enumerate(starts):
        begin, size = start + 12, int.from_bytes(data[start : start + 8], "little")
        try:
            features = _features(data, begin, begin + size)
        except (ValueError, IndexError) as error:
            raise RecordError(
                f"{path}: record {number} at byte {start} is not a tf.train.Example: {error}"
            ) from error
        where = f"{path}: record {number}"
        image = next((features[key] for key in _IMAGE_FEATURES if key in features), None)
        if image is None or not image or not isinstance(image[0], tuple):
            raise _without_image(where, features)
        label = _label_of_features(where, features, data)
        yield PackedImage(image[0], (begin, size), f"#{number}", label)


def _without_image(where: str, features: Mapping[str, list[fmt.Span | float]]) -> RecordError:
    return RecordError(
        f"{where}: expected a feature with the encoded image ({', '.join(_IMAGE_FEATURES[:4])}, "
        f"…), found {', '.join(sorted(features)[:20]) or 'no feature'}"
    )


def _label_of_features(
    where: str, features: Mapping[str, list[fmt.Span | float]], data: fmt.Mapped
) -> PackedLabel:
    if any(name.startswith("image/object/") for name in features):
        raise LabelError(
            f"{where} describes objects in the image (image/object/…), for detection; "
            "classification needs one class of the whole image"
        )
    key = next((key for key in _LABEL_FEATURES if features.get(key)), None)
    names = next((features[key] for key in _NAME_FEATURES if features.get(key)), [])
    texts = [text for name in names if isinstance(name, tuple) and (text := _text(data, name))]
    if key is None and not texts:
        if any(key in features for key in _LABEL_FEATURES):
            return PackedLabel(several=())  # an image without a class
        raise LabelError(
            f"{where}: expected a feature with the class ({', '.join(_LABEL_FEATURES[:4])}, …), "
            f"found {', '.join(sorted(features)[:20])}{_columns_remedy(features)}"
        )
    values = [
        _text(data, value) if isinstance(value, tuple) else value
        for value in (features[key] if key else texts)
    ]
    if len(values) > 1:
        return label_of_list(where, values, texts)
    if isinstance(values[0], str):
        label = label_of_text(where, values[0])
    elif 0 <= values[0] < 2**31 and values[0] == int(values[0]):
        label = PackedLabel(int(values[0]))
    else:
        raise LabelError(f"{where}: expected a class number from 0, got {values[0]}")
    has_name = label.name or not texts or label.several is not None
    return label if has_name else label._replace(name=texts[0])


def _columns_remedy(features: Mapping[str, list[fmt.Span | float]]) -> str:
    """Return what to do with a feature of 0 or 1 for each class."""
    binary = [key for key, values in sorted(features.items()) if values in ([0], [1])]
    if len(binary) < 2:
        return ""
    return (
        f"; if {', '.join(binary[:5])} are classes with a 0 or 1, write all of them as one list "
        "into the feature label, in the same order in every record"
    )


def _text(data: fmt.Mapped, span: fmt.Span) -> str:
    return bytes(data[span[0] : min(span[1], span[0] + _MOST_TEXT)]).decode("utf-8", "replace")


def _features(data: fmt.Mapped, begin: int, end: int) -> dict[str, list[fmt.Span | float]]:
    """Return feature → values of an Example: numbers, or where bytes begin and end."""
    found: dict[str, list[fmt.Span | float]] = {}
    for _, features in _messages(data, begin, end, 1):
        for _, entry in _messages(data, *features, 1):
            key = b"".join(data[a:b] for _, (a, b) in _messages(data, *entry, 1))
            values: list[fmt.Span | float] = []
            for _, feature in _messages(data, *entry, 2):
                for kind, content in _messages(data, *feature):
                    values += _values(data, kind, content)
            found[key.decode("utf-8", "replace")] = values
    return found


def _values(data: fmt.Mapped, kind: int, content: fmt.Span) -> Iterator[fmt.Span | float]:
    """Yield the values of a BytesList (1), FloatList (2) or Int64List (3).

    Raises:
        ValueError: a value has the wire type of another list.
    """
    for _, wire, begin, end in message_fields(data, *content):
        if wire not in _WIRE_TYPES.get(kind, ()):
            raise ValueError(f"a value of wire type {wire} in a list of kind {kind}")
        if kind == _BYTES_LIST:
            yield begin, end
        elif kind == _FLOAT_LIST:
            count = (end - begin) // 4
            yield from struct.unpack_from(f"<{count}f", data, begin)
        elif wire == 0:
            yield begin - 2**64 if begin >= 2**63 else begin
        else:
            while begin < end:
                value, begin = _varint(data, begin, end)
                yield value - 2**64 if value >= 2**63 else value


def _messages(
    data: fmt.Mapped, begin: int, end: int, wanted: int | None = None
) -> Iterator[tuple[int, fmt.Span]]:
    for number, wire, first, last in message_fields(data, begin, end):
        if wire == 2 and wanted in (None, number):
            yield number, (first, last)


def message_fields(data: fmt.Mapped, begin: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield (number, wire type, begin, end) of each field; of a varint, its value and 0."""
    while begin < end:
        tag, begin = _varint(data, begin, end)
        number, wire = tag >> 3, tag & 7
        if wire == 0:
            value, begin = _varint(data, begin, end)
            yield number, wire, value, 0
            continue
        if wire == 2:
            size, begin = _varint(data, begin, end)
        else:
            size = {1: 8, 5: 4}.get(wire, -1)
        if size < 0 or begin + size > end:
            raise ValueError(f"field {number} of wire type {wire} exceeds its message")
        yield number, wire, begin, begin + size
        begin += size


def _varint(data: fmt.Mapped, begin: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while begin < end and shift < 70:
        byte = data[begin]
        begin += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & (2**64 - 1), begin
        shift += 7
    raise ValueError("a number without an end")
