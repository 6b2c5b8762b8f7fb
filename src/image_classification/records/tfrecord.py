"""TFRecord files of `tf.train.Example`s, written without TensorFlow.

In: encoded images. Out: records for `tf.data.TFRecordDataset` and `tf.io.parse_single_example`. A
record is `length (uint64) · masked CRC-32C of the length · data · masked CRC-32C of the data`,
little-endian. Source: tensorflow `tensorflow/core/lib/io/record_writer.h` (framing),
`tensorflow/core/example/{example,feature}.proto` (messages), Protocol Buffers' "Encoding".
"""

import struct
from collections.abc import Mapping
from functools import cache
from typing import Any

from image_classification.errors import UsageError

_MASK_DELTA = 0xA282EAD8
_LENGTH_DELIMITED = 2  # wire type
_BYTES_LIST, _INT64_LIST = 1, 3  # fields of Feature


def frame_tfrecord(data: bytes) -> bytes:
    """Frame `data` as one record of a TFRecord file."""
    length = struct.pack("<Q", len(data))
    return b"".join((length, _masked_crc(length), data, _masked_crc(data)))


def encode_example(features: Mapping[str, bytes | int]) -> bytes:
    """Encode a `tf.train.Example` with one value per feature: a bytes_list or an int64_list.

    Keys are written in the given order, so equal features give equal bytes. Integers are 0 or more.
    """
    entries = []
    for key, value in features.items():
        if isinstance(value, int):
            feature = encode_field(_INT64_LIST, encode_field(1, encode_varint(value)))  # packed
        else:
            feature = encode_field(_BYTES_LIST, encode_field(1, value))
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
