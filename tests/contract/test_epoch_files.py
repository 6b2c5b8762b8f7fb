"""history.json and TensorBoard's event files agree with the log."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from image_classification.training.report.history import EventFile


def test_the_history_has_every_epoch_with_the_numbers_of_the_log(doubtful_job: Path) -> None:
    history = json.loads((doubtful_job / "output" / "data" / "history.json").read_text())
    manifest = json.loads((doubtful_job / "model" / "manifest.json").read_text())
    assert [record["epoch"] for record in history["epochs"]] == list(range(1, 9))
    assert history["best_epoch"] == manifest["metrics"]["best_epoch"]
    best = history["epochs"][history["best_epoch"] - 1]["validation"]
    losses = manifest["calibration"]["negative_log_likelihood"]
    assert manifest["metrics"]["validation_before_calibration"] == best
    assert best["loss"] == pytest.approx(losses["before"]) != pytest.approx(losses["after"])
    assert manifest["metrics"]["validation"]["loss"] == pytest.approx(losses["after"])
    served = f"loss {losses['before']:.6f} ({losses['after']:.6f} as served, calibrated)"
    assert served in (doubtful_job / "log").read_text()
    logged = re.findall(r"Validation-accuracy=([\d.]+)", (doubtful_job / "log").read_text())
    measured = [record["validation"]["accuracy"] for record in history["epochs"]]
    assert measured == pytest.approx([float(value) for value in logged], abs=1e-6)


def test_an_independent_reader_finds_the_scalars_of_every_epoch(doubtful_job: Path) -> None:
    (path,) = (doubtful_job / "output" / "tensorboard").glob("events.out.tfevents.*")
    events = [dict(fields(record)) for record in records(path.read_bytes())]
    assert events[0][3] == b"brain.Event:2"
    history = json.loads((doubtful_job / "output" / "data" / "history.json").read_text())
    assert [event[2] for event in events[1:]] == list(range(1, 9))
    for event, record in zip(events[1:], history["epochs"], strict=True):
        scalars = {}
        for _, value in fields(event[5]):
            parts = dict(fields(value))
            scalars[parts[1].decode()] = struct.unpack("<f", parts[2])[0]
        assert scalars["accuracy/validation"] == pytest.approx(record["validation"]["accuracy"])
        assert scalars["loss/train"] == pytest.approx(record["train"]["loss"])
        assert scalars["learning_rate"] == pytest.approx(0.005)


def test_tensorboard_itself_reads_the_file(tmp_path: Path) -> None:
    loader = pytest.importorskip("tensorboard.backend.event_processing.event_file_loader")
    file = EventFile(tmp_path)
    file.write(3, {"accuracy/train": 0.5})
    events = list(loader.LegacyEventFileLoader(str(file.path)).Load())
    assert events[1].step == 3
    assert events[1].summary.value[0].tag == "accuracy/train"
    assert events[1].summary.value[0].simple_value == 0.5


def test_a_job_without_tensorboard_has_no_event_files(trained_job: Path) -> None:
    assert not (trained_job / "output" / "tensorboard").exists()
    assert (trained_job / "output" / "data" / "history.json").is_file()


def records(content: bytes) -> Iterator[bytes]:
    """Return the records of a TFRecord file after checking both checksums."""
    crc32c = pytest.importorskip("google_crc32c")

    def masked(data: bytes) -> int:
        crc = crc32c.value(data)
        return int(((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)

    while content:
        (size,) = struct.unpack("<Q", content[:8])
        data = content[12 : 12 + size]
        checksums = struct.unpack("<I", content[8:12]) + struct.unpack(
            "<I", content[12 + size :][:4]
        )
        assert checksums == (masked(content[:8]), masked(data))
        yield data
        content = content[16 + size :]


def fields(message: bytes) -> Iterator[tuple[int, object]]:
    """Return (number, value) of a protocol buffer: integers of varints, bytes of other types."""
    place = 0

    def varint() -> int:
        nonlocal place
        value = shift = 0
        while True:
            byte = message[place]
            place += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while place < len(message):
        key = varint()
        if key & 7 == 0:
            yield key >> 3, varint()
            continue
        size = {1: 8, 5: 4}.get(key & 7) or varint()
        yield key >> 3, message[place : place + size]
        place += size
