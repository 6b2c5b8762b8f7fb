"""Separate processes for each graph, on endpoints with the models of many authors.

A graph can only harm its own process: it can fail, take memory up to the limit of the process, and
run until its deadline, when it is killed. Requests for that model then get an error, and the next
request starts a new process. Other models are not affected. When a model is unloaded, its processes
end, and all of their memory is free.

A batch and its probabilities go through a socket (measured: 0.3 ms for one image of 224 px). A
process takes one call at a time. If more requests for a model wait than it has processes, it gets
another one, as long as there is memory for it that no model needs. A request that waits leaves its
place among the threads of the server.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field

import numpy as np

from image_classification import errors
from image_classification.artifact import GraphFile
from image_classification.contract.process import memory_limit
from image_classification.samples import FloatArray, UInt8Array
from image_classification.serving import runtime
from image_classification.serving.admission import MemoryBudget
from image_classification.serving.graph_outputs import RANKS, Outputs, most_bytes
from image_classification.serving.isolation import Forkserver, Limits, Process
from image_classification.serving.observation import Health, RequestRecord, current_request
from image_classification.serving.scheduling import leave_place

CHILD = "model"
"""The name of `ModelChild` among the functions of a forkserver."""

_RUN, _RUN_OUTPUTS = b"run", b"outputs "
_COPIES = 5  # of a graph's file while it loads: bytes, messages, weights, weights for the kernels
_KEPT_COPIES, _KEPT_ACTIVATIONS = 2, 16 << 20  # of a process that answers single images
_LEAST_ACTIVATIONS = 512 << 20  # bytes; EfficientNet-Lite0 takes 400 MB for 32 images at once
_MOST_ACTIVATIONS = 2 << 30
_KEPT_IMAGES = 4  # the memory for so many in a run is kept: 77 MB with EfficientNet-Lite0
_PLACE_SECONDS = 0.05  # a request that waits longer leaves its place among the threads
_CHECK_SECONDS = 0.5  # how late a request that waits notices that its client disconnected
_LOAD_SECONDS, _LOAD_RATE = 10, 10**7  # the least time for a load; bytes for which it has 1 s more
_MOST_DEATHS = 5  # of a model's processes within a minute
_DEATHS_SECONDS = 60.0
_MOST_ANSWER = 2**20  # bytes of the answer to a load

_logger = logging.getLogger(__name__)


class ModelChild:
    """The function of a child: loads one graph, then runs it."""

    def __init__(self) -> None:
        self._runtime: runtime.Runtime | None = None
        self._shape: tuple[int, ...] = ()

    def __call__(self, argument: bytes, payload: bytes) -> bytes:
        """Load the graph that `argument` describes, or run it on the images in `payload`."""
        if argument.startswith(_RUN_OUTPUTS):
            return self._with_outputs(payload, argument.decode().split()[1:])
        if argument != _RUN:
            file = GraphFile(**json.loads(argument))
            self._runtime = runtime.Runtime(file)
            self._shape = (-1, *file.input_shape)
            found = {"providers": self._runtime.providers, "outputs": sorted(self._runtime.outputs)}
            return json.dumps(found).encode()
        assert self._runtime is not None
        images = np.frombuffer(payload, np.uint8).reshape(self._shape)
        return self._runtime.run(images, frees=len(images) > _KEPT_IMAGES).tobytes()

    def _with_outputs(self, payload: bytes, wanted: list[str]) -> bytes:
        assert self._runtime is not None
        images = np.frombuffer(payload, np.uint8).reshape(self._shape)
        frees = len(images) > _KEPT_IMAGES
        return self._runtime.run_outputs(images, wanted, frees=frees).to_bytes()


@dataclass(frozen=True)
class Bounds:
    """What one model can take.

    Attributes:
        processes: at most.
        waiting: requests that can wait for it at the same time.
        seconds: after which a run is ended; a load has more.
    """

    processes: int
    waiting: int
    seconds: float


@dataclass(eq=False)
class _Waiting:
    """A request that waits: it gets a process, or None to start one itself."""

    process: Process | None = None
    is_next: threading.Event = field(default_factory=threading.Event)


class ModelProcesses:
    """A `Graph` that runs in separate processes; `run` can be called from several threads.

    Args:
        forkserver: starts the processes; `ModelChild` is among its functions.
        file: the graph.
        reopen: opens it again for another process; raises an ArtifactError.
        health: `fail` is called if no process can be started any more.
        bounds: of this model.
        budget: for the processes after the first one.

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
        bounds: Bounds,
        budget: MemoryBudget,
    ) -> None:
        self._forkserver, self._health = forkserver, health
        self._file, self._reopen = file, reopen
        self._bounds, self._budget = bounds, budget
        self._extra_size = file.size * _KEPT_COPIES + _KEPT_ACTIVATIONS
        # Several such processes can exceed the memory; the kernel then ends the largest of them.
        self._activations = max(_LEAST_ACTIVATIONS, min(_MOST_ACTIVATIONS, memory_limit() // 4))
        self._lock = threading.Lock()
        self._waiting: deque[_Waiting] = deque()
        self._idle: list[Process] = []
        self._count = 1  # processes that start, work or are idle
        self._extras = 0  # that the budget counts
        self._is_growing = self._is_ended = False
        self._deaths: deque[float] = deque(maxlen=_MOST_DEATHS)
        self.providers: list[str] = []
        self.outputs: frozenset[str] = frozenset()
        self._idle.append(self._load(file))

    def run(self, images: UInt8Array) -> FloatArray:
        """Return probabilities, float32 (N, classes), of uint8 N·H·W·C images.

        Raises:
            ArtifactError: the graph failed, took too much memory or time, or its process died.
            RequestError: 503 too many requests wait for this model; 499 or 503 no client waits for
                the answer any more.
            ForkserverError: this server process can start no other; it is unhealthy from now on.
        """
        size = len(images) * self._file.classes * 4
        answer = self._run(_RUN, images, size)
        if len(answer) != size:
            raise errors.ArtifactError(f"the graph gave {len(answer)} bytes, expected {size}")
        return np.frombuffer(answer, np.float32).reshape(len(images), -1)

    def run_outputs(self, images: UInt8Array, wanted: Collection[str]) -> Outputs:
        """Return the probabilities and the wanted `outputs` of images, as `run` does."""
        most = most_bytes(len(images), self._file.classes)
        answer = self._run(_RUN_OUTPUTS + " ".join(wanted).encode(), images, most)
        return Outputs.from_bytes(answer, len(images), self._file.classes, wanted)

    def _run(self, argument: bytes, images: UInt8Array, most_answer: int) -> bytearray:
        record = current_request()
        record.refuse_if_abandoned()
        try:
            try:
                return self._answer(record, argument, images, most_answer)
            except errors.NoMemoryLeftError:  # another process took it
                return self._answer(record, argument, images, most_answer)
        except errors.NoProcessError as error:
            raise errors.RequestError(503, f"{error}: send the request again later") from error
        except errors.ProcessError as error:
            self._deaths.append(time.monotonic())
            raise errors.ArtifactError(f"the graph, on {len(images)} image(s), {error}") from error

    @property
    def memory(self) -> int:
        """Bytes that a process has after its last answer, the most of those that are idle."""
        with self._lock:
            kept = max((process.memory_kept for process in self._idle), default=0)
            if not self._extras:
                self._extra_size = max(self._extra_size, kept)
        return kept

    def shrink(self) -> None:
        """End the processes that have nothing to do, except for one."""
        with self._lock:
            spare = [self._idle.pop() for _ in range(min(self._extras, len(self._idle)))]
        for process in spare:
            process.end()
            self._put(process)

    def end(self) -> None:
        """End the processes; their memory is free on return. Call it when nothing runs."""
        with self._lock:
            self._is_ended = True
            idle, self._idle = self._idle, []
        for process in idle:
            process.end()
            self._put(process)

    def _answer(
        self, record: RequestRecord, argument: bytes, images: UInt8Array, most_answer: int
    ) -> bytearray:
        process = self._take(record)
        while process is not None and process.was_killed():
            process.end()
            self._put(process)
            process = self._take(record)
        try:
            begin = record.busy_ms()
            if process is None:
                process = self._start()
            answer = self._call(process, argument, images.data, most_answer, self._bounds.seconds)
        finally:
            self._put(process)
        record.computed(len(images), record.busy_ms() - begin)
        return answer

    def _take(self, record: RequestRecord) -> Process | None:
        """Return a process for a request, or None if it must start one; wait if there is none."""
        with self._lock:
            if self._idle:
                return self._idle.pop()
            if not self._count:
                self._count = 1
                return None
            if len(self._waiting) >= self._bounds.waiting:
                raise errors.RequestError(
                    503,
                    f"{len(self._waiting)} requests wait for this model: send yours again later",
                )
            waiting = _Waiting()
            self._waiting.append(waiting)
            self._grow()
        try:
            self._wait(waiting, record)
        except BaseException:
            with self._lock:
                if waiting in self._waiting:
                    self._waiting.remove(waiting)
                    raise
            self._put(waiting.process)  # it came meanwhile
            raise
        return waiting.process

    def _wait(self, waiting: _Waiting, record: RequestRecord) -> None:
        since = time.monotonic()
        if not waiting.is_next.wait(_PLACE_SECONDS):
            leave_place()
            while not waiting.is_next.wait(_CHECK_SECONDS):
                now = time.monotonic()
                record.waited(now - since)
                since = now
                record.refuse_if_abandoned()
        record.waited(time.monotonic() - since)

    def _put(self, process: Process | None) -> None:
        """Give a process to the next request; it may have ended, or never have started."""
        with self._lock:
            if process is not None and not process.is_ended:
                if not self._is_ended:
                    self._hand_on(process)
                    return
                process.end()
            self._count -= 1
            while self._extras > max(0, self._count - 1):
                self._extras -= 1
                self._budget.give(self._extra_size)
            if not self._count and self._waiting:
                self._count = 1
                self._hand_on(None)

    def _hand_on(self, process: Process | None) -> None:
        if self._waiting:
            waiting = self._waiting.popleft()
            waiting.process = process
            waiting.is_next.set()
        elif process is not None:
            self._idle.append(process)

    def _grow(self) -> None:
        """Start another process if more requests wait than there are processes; with the lock."""
        if (
            self._is_growing
            or not self._count <= len(self._waiting)
            or self._count >= self._bounds.processes
            or not self._budget.take(self._extra_size)
        ):
            return
        self._is_growing = True
        self._count += 1
        self._extras += 1
        threading.Thread(target=self._add, name="model process", daemon=True).start()

    def _add(self) -> None:
        process = None
        try:
            process = self._start()
        except errors.ImageClassificationError as error:
            _logger.warning("A model gets no additional process: %s", error)
        with self._lock:
            self._is_growing = False
        self._put(process)

    def _start(self) -> Process:
        """Start a process with the same graph that was loaded first."""
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
            return self._load(file)

    def _load(self, file: GraphFile) -> Process:
        try:
            try:
                return self._loaded(file)
            except errors.NoMemoryLeftError:  # another process took it
                return self._loaded(file)
        except errors.NoProcessError:
            raise
        except errors.ProcessError as error:
            self._deaths.append(time.monotonic())
            raise errors.ArtifactError(f"loading the graph {error}") from error

    def _loaded(self, file: GraphFile) -> Process:
        """Return a process that has loaded the graph."""
        try:
            process = self._forkserver.start(CHILD)
        except errors.ForkserverError as error:
            self._health.fail(str(error))
            raise
        try:
            seconds = max(self._bounds.seconds, _LOAD_SECONDS) + file.size // _LOAD_RATE
            description = json.dumps(asdict(file)).encode()
            answer = self._call(process, description, b"", _MOST_ANSWER, seconds)
            found = json.loads(answer)
            self.providers = list(map(str, found["providers"]))
            self.outputs = frozenset(map(str, found["outputs"])) & RANKS.keys()
        except BaseException:
            process.end()
            raise
        return process

    def _call(
        self,
        process: Process,
        argument: bytes,
        payload: bytes | memoryview,
        most_answer: int,
        seconds: float,
    ) -> bytearray:
        most = self._file.size * _COPIES + self._activations
        limits = Limits(
            memory=max(0, most - process.memory_kept),
            cpu_seconds=2 * seconds,  # the clock decides
            wall_seconds=seconds,
            answer=most_answer,
        )
        try:
            return process.call(argument, payload, limits, errors.ArtifactError, leave_place)
        except errors.ForkserverError as error:
            self._health.fail(str(error))
            raise
