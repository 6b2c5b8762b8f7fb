"""TensorBoard event files with scalars, written without TensorFlow.

An event file is a TFRecord file of `Event` messages, the first of which names the version.
TensorBoard finds files whose name holds `tfevents`. tensorboardX would do the same and bring
protobuf along; these are two messages of three fields. Source: tensorflow
`tensorflow/core/util/event.proto`, `tensorflow/core/framework/summary.proto`, Protocol Buffers'
"Encoding".
"""

from __future__ import annotations

import os
import platform
import struct
import time
from collections.abc import Mapping
from pathlib import Path

from image_classification.data.tfrecord import encode_field, encode_varint, frame_tfrecord

_VERSION = b"brain.Event:2"
_VARINT, _FIXED64, _FIXED32 = 0, 1, 5  # wire types


class EventFile:
    """A new event file in `directory`, which is created; what is written is on disk at once.

    Raises:
        UsageError: google-crc32c, which the format's checksums need, is not installed.
    """

    def __init__(self, directory: Path) -> None:
        first = frame_tfrecord(_wall_time() + encode_field(3, _VERSION))
        directory.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{int(time.time()):010d}.{platform.node()}.{os.getpid()}"
        self.path = directory / name
        self.path.write_bytes(first)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Scalars by tag at `step`, ≥ 0."""
        summary = b"".join(
            encode_field(
                1, encode_field(1, tag.encode()) + _key(2, _FIXED32) + struct.pack("<f", v)
            )
            for tag, v in values.items()
        )
        event = _wall_time() + _key(2, _VARINT) + encode_varint(step) + encode_field(5, summary)
        with self.path.open("ab") as file:
            file.write(frame_tfrecord(event))


def _wall_time() -> bytes:
    return _key(1, _FIXED64) + struct.pack("<d", time.time())


def _key(number: int, wire_type: int) -> bytes:
    return encode_varint(number << 3 | wire_type)
