"""A graph in a process of its own, for endpoints that hold the models of many authors.

Whatever a graph does, it does there: it fails, it asks for memory up to the limit of its process,
and it is killed at its deadline. The callers of that model get an error, and the process starts
anew at the next request. Nothing else notices. When a model is unloaded, its process ends, and all
of its memory is free.

A batch and its probabilities go through a socket (measured: 0.15 ms for one image of 224 px). A
process takes one call at a time, so requests for a model wait for each other and for nobody else:
one that waits leaves its place among the threads of the server.
"""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict

import numpy as np

from image_classification import errors
from image_classification.artifact import GraphFile
from image_classification.contract.process import memory_limit
from image_classification.samples import FloatArray, UInt8Array
from image_classification.serving.isolation import Forkserver, Limits, Process
from image_classification.serving.observation import Health, RequestRecord, current_request
from image_classification.serving.runtime import Runtime

CHILD = "model"
"""The name of `ModelChild` among the functions of a forkserver."""

_LOAD, _RUN = b"load ", b"run"
_COPIES = 5  # of a graph's file while it loads: bytes, messages, weights, weights for the kernels
_LEAST_ACTIVATIONS = 512 << 20  # bytes; EfficientNet-Lite0 takes 400 MB for 32 images at once
_MOST_ACTIVATIONS = 2 << 30
_KEPT_IMAGES = 4  # the memory for so many in a run is kept: 77 MB with EfficientNet-Lite0
_STACK = 16 << 20  # bytes of a thread
_PLACE_SECONDS = 0.05  # a request that waits longer leaves its place among the threads
_CHECK_SECONDS = 0.5  # how late a request that waits notices that its client has gone
_MOST_DEATHS = 5  # of a model's processes within a minute
_DEATHS_SECONDS = 60.0
_MOST_ANSWER = 2**20  # bytes of the answer to a load


class ModelChild:
    """The function of a child: loads one graph, then runs it."""

    def __init__(self) -> None:
        self._runtime: Runtime | None = None
        self._shape: tuple[int, ...] = ()

    def __call__(self, argument: bytes, payload: bytes) -> bytes:
        """Load the graph that `argument` describes, or run it on the images in `payload`."""
        if argument != _RUN:
            described = json.loads(argument.removeprefix(_LOAD))
            file = GraphFile(**described["file"])
            self._runtime = Runtime(file, described["threads"], spins=False)
            self._shape = (-1, *file.input_shape)
            return json.dumps(self._runtime.providers).encode()
        assert self._runtime is not None
        images = np.frombuffer(payload, np.uint8).reshape(self._shape)
        return self._runtime.run(images, frees=len(images) > _KEPT_IMAGES).tobytes()


class ModelProcess:
    """A `Graph` that runs in a process of its own; `run` may be called from several threads.

    Args:
        forkserver: starts the process; `ModelChild` is among its functions.
        file: the graph.
        reopen: opens it again after the process has died; raises an ArtifactError.
        health: told when no process can be started any more.
        cpus: threads of a run.
        seconds: after which a load or a run is ended.
        most_waiting: requests that may wait for this model at once.
        leave_place: called by a request that waits; lets another take its place meanwhile.

    Raises:
        ArtifactError: the graph cannot be loaded, or not within the limits.
        NoProcessError: the kernel refuses another process now.
    """

    def __init__(
        self,
        forkserver: Forkserver,
        file: GraphFile,
        reopen: Callable[[], AbstractContextManager[GraphFile]],
        health: Health,
        *,
        cpus: int,
        seconds: float,
        most_waiting: int,
        leave_place: Callable[[], None],
    ) -> None:
        self._forkserver, self._health = forkserver, health
        self._file, self._reopen = file, reopen
        self._cpus, self._seconds, self._most_waiting = cpus, seconds, most_waiting
        self._leave_place = leave_place
        # Several such processes can exceed the memory; the kernel then ends the largest of them.
        self._activations = max(_LEAST_ACTIVATIONS, min(_MOST_ACTIVATIONS, memory_limit() // 4))
        self._lock = threading.Lock()
        self._waiting: deque[threading.Event] = deque()  # the first one has its turn
        self._deaths: deque[float] = deque(maxlen=_MOST_DEATHS)
        self._process: Process | None = None
        self.providers: list[str] = []
        self._start(file)

    def run(self, images: UInt8Array) -> FloatArray:
        """Return probabilities, float32 (N, classes), of uint8 N·H·W·C images.

        Raises:
            ArtifactError: the graph failed, took too much memory or time, or its process died.
            RequestError: 503 too many requests wait for this model; 499 or 503 no client waits for
                the answer any more.
            ForkserverError: this server process can start no other; it is unhealthy from now on.
        """
        record = current_request()
        with self._turn(record):
            record.refuse_if_abandoned()
            begin = record.busy_ms()
            size = len(images) * self._file.classes * 4
            try:
                if self._process is None:
                    self._restart()
                answer = self._call(
                    _RUN, images.data, size, f"the graph, on {len(images)} image(s),"
                )
            except errors.NoProcessError as error:
                raise errors.RequestError(503, f"{error}: send the request again later") from error
            if len(answer) != size:
                raise errors.ArtifactError(f"the graph gave {len(answer)} bytes, expected {size}")
            record.computed(len(images), record.busy_ms() - begin)
            return np.frombuffer(answer, np.float32).reshape(len(images), -1)

    def end(self) -> None:
        """End the process; its memory is free on return. No run may be under way."""
        process, self._process = self._process, None
        if process is not None:
            process.end()

    def _restart(self) -> None:
        """Start another process, with the very graph that was loaded first."""
        now = time.monotonic()
        if len(self._deaths) == _MOST_DEATHS and now - self._deaths[0] < _DEATHS_SECONDS:
            raise errors.ArtifactError(
                f"its process died {_MOST_DEATHS} times within {_DEATHS_SECONDS:.0f} s: the next "
                f"one starts in {self._deaths[0] + _DEATHS_SECONDS - now:.0f} s"
            )
        with self._reopen() as file:
            if file.sha256 != self._file.sha256:
                raise errors.ArtifactError(
                    f"{file.path}: changed since the model was loaded: unload it and load it again"
                )
            self._start(file)

    def _start(self, file: GraphFile) -> None:
        load = _LOAD + json.dumps({"file": asdict(file), "threads": self._cpus}).encode()
        try:
            self._process = self._forkserver.start(CHILD)
        except errors.ForkserverError as error:
            self._health.fail(str(error))
            raise
        try:
            answer = self._call(load, b"", _MOST_ANSWER, "loading the graph")
            self.providers = list(map(str, json.loads(answer)))
        except BaseException:
            self.end()
            raise

    def _call(
        self, argument: bytes, payload: bytes | memoryview, most_answer: int, what: str
    ) -> bytearray:
        """Call the child; an error of its process becomes an ArtifactError about `what`."""
        assert self._process is not None
        most = self._file.size * _COPIES + self._activations + self._cpus * _STACK
        limits = Limits(
            memory=max(0, most - self._process.memory_kept),
            cpu_seconds=self._seconds * self._cpus,
            wall_seconds=self._seconds,
            answer=most_answer,
        )
        try:
            return self._process.call(
                argument, payload, limits, errors.ArtifactError, self._leave_place
            )
        except errors.ForkserverError as error:
            self._health.fail(str(error))
            raise
        except errors.ProcessError as error:
            self._process = None
            if isinstance(error, errors.NoProcessError):
                raise
            self._deaths.append(time.monotonic())
            raise errors.ArtifactError(f"{what} {error}") from error

    @contextmanager
    def _turn(self, record: RequestRecord) -> Iterator[None]:
        """Wait until no other request runs the graph; first come, first served."""
        turn = threading.Event()
        with self._lock:
            if len(self._waiting) >= self._most_waiting:
                raise errors.RequestError(
                    503, f"{len(self._waiting)} requests wait for this model: send it again later"
                )
            self._waiting.append(turn)
            if self._waiting[0] is turn:
                turn.set()
        try:
            self._wait(turn, record)
            yield
        finally:
            with self._lock:
                self._waiting.remove(turn)
                if self._waiting:
                    self._waiting[0].set()

    def _wait(self, turn: threading.Event, record: RequestRecord) -> None:
        if turn.is_set():
            return
        since = time.monotonic()
        if not turn.wait(_PLACE_SECONDS):
            self._leave_place()
            while not turn.wait(_CHECK_SECONDS):
                now = time.monotonic()
                record.waited(now - since)
                since = now
                record.refuse_if_abandoned()
        record.waited(time.monotonic() - since)
