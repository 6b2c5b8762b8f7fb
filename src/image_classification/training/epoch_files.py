"""What programs read of each epoch: history.json, and TensorBoard's event file."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from image_classification.data.event_file import EventFile
from image_classification.data.files import write_text
from image_classification.training.checkpoint import EpochRecord, History

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
