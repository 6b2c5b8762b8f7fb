"""Files about the epochs, for programs: history.json, and TensorBoard's event file.

The event file is TFRecords of TensorFlow's `Event` messages (tensorflow/core/util/event.proto).
"""

import json
import os
import platform
import struct
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from image_classification.files import named_in_errors, write_text
from image_classification.records.tfrecord import encode_field, encode_varint, frame_tfrecord
from image_classification.training.checkpoint import History
from image_classification.training.loop import EpochObserver

_VERSION = b"brain.Event:2"
_VARINT, _FIXED64, _FIXED32 = 0, 1, 5  # wire types


class EventFile:
    """A new event file in `directory`, which is created; every write is on disk at once.

    Raises:
        UsageError: google-crc32c, which the format's checksums need, is not installed.
    """

    def __init__(self, directory: Path) -> None:
        first = frame_tfrecord(_wall_time() + encode_field(3, _VERSION))
        directory.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{int(time.time()):010d}.{platform.node()}.{os.getpid()}"
        self.path = directory / name
        with named_in_errors(self.path):
            self.path.write_bytes(first)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Append scalars by tag at `step`, ≥ 0."""
        summary = b"".join(
            encode_field(
                1, encode_field(1, tag.encode()) + _key(2, _FIXED32) + struct.pack("<f", v)
            )
            for tag, v in values.items()
        )
        event = _wall_time() + _key(2, _VARINT) + encode_varint(step) + encode_field(5, summary)
        with named_in_errors(self.path), self.path.open("ab") as file:
            file.write(frame_tfrecord(event))


def _wall_time() -> bytes:
    return _key(1, _FIXED64) + struct.pack("<d", time.time())


def _key(number: int, wire_type: int) -> bytes:
    return encode_varint(number << 3 | wire_type)


HISTORY_FILE = "history.json"
"""Written to output/data after every epoch."""


def history_writer(directory: Path) -> EpochObserver:
    """Return what writes all epochs so far into HISTORY_FILE, replacing the file each time."""

    def write(history: History) -> None:
        epochs = [asdict(record) | {"epoch": record.epoch + 1} for record in history.epochs]
        content = {"best_epoch": history.best_epoch + 1, "epochs": epochs}
        directory.mkdir(parents=True, exist_ok=True)
        write_text(directory / HISTORY_FILE, json.dumps(content, indent=1))

    return write


def tensorboard_writer(directory: Path) -> EpochObserver:
    """Return what appends an epoch's numbers as scalars; training and validation share a chart.

    Raises:
        UsageError: google-crc32c is not installed.
    """
    events = EventFile(directory)

    def write(history: History) -> None:
        record = history.epochs[-1]
        values = {f"{name}/train": value for name, value in record.train.items()}
        values |= {f"{name}/validation": value for name, value in record.validation.items()}
        values |= {
            "learning_rate": record.learning_rate,
            "speed/images_per_second": record.images_per_second,
            "speed/wait_share": record.wait_share,
            "speed/outside_share": record.outside_share,
        }
        events.write(record.epoch + 1, values)

    return write
