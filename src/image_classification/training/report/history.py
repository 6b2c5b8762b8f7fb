"""What programs read of each epoch: history.json, and TensorBoard's event file."""

from __future__ import annotations

import json
import os
import platform
import struct
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path

from image_classification.files import write_text
from image_classification.records.tfrecord import encode_field, encode_varint, frame_tfrecord
from image_classification.training.checkpoint import EpochRecord, History

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


HISTORY_FILE = "history.json"
"""Written to output/data after every epoch."""

EpochObserver = Callable[[EpochRecord], None]
"""Is told of every epoch at its end."""


def history_writer(directory: Path, earlier: History) -> EpochObserver:
    """Writes all epochs so far, those of `earlier` first, into HISTORY_FILE, whole each time."""
    records = list(earlier.epochs)

    def write(record: EpochRecord) -> None:
        records.append(record)
        epochs = [asdict(one) | {"epoch": one.epoch + 1} for one in records]
        directory.mkdir(parents=True, exist_ok=True)
        best = History(records, metric=earlier.metric).best_epoch + 1
        content = {"best_epoch": best, "epochs": epochs}
        write_text(directory / HISTORY_FILE, json.dumps(content, indent=1))

    return write


def tensorboard_writer(directory: Path) -> EpochObserver:
    """Writes each epoch's numbers as scalars; training and validation share a chart.

    Raises:
        UsageError: google-crc32c is not installed.
    """
    events = EventFile(directory)

    def write(record: EpochRecord) -> None:
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
