"""Decodes the images of a server process within its memory, unusual ones in separate processes.

libjpeg-turbo decodes a plain JPEG in a time and memory that follow from its header, and never holds
the interpreter lock, so the server process decodes it itself. Pillow, whose readers are partly
Python, decodes all other images and the plain JPEGs that libjpeg-turbo refuses. It does so in
processes with limits on memory and CPU time (`isolation`), one per CPU, which start when they are
needed; if the user sets their number, they decode all images. An image that reaches a limit, or
ends its process, is refused by name and not tried again.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from image_classification import errors
from image_classification.contract import environment
from image_classification.images.decode import UnusualImageError
from image_classification.images.header import ImageHeader
from image_classification.images.preprocessing import Preprocessing, preprocess, price_for
from image_classification.images.price import Price, check_price, picture_limits
from image_classification.samples import UInt8Array
from image_classification.serving.admission import THREAD_MEMORY, Plan, reservation
from image_classification.serving.isolation import IS_SUPPORTED, Forkserver, Limits, Process
from image_classification.serving.observation import MOST_TOGETHER, Health, current_request
from image_classification.serving.scheduling import leave_place

NAME = "decoder"
"""The function of decoding processes, and what they are called in lists of processes."""

_WATCHED = "the decoder of images"
# Bytes that a decoding process can keep. glibc keeps what one image took for the next; if it did
# not, the page faults of new memory would make a WEBP of a megapixel half as slow again (measured).
_MOST_KEPT = 24 << 20
_PATIENCE = 10  # times the CPU time of an image: the longest it can take on a busy machine
_LEAST_PATIENCE = 20.0  # seconds; the same for an image that takes little CPU time
_CPU_SHARE = 0.95  # of the limit; the rest is for what happens before and after
_TIMEOUT_SHARE = 0.8  # of the time after which the watchdog replaces the server process
_EXPENSIVE_SECONDS = 0.25  # of CPU time; a photograph of 10 megapixels takes 0.5 as WEBP
_PLACE_SECONDS = 0.05  # a request that waits longer leaves its place among the threads
_NICE = 5  # a third of the CPU time that a process of usual priority gets next to it
_LOOK_SECONDS = 0.5  # how often a waiting request checks whether its client still waits

_ENDED = "the forkserver, which starts decoding processes, has ended"

_logger = logging.getLogger(__name__)


def open_forkserver() -> Forkserver | None:
    """Return what starts decoding processes, or None where the system cannot limit them.

    Call it while the process has a single thread.
    """
    return Forkserver({NAME: decode_apart}) if IS_SUPPORTED else None


def decode_apart(argument: bytes, payload: bytes) -> memoryview:
    """Preprocess an image, in a decoding process.

    Args:
        argument: the `Preprocessing`, as JSON.
        payload: the file's content.

    Returns:
        uint8 height·width·channels.
    """
    _give_way()
    try:
        return preprocess(payload, _read_preprocessing(argument)).data
    except errors.ImageError as error:
        if isinstance(error.__cause__, MemoryError):  # the limit's: the image may be sound
            raise MemoryError from error
        raise


@lru_cache(1)
def _give_way() -> None:
    """Leave the larger part of a busy CPU to the server process: pings, plain JPEGs, the graph."""
    os.nice(_NICE)


@lru_cache(100)
def _read_preprocessing(argument: bytes) -> Preprocessing:
    return Preprocessing.from_json(json.loads(argument))


@lru_cache(100)
def _write_preprocessing(preprocessing: Preprocessing) -> bytes:
    return json.dumps(preprocessing.to_json()).encode()


class Decoder:
    """Decodes all images of a server process, for all its models.

    Args:
        plan: its memory, the number of decoding processes and the time that a run can take.
        health: of the process; watches each image, and fails if no process can be started.
        forkserver: starts the decoding processes; None: everything is decoded in this process.

    Raises:
        UserError: decoding processes are asked for, and the system cannot limit them.
    """

    def __init__(self, plan: Plan, health: Health, forkserver: Forkserver | None) -> None:
        if plan.decodes_apart and forkserver is None:
            raise errors.UserError(
                f"{environment.DECODERS.name}={plan.decoders} needs processes with limits, which "
                "only Linux has: unset it"
            )
        self._health, self._forkserver = health, forkserver
        self._decodes_apart = plan.decodes_apart
        most_waiting = max(1, (plan.threads + plan.queue_size) // 2)
        self._capacity = Capacity(plan.decoding_memory, plan.decoders, most_waiting)
        given = picture_limits()
        memory = min(given.memory, plan.largest_price)
        self._limits = replace(given, memory=memory)
        self._memory = plan.decoding_memory
        self._timeout = plan.timeout
        self._idle: list[Process] = []
        if forkserver is not None:
            health.watch(lambda: _ENDED if forkserver.has_ended else None)
        else:
            _logger.info(
                "Unusual images are decoded in this process: only Linux can limit separate ones"
            )

    def preprocess(
        self, image: bytes, header: ImageHeader, preprocessing: Preprocessing, out: UInt8Array
    ) -> None:
        """Decode and preprocess an image into `out`, uint8 (height, width, channels).

        The wait for memory or a process counts as queueing of the thread's current request.

        Raises:
            ImageError: the image cannot be used, or costs more than the limits.
            RequestError: no client waits any more (499, 503), or no process can be started (503).
        """
        price = price_for(image, header, preprocessing)
        check_price(price, self._limits)
        if (price.is_plain and not self._decodes_apart) or self._forkserver is None:
            # What is small fits into the memory that each thread has.
            memory = price.memory if price.memory > THREAD_MEMORY else 0
            is_last = self._forkserver is None
            try:
                with self._capacity.taken(memory), self._health.running(_WATCHED):
                    preprocess(image, preprocessing, out, header, may_use_pillow=is_last)
                return
            except UnusualImageError:
                pass
        memory = min(reservation(price.memory) + price.size, self._memory)
        with self._capacity.taken(memory, 1, price.seconds), self._health.running(_WATCHED):
            pixels = self._decode_apart(image, preprocessing, price)
        out[...] = np.frombuffer(pixels, np.uint8).reshape(out.shape)

    def check_input(self, preprocessing: Preprocessing) -> None:
        """Raise an ArtifactError for a model whose inputs alone would fill the memory for images.

        Images are computed in groups, whose inputs the server holds at once.
        """
        size = preprocessing.height * preprocessing.width * preprocessing.channels
        if size * MOST_TOGETHER > self._limits.memory:
            raise errors.ArtifactError(
                f"expected an input of at most {self._limits.memory // MOST_TOGETHER} bytes, got "
                f"{preprocessing.height} × {preprocessing.width} × {preprocessing.channels} = "
                f"{size}: give the server more memory or raise {environment.PICTURE_MEMORY.name}"
            )

    def _decode_apart(self, image: bytes, preprocessing: Preprocessing, price: Price) -> bytearray:
        process = self._take()
        seconds = self._limits.seconds_for(price.size)
        limits = Limits(
            memory=reservation(price.memory),
            cpu_seconds=_CPU_SHARE * seconds,
            wall_seconds=min(
                max(_LEAST_PATIENCE, _PATIENCE * seconds), _TIMEOUT_SHARE * self._timeout
            ),
            answer=preprocessing.height * preprocessing.width * preprocessing.channels,
        )
        argument = _write_preprocessing(preprocessing)
        try:
            pixels = process.call(argument, image, limits, errors.ImageError, leave_place)
        except errors.ImageError:
            self._give_back(process)
            raise
        except errors.ForkserverError as error:
            raise self._fail(error) from error
        except errors.NoProcessError as error:
            raise errors.RequestError(503, f"{error}: send the request again later") from error
        except errors.NoMemoryLeftError as error:  # the image kept to its limit
            _logger.warning("A decoding process %s", error)
            raise errors.RequestError(
                503, f"the process that decoded the image {error}: send the request again later"
            ) from error
        except errors.ProcessError as error:
            _logger.warning("A decoding process %s; the image is a %s", error, price.what)
            raise _refusal(error, price) from error
        if len(pixels) != limits.answer:
            process.end()
            raise errors.ImageDamagedError(
                f"decoding this {price.what} gave {len(pixels)} bytes, expected {limits.answer}; "
                "save the image again"
            )
        self._give_back(process)
        return pixels

    def _take(self) -> Process:
        """Return a process that nobody else uses; the caller has room for one."""
        assert self._forkserver is not None
        try:
            while (process := self._idle.pop()).was_killed():
                process.end()
            return process
        except IndexError:
            pass
        try:
            return self._forkserver.start(NAME)
        except errors.ForkserverError as error:
            raise self._fail(error) from error
        except errors.NoProcessError as error:
            raise errors.RequestError(503, f"{error}: send the request again later") from error

    def _fail(self, error: errors.ForkserverError) -> errors.RequestError:
        """Have the process replaced, and return what the caller gets."""
        self._health.fail(str(error))
        return errors.RequestError(
            503, f"{error}; the server process is being replaced: send the request again"
        )

    def _give_back(self, process: Process) -> None:
        if process.memory_kept > _MOST_KEPT:
            process.end()
        else:
            self._idle.append(process)


def _refusal(error: errors.ProcessError, price: Price) -> errors.ImageError:
    """Return the error of an image that ended its process."""
    settings = {
        errors.MemoryLimitError: environment.PICTURE_MEMORY.name,
        errors.CpuLimitError: environment.PICTURE_SECONDS.name,
    }
    setting = settings.get(type(error))
    if setting is not None:
        return errors.ImageTooLargeError(
            f"decoding this {price.what} {error}; make the image smaller or raise the limit "
            f"({setting})"
        )
    if isinstance(error, errors.TimeLimitError):
        return errors.ImageTooLargeError(
            f"decoding this {price.what} {error}; make the image smaller"
        )
    return errors.ImageDamagedError(
        f"decoding this {price.what} failed: its process {error}; save the image again"
    )


@dataclass(eq=False)
class _Visitor:
    """An image that waits.

    Attributes:
        turn: the smallest has its turn first.
        is_refused: whether another one has its place.
    """

    memory: int
    processes: int
    is_expensive: bool
    turn: float
    is_refused: bool = False


class Capacity:
    """Memory and processes for images; expensive ones never keep all others waiting.

    An image queues as if it had arrived later, by ten times its CPU time. So cheap images go first,
    and none waits forever. Expensive ones leave one process to the others, if there are several.

    Args:
        memory: bytes.
        processes: their number.
        most_waiting: images that can wait at the same time.
    """

    def __init__(self, memory: int, processes: int, most_waiting: int = 100) -> None:
        self._memory, self._processes = memory, processes
        self._spare = 1 if processes > 1 else 0
        self._most_waiting = most_waiting
        self._waiting: list[_Visitor] = []
        self._changed = threading.Condition()

    @contextmanager
    def taken(self, memory: int, processes: int = 0, seconds: float = 0.0) -> Iterator[None]:
        """Wait for memory and processes, which are the block's; the wait counts as queueing.

        A request that waits long leaves its place among the threads of the server to another.

        Args:
            memory: bytes, at most all that there is.
            processes: 1 or none.
            seconds: CPU time of the image, by its price.

        Raises:
            RequestError: no client waits any more (499, 503), or too many wait (503).
        """
        current_request().refuse_if_abandoned()
        if not memory and not processes:
            yield
            return
        turn = time.monotonic() + _PATIENCE * seconds
        self._take(_Visitor(memory, processes, seconds > _EXPENSIVE_SECONDS, turn))
        try:
            yield
        finally:
            with self._changed:
                self._memory += memory
                self._processes += processes
                self._changed.notify_all()

    def _take(self, visitor: _Visitor) -> None:
        start, record = time.monotonic(), current_request()

        def may_go_on() -> bool:
            return visitor.is_refused or self._next() is visitor

        with self._changed:
            self._waiting.append(visitor)
            self._waiting.sort(key=lambda one: one.turn)
            for last in self._waiting[self._most_waiting :]:
                last.is_refused = True
                self._changed.notify_all()
            try:
                if not self._changed.wait_for(may_go_on, _PLACE_SECONDS):
                    leave_place()
                while not self._changed.wait_for(may_go_on, _LOOK_SECONDS):
                    record.refuse_if_abandoned()
                if visitor.is_refused:
                    raise errors.RequestError(
                        503,
                        f"{self._most_waiting} images wait to be decoded: send the request again "
                        "later",
                    )
                self._memory -= visitor.memory
                self._processes -= visitor.processes
            finally:
                self._waiting.remove(visitor)
                self._changed.notify_all()  # there can be room for the next one too
                record.waited(time.monotonic() - start)

    def _next(self) -> _Visitor | None:
        """Return the image that is next: the first with a free process, if there is memory for it.

        An image that waits for memory makes the others wait, or a large one might wait forever.
        """
        for visitor in self._waiting:
            needed = visitor.processes and visitor.processes + visitor.is_expensive * self._spare
            if self._processes >= needed:
                return visitor if self._memory >= visitor.memory else None
        return None
