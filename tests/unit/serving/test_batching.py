"""The micro-batcher gathers waiting requests and gives each its own answer."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from image_classification.artifact import read_artifact
from image_classification.errors import DeviceError, RequestError
from image_classification.samples import FloatArray, UInt8Array
from image_classification.serving import batching
from image_classification.serving.admission import THREAD_MEMORY, choose_plan
from image_classification.serving.batching import Batcher
from image_classification.serving.graph_outputs import Outputs
from image_classification.serving.observation import RequestRecord, working_on
from image_classification.serving.runtime import Runtime
from tests import graphs

SHAPE = (2, 2, 1)


class Device:
    """A runtime whose runs can be held up; an image's probability is its first pixel."""

    outputs = frozenset({"features"})

    def __init__(self) -> None:
        self.providers = ["Device"]
        self.sizes: list[int] = []
        self.may_run = threading.Event()
        self.may_run.set()
        self.has_begun = threading.Event()
        self.is_broken = False

    def host_buffer(self, shape: tuple[int, ...]) -> UInt8Array:
        return np.zeros(shape, np.uint8)

    def bound(self, shape: tuple[int, ...]) -> Device:
        return self

    def run(self, images: UInt8Array) -> FloatArray:
        self.sizes.append(len(images))
        self.has_begun.set()
        assert self.may_run.wait(30)
        if self.is_broken:
            raise DeviceError("it broke")
        return images[:, 0, 0].astype(np.float32)

    def run_outputs(self, images: UInt8Array, wanted: Collection[str]) -> Outputs:
        assert set(wanted) == {"features"}
        return Outputs(self.run(images), np.asarray(10 * images[:, 0, 0], np.float32))


@pytest.fixture
def device() -> Device:
    return Device()


def image(value: int) -> UInt8Array:
    return np.full((1, *SHAPE), value, np.uint8)


@pytest.mark.parametrize("threads", [1, 2])
def test_every_batch_size_runs_once_in_each_thread_before_the_first_request(
    device: Device, threads: int
) -> None:
    batcher = Batcher(device, SHAPE, 6, threads)  # type: ignore[arg-type]
    assert device.sizes == [1, 2, 4, 8] * threads  # one after another
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
        while len(batcher._waiting) < 6:
            pass
        device.may_run.set()
        assert first.result()[0, 0] == 7
        assert [other.result()[0, 0] for other in others] == list(range(6))
    assert device.sizes == [1, 4, 2]
    batcher.close()


@pytest.mark.parametrize("threads", [1, 2])
def test_more_images_than_a_batch_holds_are_split_and_joined(device: Device, threads: int) -> None:
    batcher = Batcher(device, SHAPE, 4, threads)  # type: ignore[arg-type]
    images = np.concatenate([image(value) for value in range(11)])
    assert batcher.run(images)[:, 0].tolist() == list(range(11))
    batcher.close()


@pytest.mark.parametrize("threads", [1, 2])
def test_more_outputs_of_many_images_are_split_and_joined(device: Device, threads: int) -> None:
    batcher = Batcher(device, SHAPE, 4, threads)  # type: ignore[arg-type]
    images = np.concatenate([image(value) for value in range(11)])
    found = batcher.run_outputs(images, {"features"})
    assert found.features is not None and found.maps is None
    assert found.features[:, 0].tolist() == [10 * value for value in range(11)]
    assert found.probabilities[:, 0].tolist() == list(range(11))
    batcher.close()


def test_a_request_gets_no_output_that_another_one_in_its_batch_wants(device: Device) -> None:
    batcher = Batcher(device, SHAPE, 4)  # type: ignore[arg-type]
    device.may_run.clear()
    device.has_begun.clear()
    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(batcher.run, image(7))
        assert device.has_begun.wait(30)
        other = pool.submit(batcher.run_outputs, image(5), {"features"})
        while len(batcher._waiting) < 1:
            pass
        plain = pool.submit(batcher.run_outputs, image(3), ())
        while len(batcher._waiting) < 2:
            pass
        device.may_run.set()
        features = other.result().features
        assert features is not None and features[0, 0] == 50
        assert plain.result().features is None and plain.result().probabilities[0, 0] == 3
        first.result()
    batcher.close()


@pytest.mark.parametrize("threads", [1, 2])
def test_an_abandoned_request_leaves_the_batch_and_the_others_are_answered(
    device: Device, threads: int
) -> None:
    batcher = Batcher(device, SHAPE, 4, threads)  # type: ignore[arg-type]
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


def test_a_request_of_several_batches_waits_only_while_none_of_them_runs(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each run takes a second, on a clock of its own."""
    batcher = Batcher(device, SHAPE, 8)  # type: ignore[arg-type]
    now = 100.0

    def run(images: UInt8Array) -> FloatArray:
        nonlocal now
        now += 1
        return images[:, 0, 0].astype(np.float32)

    monkeypatch.setattr(batching, "time", SimpleNamespace(monotonic=lambda: now))
    monkeypatch.setattr(device, "run", run)
    record = RequestRecord("POST", "/", is_bulk=True)
    with working_on(record):
        batcher.run(np.concatenate([image(value) for value in range(24)]))
    assert now >= 103 and record.queue_ms == 0
    batcher.close()


@pytest.mark.parametrize("threads", [1, 2])
def test_a_fault_of_the_device_reaches_everyone_in_the_batch(device: Device, threads: int) -> None:
    batcher = Batcher(device, SHAPE, 4, threads)  # type: ignore[arg-type]
    device.is_broken = True
    with pytest.raises(DeviceError, match="it broke"):
        batcher.run(image(1))
    batcher.close()
    with pytest.raises(DeviceError):
        Batcher(device, SHAPE, 4, threads)  # type: ignore[arg-type]


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
        while len(batcher._waiting) < 12:  # in pieces of two
            pass
        small = [
            threads.submit(run, RequestRecord("POST", "/"), image(value), "small")
            for value in range(3)
        ]
        while len(batcher._waiting) < 15:
            pass
        device.sizes.clear()
        device.may_run.set()
        for future in small:
            future.result(30)
    assert "bulk" in finished  # of the last batch, which has both, either thread may wake first
    assert device.sizes[0] == 8 and sum(device.sizes) >= 27  # three small ones and four of the bulk
    batcher.close()


# ---- two threads own a GPU


class QueueingDevice(Device):
    """A device that takes batches while it computes another; a run ends when the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.queue: list[UInt8Array] = []  # the first one is computed
        self.is_serving = False
        self.broken_values: set[int] = set()
        self.addresses: set[int] = set()
        self.changed = threading.Condition()

    def run(self, images: UInt8Array) -> FloatArray:
        if not self.is_serving:
            return super().run(images)
        with self.changed:
            self.queue.append(images)
            self.changed.notify_all()
            assert self.changed.wait_for(lambda: not self._holds(images), 30)
        self.addresses.add(images.ctypes.data)
        if self.broken_values & set(images[:, 0, 0, 0].tolist()):
            raise DeviceError("it broke")
        return super().run(images)

    def _holds(self, images: UInt8Array) -> bool:
        return any(held is images for held in self.queue)

    def rows(self) -> int:
        """Requests that it has; each image of theirs is brighter than the padding."""
        return sum(int((images[:, 0, 0, 0] > 0).sum()) for images in self.queue)

    def wait_for(self, state: Callable[[], bool]) -> None:
        with self.changed:
            assert self.changed.wait_for(state, 30), [len(images) for images in self.queue]

    def end_run(self) -> None:
        """End the batch that is computed."""
        with self.changed:
            self.queue.pop(0)
            self.changed.notify_all()


Pipeline = tuple[QueueingDevice, Batcher]


@pytest.fixture
def pipeline() -> Pipeline:
    device = QueueingDevice()
    batcher = Batcher(device, SHAPE, 4, 2)  # type: ignore[arg-type]
    device.is_serving = True
    return device, batcher


def submit(pool: ThreadPoolExecutor, pipeline: Pipeline, *values: int) -> list[Any]:
    """Let requests wait, or be computed, in this order."""
    device, batcher = pipeline
    futures = []
    for value in values:
        before = len(batcher._waiting) + device.rows()
        futures.append(pool.submit(batcher.run, image(value)))
        while len(batcher._waiting) + device.rows() == before:
            time.sleep(0.001)
    return futures


def long_runs(batcher: Batcher) -> None:
    """Let the batcher expect that each run takes an hour."""
    batcher._seconds = dict.fromkeys(batcher._sizes, 3600.0)


def test_a_device_never_ends_a_batch_without_the_next_one_while_requests_wait() -> None:
    device = QueueingDevice()
    batcher = Batcher(device, SHAPE, 8, 2)  # type: ignore[arg-type]
    device.is_serving = True
    clients, each = 6, 20
    expected = {c: list(range(1 + c * each, 1 + (c + 1) * each)) for c in range(clients)}
    answers: dict[int, list[int]] = {}

    def ask(client: int) -> None:
        own = [int(batcher.run(image(value))[0, 0]) for value in expected[client]]
        with device.changed:
            answers[client] = own
            device.changed.notify_all()

    def has_next_batch() -> bool:
        return len(device.queue) == 2 or device.rows() == clients - len(answers)

    runs = 0
    with ThreadPoolExecutor(clients) as pool:
        for client in range(clients):
            pool.submit(ask, client)
        while len(answers) < clients:
            device.wait_for(has_next_batch)  # it fails if the device would be idle from here on
            if device.queue:
                runs += 1
                device.end_run()
    assert answers == expected and runs >= each
    assert len(device.addresses) == 2  # the memory of the host is used again
    batcher.close()


def test_requests_are_answered_while_the_device_computes_the_next_batch(
    pipeline: Pipeline,
) -> None:
    device, batcher = pipeline
    with ThreadPoolExecutor(8) as pool:
        (first,) = submit(pool, pipeline, 7)
        device.wait_for(lambda: len(device.queue) == 1)
        (second,) = submit(pool, pipeline, 8)
        device.wait_for(lambda: len(device.queue) == 2)
        device.end_run()
        assert first.result(30)[0, 0] == 7 and not second.done()
        (third,) = submit(pool, pipeline, 9)
        device.wait_for(lambda: len(device.queue) == 2)
        device.end_run()
        device.end_run()
        assert second.result(30)[0, 0] == 8 and third.result(30)[0, 0] == 9
    batcher.close()


def test_requests_that_arrive_until_shortly_before_the_end_of_a_run_are_the_next_batch(
    pipeline: Pipeline,
) -> None:
    device, batcher = pipeline
    long_runs(batcher)
    with ThreadPoolExecutor(8) as pool:
        futures = submit(pool, pipeline, 1)
        device.wait_for(lambda: len(device.queue) == 1)
        futures += submit(pool, pipeline, 2, 3, 4)
        assert len(batcher._waiting) == 3 and len(device.queue) == 1
        device.end_run()  # sooner than expected
        device.wait_for(lambda: device.rows() == 3)
        assert device.queue[0][:, 0, 0, 0].tolist() == [2, 3, 4, 0]  # padded with nothing
        device.end_run()
        assert [future.result(30)[0, 0] for future in futures] == [1, 2, 3, 4]
    batcher.close()


def test_a_full_batch_is_handed_over_at_once_and_no_third_one(
    pipeline: Pipeline,
) -> None:
    device, batcher = pipeline
    long_runs(batcher)
    with ThreadPoolExecutor(16) as pool:
        futures = submit(pool, pipeline, 1)
        device.wait_for(lambda: len(device.queue) == 1)
        futures += submit(pool, pipeline, 2, 3, 4, 5)
        device.wait_for(lambda: device.rows() == 5)
        futures += submit(pool, pipeline, 6, 7, 8, 9, 10)
        assert device.rows() == 5 and len(batcher._waiting) == 5
        for _ in range(4):
            device.wait_for(lambda: bool(device.queue))
            device.end_run()
        assert [future.result(30)[0, 0] for future in futures] == list(range(1, 11))
    batcher.close()


def test_what_is_left_of_a_full_batch_is_the_next_one_without_another_request(
    pipeline: Pipeline,
) -> None:
    device, batcher = pipeline
    many = np.concatenate([image(value) for value in range(1, 11)])
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(batcher.run, many)
        device.wait_for(lambda: len(device.queue) == 2)
        for _ in range(3):
            device.wait_for(lambda: bool(device.queue))
            device.end_run()
        assert answer.result(30)[:, 0].tolist() == list(range(1, 11))
    batcher.close()


def test_a_fault_in_one_of_two_batches_is_that_of_its_requests_alone(
    pipeline: Pipeline,
) -> None:
    device, batcher = pipeline
    device.broken_values = {1}
    with ThreadPoolExecutor(8) as pool:
        (first,) = submit(pool, pipeline, 1)
        device.wait_for(lambda: len(device.queue) == 1)
        (second,) = submit(pool, pipeline, 2)
        device.wait_for(lambda: len(device.queue) == 2)
        device.end_run()
        device.end_run()
        with pytest.raises(DeviceError, match="it broke"):
            first.result(30)
        assert second.result(30)[0, 0] == 2
    batcher.close()


def test_closing_runs_what_waits_and_ends_both_threads(
    pipeline: Pipeline,
) -> None:
    device, batcher = pipeline
    long_runs(batcher)
    with ThreadPoolExecutor(8) as pool:
        futures = submit(pool, pipeline, 1)
        device.wait_for(lambda: len(device.queue) == 1)
        futures += submit(pool, pipeline, 2, 3)
        closed = pool.submit(batcher.close)
        device.wait_for(lambda: device.rows() == 3)
        device.end_run()
        device.end_run()
        closed.result(30)
        assert [future.result(30)[0, 0] for future in futures] == [1, 2, 3]
    assert not any(thread.is_alive() for thread in batcher._threads)


def test_a_request_waits_until_the_device_has_ended_the_batch_before_its_own(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    device, batcher = pipeline
    record = RequestRecord("POST", "/")
    now = 100.0
    monkeypatch.setattr(batching, "time", SimpleNamespace(monotonic=lambda: now))

    def ask() -> FloatArray:
        with working_on(record):
            return batcher.run(image(2))

    with ThreadPoolExecutor(8) as pool:
        submit(pool, pipeline, 1)
        device.wait_for(lambda: len(device.queue) == 1)
        second = pool.submit(ask)
        device.wait_for(lambda: len(device.queue) == 2)
        now = 105.0
        device.end_run()
        while len(batcher._handed) == 2:
            time.sleep(0.001)
        now = 109.0
        device.end_run()
        second.result(30)
    assert record.queue_ms == 5000
    batcher.close()


def test_two_threads_own_a_gpu_if_their_buffers_fit_into_the_memory_that_is_counted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    plan = choose_plan(2, 2**34, on_gpu=True)
    without = choose_plan(2, 2**34)
    assert plan.memory - (without.memory + 32 * THREAD_MEMORY) == plan.batch_memory > 0
    assert without.batch_memory == 0 and batching.batch_threads((224, 224, 3), without) == 1
    assert batching.batch_threads((224, 224, 3), plan) == 2 and not caplog.messages
    assert batching.batch_threads((2240, 2240, 3), plan) == 1
    assert "lower IMAGE_CLASSIFICATION_MAX_BATCH_SIZE" in caplog.messages[0]


def test_two_threads_run_one_session_and_each_request_gets_its_own_rows(tmp_path: Path) -> None:
    file = read_artifact(graphs.write_model(tmp_path, graphs.healthy())).graph_file
    session, shape = Runtime(file), (graphs.SIDE, graphs.SIDE, 3)
    pictures = np.random.default_rng(0).integers(0, 256, (40, *shape), np.uint8)
    expected = session.run(pictures)
    batcher = Batcher(session, shape, 8, 2)
    with ThreadPoolExecutor(12) as pool:
        rows = list(pool.map(lambda index: batcher.run(pictures[index : index + 1]), range(40)))
    batcher.close()
    assert np.allclose(np.concatenate(rows), expected, atol=1e-6)
