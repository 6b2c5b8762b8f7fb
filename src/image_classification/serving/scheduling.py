"""Who computes next: small requests at once, bulk ones in slices.

A request with several images that together take longer than about 50 ms is a bulk request. It gives
its place among the threads of the small ones to another thread, and then computes in slices of
about 50 ms. Bulk requests take turns. While small requests arrive, one CPU is reserved for them; if
they fill the others too, 50 ms without a slice follow each slice. So a small request never waits
for a bulk one to end, and no bulk request waits forever.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from _thread import start_new_thread
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from queue import SimpleQueue

from image_classification.contract import environment
from image_classification.errors import RequestError
from image_classification.serving.admission import Plan
from image_classification.serving.observation import (
    MOST_TOGETHER,
    Pace,
    RequestRecord,
    current_request,
    seconds_without_cpu,
)

SLICE_SECONDS = 0.05

_QUIET_SECONDS = 0.25  # without a small request: then bulk ones can use every CPU
_CHECK_SECONDS = 0.5  # how late a bulk request that waits notices that its client disconnected
_SWITCH_SECONDS = 0.001  # Python's default, 0.005, delays a ping at each system call
_SLACK = 1.5  # a request is refused if an estimate must be wrong by more than this for it to fit

_logger = logging.getLogger(__name__)
_thread = threading.local()  # of `Scheduler`: `scheduler`, `has_place`, `has_slice`, `bulk`


class Scheduler:
    """The threads of a process that answer requests, and the slices of the bulk ones among them.

    Args:
        plan: how the process works.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._tasks: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._lock = threading.Lock()
        self._small = 0  # requests that wait or are worked on, without the bulk ones
        self._last_small = 0.0  # when (monotonic) one ended
        self._bulk: set[ManyImages] = set()
        self._waiting: deque[threading.Event] = deque()
        self._running = 0  # slices
        self._last_slice = 0.0  # when one ended
        self._held = 0  # bytes of the images and answers that bulk requests hold or will hold
        self._places = 0  # threads that take tasks

    @property
    def bulk_requests(self) -> int:
        """The number of bulk requests, which take no room in the queue."""
        return len(self._bulk)

    def start(self) -> None:
        """Start the threads; in the process that uses them."""
        sys.setswitchinterval(_SWITCH_SECONDS)
        self.fill_places()

    def fill_places(self) -> None:
        """Start the threads that are missing; now and then, because a start can fail."""
        for _ in range(self.plan.threads - self._places):
            if not self._start_thread():
                return

    def submit(self, work: Callable[[], None]) -> None:
        """Pass the work of a request to a thread; requests begin in the order of the calls."""
        with self._lock:
            self._small += 1
        self._tasks.put(work)

    @contextmanager
    def time_slice(self, record: RequestRecord) -> Iterator[None]:
        """Wait until the block, a slice of the request of `record`, can run.

        Raises:
            RequestError: no client waits for the answer any more (499, 503).
        """
        granted, has_begun = threading.Event(), False
        with self._lock:
            self._waiting.append(granted)
            self._grant()
        try:
            since = checked = time.monotonic()
            while not granted.wait(SLICE_SECONDS):
                now = time.monotonic()
                if now - checked > _CHECK_SECONDS:
                    record.waited(now - since)
                    since = checked = now
                    record.refuse_if_abandoned()
                with self._lock:
                    self._grant()
            record.waited(time.monotonic() - since)
            _thread.has_slice = has_begun = True
            yield
        finally:
            with self._lock:
                if not granted.is_set():
                    self._waiting.remove(granted)
                elif _thread.has_slice or not has_begun:  # it was not lent meanwhile
                    self._running -= 1
                    self._last_slice = time.monotonic()
                _thread.has_slice = False
                self._grant()

    def add(self, work: ManyImages) -> None:
        """Count a bulk request, until its thread has answered it.

        Raises:
            RequestError: 503, there are too many.
        """
        leave_place()
        most = most_bulk_requests(self.plan)
        with self._lock:
            self._forget_bulk()  # the user's own code can predict twice
            if len(self._bulk) >= most and work.count > 1:
                text = f"{most} requests with many images are computing: send yours again later"
                raise RequestError(503, text)
            if self._bulk and self._held + work.reserved > self.plan.bulk_memory:
                raise RequestError(503, _NO_ROOM)
            self._held += work.reserved
            self._bulk.add(work)
        _thread.bulk = work

    def seconds_for(self, work: ManyImages) -> float:
        """Return in how many seconds a bulk request can end, by estimate, next to the others."""
        own = work.seconds_left
        with self._lock:
            others = sum(min(own, other.seconds_left) for other in self._bulk - {work})
        return max(own, (own + others) / self.plan.cpus)

    def hold(self, size: int) -> bool:
        """Count bytes of a bulk request; False if there is no room for them."""
        with self._lock:
            if self._held + size > self.plan.bulk_memory:
                return False
            self._held += size
        return True

    def _start_thread(self) -> bool:
        """Start a thread, which takes a place if one is free; False if the system refuses.

        Not `threading.Thread`: its `start` never returns if the new thread has no memory.
        """
        try:
            start_new_thread(self._serve, ())
            return True
        except (RuntimeError, MemoryError):
            return False

    def _serve(self) -> None:
        with self._lock:
            if self._places >= self.plan.threads:
                return
            self._places += 1
        _thread.scheduler, _thread.bulk = self, None
        _thread.has_place, _thread.has_slice = True, False
        try:
            while _thread.has_place:
                work = self._tasks.get()
                try:
                    work()
                except BaseException:
                    _logger.exception("A request got no response")
                finally:
                    self._finish()
        finally:
            with self._lock:
                self._places -= _thread.has_place  # it ends without having left: no memory

    def _finish(self) -> None:
        with self._lock:
            self._forget_bulk()
            if _thread.has_place:
                self._small -= 1
                self._last_small = time.monotonic()
            self._grant()

    def _forget_bulk(self) -> None:
        """Stop counting this thread's bulk request; with the lock."""
        bulk: ManyImages | None = _thread.bulk
        _thread.bulk = None
        if bulk is not None:
            self._bulk.discard(bulk)
            self._held -= bulk.reserved

    def leave_place(self) -> None:
        """Give this thread's place and slice to others; it ends after its request.

        It keeps its place, and goes on, if no other thread can be started.
        """
        had_place, has_slice, _thread.has_slice = _thread.has_place, _thread.has_slice, False
        if had_place:
            with self._lock:
                self._places -= 1  # first, so that the new thread finds it free
            _thread.has_place = not self._start_thread()
        with self._lock:
            self._places += _thread.has_place
            self._small -= had_place - _thread.has_place
            self._running -= has_slice
            self._grant()

    def _grant(self) -> None:
        """Give the free slices to those that have waited longest; with the lock."""
        while self._waiting and self._running < self._allowed():
            self._running += 1
            self._waiting.popleft().set()

    def _allowed(self) -> int:
        """Return how many slices can run at the same time now."""
        now, cpus = time.monotonic(), self.plan.cpus
        if not self._small and now - self._last_small > _QUIET_SECONDS:
            return cpus
        if self._small + self._running < cpus or now - self._last_slice >= SLICE_SECONDS:
            return max(1, cpus - 1)
        return 0


def most_bulk_requests(plan: Plan) -> int:
    """Return how many bulk requests can run at the same time."""
    return max(plan.cpus, plan.queue_size)


def leave_place() -> None:
    """Give this thread's place, or its slice, to another: it waits, or works for long."""
    scheduler: Scheduler | None = getattr(_thread, "scheduler", None)
    if scheduler is not None:  # it is a thread of a `Scheduler`
        scheduler.leave_place()


@contextmanager
def long_work() -> Iterator[None]:
    """Do what takes long in Python, such as reading a large body, in a slice without a place."""
    leave_place()
    scheduler: Scheduler | None = getattr(_thread, "scheduler", None)
    with scheduler.time_slice(current_request()) if scheduler else nullcontext():
        yield


def hold_answer(size: int) -> None:
    """Count bytes of the answer to this thread's bulk request, if it works on one.

    Raises:
        RequestError: 413, the whole answer will be too large; 503, there is no room for it now.
    """
    bulk: ManyImages | None = getattr(_thread, "bulk", None)
    if bulk is not None:
        bulk.hold(size)


class ManyImages:
    """The images of one request on their way through the model.

    Args:
        count: of the images.
        pace: of the model.
    """

    def __init__(self, count: int, pace: Pace) -> None:
        self.count, self._pace, self._own_pace = count, pace, Pace()
        self._record = current_request()
        self._scheduler: Scheduler | None = getattr(_thread, "scheduler", None)
        self._done = 0
        self._began = float("inf")
        self._held = self._images_size = self._record.received_bytes
        self.reserved = self._images_size
        """Bytes of its images and answer that are counted."""
        self.until = float("inf")
        """When (monotonic) decoding should stop, so that the slice ends in time."""

    @property
    def seconds_left(self) -> float:
        """How long the other images take on one CPU, by estimate."""
        pace = self._own_pace if self._own_pace.is_known else self._pace
        return (self.count - self._done) * pace.seconds

    def parts(self) -> Iterator[slice]:
        """Yield which images to predict together next; call `did` before asking for more.

        All that the caller does with a part before it asks for the next one belongs to the slice.

        Raises:
            RequestError: 413, the images take too long; 499, the client disconnected; 503, the
                request waited too long for its first slice, or there are too many bulk requests.
        """
        scheduler = self._scheduler
        if scheduler is None:
            while self._done < self.count:
                yield slice(self._done, self._done + MOST_TOGETHER)
            return
        is_short = self.count == 1 or self.count * self._pace.seconds <= SLICE_SECONDS
        if is_short and _thread.has_place:
            yield from self._parts_of_a_slice()
        if self._done == self.count:
            return
        scheduler.add(self)
        self._refuse_if_too_many(scheduler.plan.compute_timeout)
        while self._done < self.count:
            with scheduler.time_slice(self._record):
                if self._began == float("inf"):
                    self._began = time.monotonic()
                    self._record.take_turns()
                yield from self._parts_of_a_slice()

    def did(self, images: int) -> None:
        """Note that the next images have been predicted."""
        self._done += images

    def hold(self, size: int) -> None:
        """Count bytes of the answer."""
        assert self._scheduler is not None
        self._held += size
        if self._held <= self.reserved:
            return
        images = self._images_size
        expected = (self._held - images) * self.count // max(1, self._done)
        room = max(1, self._scheduler.plan.bulk_memory - images)
        if expected > room:
            raise RequestError(
                413,
                f"the answer to {self.count} images has about {expected >> 20} MiB, the limit is "
                f"{room >> 20}: send at most about {_rounded(self.count * room / expected)} "
                "images at a time, or ask for fewer classes (Accept: …;top_k=5)",
            )
        if not self._scheduler.hold(images + expected - self.reserved):
            raise RequestError(503, _NO_ROOM)
        self.reserved = images + expected

    def _parts_of_a_slice(self) -> Iterator[slice]:
        left, self.until = SLICE_SECONDS, time.monotonic() + SLICE_SECONDS
        while self._done < self.count and left > 0:
            if self._began < float("inf"):
                self._check()
            done, ran = self._done, self._record.images
            busy = self._busy_seconds() if self.count > 1 else 0.0  # it costs 50 µs
            pace = self._own_pace if self._own_pace.seconds else self._pace
            yield slice(done, done + pace.images_in(left))
            if self._record.images - ran == self._done - done > 0 and self.count > 1:  # all usable
                seconds = self._busy_seconds() - busy
                for noted in (self._pace, self._own_pace):
                    noted.took(seconds, self._done - done)
            left = self.until - time.monotonic()

    def _busy_seconds(self) -> float:
        return self._record.busy_ms() / 1000 - seconds_without_cpu()

    def _check(self) -> None:
        """Raise a RequestError if the request is not to go on."""
        assert self._scheduler is not None
        limit = self._scheduler.plan.compute_timeout
        left = self._began + limit - time.monotonic()
        if left < 0:
            text = (
                f"{self._done} of {self.count} images were computed in {limit} s, then the time "
                f"was up: at most about {_rounded(self._done)} images fit into {limit} s; "
            )
            raise RequestError(413, text + _WAYS_OUT)
        self._record.refuse_if_abandoned()
        self._refuse_if_too_many(left)

    def _refuse_if_too_many(self, left: float) -> None:
        assert self._scheduler is not None
        needed = self._scheduler.seconds_for(self)
        if needed <= left * _SLACK or self.count == 1:
            return
        limit = self._scheduler.plan.compute_timeout
        whole = limit - left + needed
        if self._done:  # a busy machine, in particular, keeps less than the estimate promised
            whole = max(whole, (limit - left) / self._done * self.count)
        raise RequestError(
            413,
            f"{self.count} images take about {whole:.0f} s: at most about "
            f"{_rounded(self.count * limit / whole)} images fit into {limit} s; {_WAYS_OUT}",
        )


_NO_ROOM = "other requests with many images fill their memory: send this one again later"
_WAYS_OUT = f"send fewer at a time or raise {environment.COMPUTE_TIMEOUT.name}"


def _rounded(images: float) -> int:
    """Round down to two significant digits, to one image at least."""
    whole = max(1, int(images))
    digit: int = 10 ** max(0, len(str(whole)) - 2)
    return whole // digit * digit
