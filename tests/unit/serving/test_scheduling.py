"""Bulk requests take turns, leave a CPU to small ones, and are told how many images fit."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from image_classification.errors import RequestError
from image_classification.serving import observation, scheduling
from image_classification.serving.admission import Plan, choose_plan
from image_classification.serving.observation import (
    Pace,
    RequestRecord,
    current_request,
    working_on,
)
from image_classification.serving.scheduling import ManyImages, Scheduler, hold_answer


def plan(**given: Any) -> Plan:
    return replace(choose_plan(2, 2**32), **({"threads": 1, "cpus": 1} | given))


class Request:
    """A request whose images a thread of the scheduler predicts, each part when it is told to."""

    def __init__(self, scheduler: Scheduler, images: int, pace: Pace, answer: int = 0) -> None:
        self.record = RequestRecord("POST", "/invocations")
        self.parts: list[slice] = []
        self.error: RequestError | None = None
        self._images, self._pace, self._answer = images, pace, answer
        self._has_part, self._may_go_on = threading.Semaphore(0), threading.Semaphore(0)
        self.over = threading.Event()
        scheduler.submit(self._work)

    def _work(self) -> None:
        try:
            with working_on(self.record):
                work = ManyImages(self._images, self._pace)
                for part in work.parts():
                    self.parts.append(part)
                    self._has_part.release()
                    if not self._may_go_on.acquire(timeout=30):
                        return  # the test is over
                    work.did(min(part.stop, self._images) - part.start)
                    hold_answer(self._answer)
        except RequestError as error:
            self.error = error
        finally:
            self.over.set()

    def computes(self, timeout: float = 30) -> bool:
        return self._has_part.acquire(timeout=timeout)

    def go_on(self) -> None:
        self._may_go_on.release()

    def refusal(self) -> RequestError:
        assert self.over.wait(30) and self.error is not None
        return self.error


@pytest.fixture
def start() -> Iterator[Callable[..., Scheduler]]:
    def start(**given: Any) -> Scheduler:
        scheduler = Scheduler(plan(**given))
        scheduler.start()
        return scheduler

    yield start


def paced(seconds: float) -> Pace:
    pace = Pace()
    pace.took(seconds, 1)
    return pace


def test_bulk_requests_take_turns_and_a_small_one_needs_none(
    start: Callable[..., Scheduler], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduling, "SLICE_SECONDS", 0.001)  # a part of a slice
    scheduler = start()
    one, other = (Request(scheduler, 6, paced(0.1)) for _ in range(2))
    if not one.computes(1):
        one, other = other, one
        assert one.computes()
    assert not other.computes(0.1)
    small = Request(scheduler, 1, paced(0.0005))
    assert small.computes()  # though there is one thread and one CPU
    small.go_on()
    assert small.over.wait(30)
    for turn in range(3):
        time.sleep(0.002)
        (one, other)[turn % 2].go_on()
        assert (other, one)[turn % 2].computes()
        assert not (one, other)[turn % 2].computes(0.05)
    assert scheduler.bulk_requests == 2


def test_a_cpu_is_left_to_small_requests_while_they_come(
    start: Callable[..., Scheduler], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduling, "_QUIET_SECONDS", 3600.0)
    scheduler = start(cpus=3, threads=3)
    small = Request(scheduler, 1, paced(0.001))
    small.go_on()
    assert small.over.wait(30)
    requests = [Request(scheduler, 1000, paced(0.1)) for _ in range(3)]
    assert sum(request.computes(2) for request in requests) == 2
    monkeypatch.setattr(scheduling, "_QUIET_SECONDS", 0.01)
    assert sum(request.computes(1) for request in requests) == 1


def test_a_request_of_many_images_computes_in_parts_of_the_time_of_a_slice(
    start: Callable[..., Scheduler],
) -> None:
    request = Request(start(), 100, paced(0.01))
    assert request.computes()
    request.record.images += 5
    request.go_on()
    assert request.computes()
    assert request.parts[0].stop in (4, 5)
    assert request.record.is_bulk


def test_images_that_take_longer_than_expected_make_a_request_a_bulk_one(
    start: Callable[..., Scheduler],
) -> None:
    scheduler = start()
    request = Request(scheduler, 40, paced(0.001))
    assert request.computes() and scheduler.bulk_requests == 0
    time.sleep(scheduling.SLICE_SECONDS)
    request.go_on()
    assert request.computes() and scheduler.bulk_requests == 1


def test_more_images_than_fit_are_refused_with_the_number_that_fits(
    start: Callable[..., Scheduler],
) -> None:
    scheduler = start(compute_timeout=10)
    message = str(Request(scheduler, 10_000, paced(0.01)).refusal())
    assert "10000 images take about 100 s: at most about 1000 images fit into 10 s" in message
    first = Request(scheduler, 900, paced(0.01))
    assert first.computes()
    shared = Request(scheduler, 900, paced(0.01)).refusal()  # 9 s and 9 s of another's
    assert shared.status == 413 and "at most about 500 images" in str(shared)


def test_an_estimate_refuses_nothing_that_may_fit(start: Callable[..., Scheduler]) -> None:
    pace = paced(0.05)
    for seconds in (0.01, 0.05, 0.2):  # the fastest counts
        pace.took(seconds, 1)
    assert Request(start(compute_timeout=10), 1400, pace).computes()


def test_too_large_an_answer_is_refused_with_the_number_that_fits(
    start: Callable[..., Scheduler],
) -> None:
    request = Request(start(bulk_memory=20_000), 1000, paced(0.01), answer=100 * 5)
    assert request.computes()
    request.go_on()
    error = request.refusal()
    size = request.parts[0].stop
    assert error.status == 413 and "top_k" in str(error)
    assert f"at most about {20_000 * size // 500 // 10 * 10} images" in str(error)


def test_answers_of_several_requests_share_the_memory_for_them(
    start: Callable[..., Scheduler],
) -> None:
    scheduler = start(bulk_memory=20_000, cpus=2, threads=2)
    requests = [Request(scheduler, 1000, paced(0.05), answer=15) for _ in range(2)]
    for request in requests:
        assert request.computes()
    for request in requests:
        request.go_on()
    end = time.monotonic() + 30
    while not (refused := [request for request in requests if request.over.is_set()]):
        assert time.monotonic() < end
    assert [request.refusal().status for request in refused] == [503]


def test_there_is_a_limit_of_bulk_requests(start: Callable[..., Scheduler]) -> None:
    scheduler = start(queue_size=2)
    requests = [Request(scheduler, 100, paced(0.01)) for _ in range(3)]
    errors = [request for request in requests if request.over.wait(0.5)]
    assert [error.refusal().status for error in errors] == [503]
    assert scheduler.bulk_requests == 2


def test_a_request_that_waits_for_its_first_slice_too_long_is_refused(
    start: Callable[..., Scheduler], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduling, "_CHECK_SECONDS", 0.01)
    scheduler = start()
    first = Request(scheduler, 1000, paced(0.01))
    assert first.computes()
    late = Request(scheduler, 1000, paced(0.01))
    late.record.deadline = time.monotonic()
    assert late.refusal().status == 503 and not late.parts
    first.go_on()
    assert first.computes()  # the refused one leaves the rotation


def test_an_error_in_a_thread_costs_no_place(start: Callable[..., Scheduler]) -> None:
    scheduler, done = start(), threading.Event()

    def fail() -> None:
        raise ValueError("as told")

    scheduler.submit(fail)
    scheduler.submit(done.set)
    assert done.wait(30)


@pytest.mark.parametrize("error", [RuntimeError("can't start new thread"), MemoryError()])
def test_a_thread_that_cannot_be_started_costs_no_place(
    start: Callable[..., Scheduler], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    scheduler = start(threads=2)

    def refuse(*_: object) -> None:
        raise error

    monkeypatch.setattr(scheduling, "start_new_thread", refuse)
    monkeypatch.setattr(observation, "LOOK_SECONDS", 0)
    for _ in range(6):
        request = Request(scheduler, 1000, paced(0.01))
        assert request.computes()
        request.record.deadline = 0
        request.record.is_client_gone = lambda: True
        request.go_on()
        assert request.refusal().status == 499


def test_a_thread_that_died_at_its_start_is_replaced(
    start: Callable[..., Scheduler], monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduler, done = start(), threading.Event()
    monkeypatch.setattr(scheduling, "start_new_thread", lambda *_: None)  # it never runs
    request = Request(scheduler, 1000, paced(0.01))
    assert request.computes()
    scheduler.submit(done.set)
    monkeypatch.undo()
    scheduler.fill_places()
    assert done.wait(30)
    request.go_on()


def test_outside_the_server_images_run_in_parts_without_a_clock() -> None:
    work = ManyImages(70, Pace())
    found = []
    for part in work.parts():
        found.append(part)
        work.did(32)
    assert [part.start for part in found] == [0, 32, 64]
    assert work.until == float("inf") and not current_request().is_bulk


def test_a_bulk_request_that_hangs_holds_up_no_other(
    start: Callable[..., Scheduler],
) -> None:
    scheduler, may_end = start(), threading.Event()
    begun = threading.Event()

    def hang() -> None:
        with working_on(RequestRecord("POST", "/invocations")):
            work = ManyImages(1000, paced(0.01))
            for _ in work.parts():
                scheduling.leave_place()  # as whoever waits for a process does
                begun.set()
                may_end.wait(30)
                return

    scheduler.submit(hang)
    assert begun.wait(30)
    other = Request(scheduler, 1000, paced(0.01))
    assert other.computes()
    may_end.set()
    other.go_on()
    assert other.computes()


def test_one_image_is_no_bulk_request_however_slow_the_model_is(
    start: Callable[..., Scheduler],
) -> None:
    scheduler = start(compute_timeout=1)
    request = Request(scheduler, 1, paced(10))
    assert request.computes() and scheduler.bulk_requests == 0 and not request.record.is_bulk


def test_bulk_requests_alone_use_every_cpu(start: Callable[..., Scheduler]) -> None:
    scheduler = start(cpus=2, threads=3)
    requests = [Request(scheduler, 1000, paced(0.01)) for _ in range(3)]
    assert sum(request.computes(2) for request in requests) == 2


def test_a_request_that_predicts_twice_counts_once(start: Callable[..., Scheduler]) -> None:
    scheduler, counts = start(bulk_memory=1000), []

    def predict_twice() -> None:
        with working_on(RequestRecord("POST", "/invocations", received_bytes=600)):
            for _ in range(2):
                work = ManyImages(20, paced(0.01))
                for part in work.parts():
                    work.did(min(part.stop, 20) - part.start)
                counts.append((scheduler.bulk_requests, scheduler._held))

    scheduler.submit(predict_twice)
    request = Request(scheduler, 1, paced(0.001))  # by the thread that follows
    assert request.computes()
    end = time.monotonic() + 30
    while (len(counts) < 2 or scheduler.bulk_requests) and time.monotonic() < end:
        time.sleep(0.01)
    assert counts == [(1, 600), (1, 600)]
    assert (scheduler.bulk_requests, scheduler._held) == (0, 0)


def test_the_first_images_of_a_request_may_be_slow(start: Callable[..., Scheduler]) -> None:
    request = Request(start(compute_timeout=10), 500, paced(0.01))
    assert request.computes()
    for _ in range(3):
        time.sleep(0.1)
        request.record.images += request.parts[-1].stop - request.parts[-1].start
        request.go_on()
        assert request.computes()  # though 500 such images take 15 s and more
