"""The micro-batcher gathers waiting requests and gives each its own answer."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from image_classification.errors import DeviceError, RequestError
from image_classification.samples import FloatArray, UInt8Array
from image_classification.serving import batching
from image_classification.serving.batching import Batcher
from image_classification.serving.observation import RequestRecord, working_on

SHAPE = (2, 2, 1)


class Device:
    """A runtime whose runs can be held up; an image's probability is its first pixel."""

    def __init__(self) -> None:
        self.providers = ["Device"]
        self.sizes: list[int] = []
        self.may_run = threading.Event()
        self.may_run.set()
        self.has_begun = threading.Event()
        self.is_broken = False

    def bound(self, shape: tuple[int, ...]) -> Device:
        return self

    def run(self, images: UInt8Array) -> FloatArray:
        self.sizes.append(len(images))
        self.has_begun.set()
        assert self.may_run.wait(30)
        if self.is_broken:
            raise DeviceError("it broke")
        return images[:, 0, 0].astype(np.float32)


@pytest.fixture
def device() -> Device:
    return Device()


def image(value: int) -> UInt8Array:
    return np.full((1, *SHAPE), value, np.uint8)


def test_every_batch_size_runs_once_before_the_first_request(device: Device) -> None:
    batcher = Batcher(device, SHAPE, 6)  # type: ignore[arg-type]
    assert device.sizes == [1, 2, 4, 8]
    batcher.close()


def test_requests_that_gather_while_a_batch_runs_are_the_next_batch(device: Device) -> None:
    batcher = Batcher(device, SHAPE, 4)  # type: ignore[arg-type]
    device.sizes.clear()
    device.may_run.clear()
    device.has_begun.clear()
    with ThreadPoolExecutor(8) as pool:
        first = pool.submit(batcher.run, image(7))
        assert device.has_begun.wait(30)
        others = [pool.submit(batcher.run, image(value)) for value in range(6)]
        while batcher._waiting.qsize() < 6:
            pass
        device.may_run.set()
        assert first.result()[0, 0] == 7
        assert [other.result()[0, 0] for other in others] == list(range(6))
    assert device.sizes == [1, 4, 2]
    batcher.close()


def test_more_images_than_a_batch_holds_are_split_and_joined(device: Device) -> None:
    batcher = Batcher(device, SHAPE, 4)  # type: ignore[arg-type]
    images = np.concatenate([image(value) for value in range(11)])
    assert batcher.run(images)[:, 0].tolist() == list(range(11))
    batcher.close()


def test_an_abandoned_request_leaves_the_batch_and_the_others_are_answered(
    device: Device,
) -> None:
    batcher = Batcher(device, SHAPE, 4)  # type: ignore[arg-type]
    device.sizes.clear()
    with working_on(RequestRecord("POST", "/", is_client_gone=lambda: True)):
        with pytest.raises(RequestError) as refused:
            batcher.run(image(1))
    assert refused.value.status == 499 and device.sizes == []
    record = RequestRecord("POST", "/")
    with working_on(record):
        assert batcher.run(image(2))[0, 0] == 2
    assert record.batch_size == 1 and record.queue_ms >= 0
    batcher.close()


def test_a_fault_of_the_device_reaches_everyone_in_the_batch(device: Device) -> None:
    batcher = Batcher(device, SHAPE, 4)  # type: ignore[arg-type]
    device.is_broken = True
    with pytest.raises(DeviceError, match="it broke"):
        batcher.run(image(1))
    batcher.close()
    with pytest.raises(DeviceError):
        Batcher(device, SHAPE, 4)  # type: ignore[arg-type]


def test_images_of_a_bulk_request_get_the_room_that_small_ones_leave(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batching, "_BULK_LATER", 3600.0)
    batcher = Batcher(device, SHAPE, 8)  # type: ignore[arg-type]
    device.may_run.clear()
    device.has_begun.clear()
    bulk = RequestRecord("POST", "/", is_bulk=True)
    finished: list[str] = []

    def run(record: RequestRecord, images: UInt8Array, name: str) -> None:
        with working_on(record):
            batcher.run(images)
        finished.append(name)

    with ThreadPoolExecutor(8) as threads:
        threads.submit(run, RequestRecord("POST", "/"), image(0), "first")
        assert device.has_begun.wait(30)
        many = np.concatenate([image(value) for value in range(24)])
        threads.submit(run, bulk, many, "bulk")
        while batcher._waiting.qsize() < 12:  # in pieces of two
            pass
        small = [
            threads.submit(run, RequestRecord("POST", "/"), image(value), "small")
            for value in range(3)
        ]
        while batcher._waiting.qsize() < 15:
            pass
        device.sizes.clear()
        device.may_run.set()
        for future in small:
            future.result(30)
    assert "bulk" in finished  # of the last batch, which has both, either thread may wake first
    assert device.sizes[0] == 8 and sum(device.sizes) >= 27  # three small ones and four of the bulk
    batcher.close()
