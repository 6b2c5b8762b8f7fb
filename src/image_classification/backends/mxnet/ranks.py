"""The processes that train together, with MXNet's key-value store `dist_sync`.

In: arrays of this rank. Out: the same arrays, summed or averaged over the ranks. The servers of the
store have no optimizer; they only add, and every rank gets the same sum. They add in the order in
which arrays arrive: two ranks repeat a job bit for bit, more ranks up to the last digits.
"""

import atexit
import ctypes
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from contextlib import suppress
from queue import SimpleQueue
from typing import Any, TypeVar

import mxnet as mx
import numpy as np

from image_classification.backends.base import World
from image_classification.backends.mxnet.kvstore_node import call, configure
from image_classification.backends.processes import launch
from image_classification.errors import AlgorithmError, UserError
from image_classification.samples import Float64Array

__all__ = ["device_count", "launch"]


def device_count() -> int:
    """See `base.Launcher`; MXNet's builds on PyPI use no GPUs."""
    return int(mx.context.num_gpus())


_NODE = f"{__package__}.kvstore_node"


class KVStoreProcesses:
    """The processes that a rank starts: its server and, for the first rank, the scheduler.

    Make it in the main thread: the kernel kills the processes with the thread that started them.

    Attributes:
        settings: of ps-lite in this process; see `kvstore_node.configure`.

    Raises:
        AlgorithmError: the first host has no IPv4 address or cannot be reached.
        UserError: this is the first host, and its port is in use.
    """

    def __init__(self, world: World) -> None:
        shared = _shared_settings(world)
        self.settings = {**shared, "DMLC_ROLE": "worker"}
        roles = ["server"]
        if world.rank == 0:
            _check_port(shared["DMLC_PS_ROOT_PORT"])
            roles.append("scheduler")
        self._running = {role: _start({**shared, "DMLC_ROLE": role}) for role in roles}

    def check(self) -> None:
        """Raise AlgorithmError if one of them has ended: sums would then wait forever."""
        for role, process in self._running.items():
            code = process.poll()
            if code is not None:
                raise AlgorithmError(
                    f"the {role} of MXNet's key-value store ended with exit code {code}: see the "
                    "log for the reason, or it was killed, possibly out of memory"
                )

    def end(self) -> None:
        for process in self._running.values():
            process.kill()
            process.wait()
        self._running.clear()


def _check_port(port: str) -> None:
    try:
        socket.create_server(("", int(port))).close()
    except (OSError, OverflowError) as error:
        raise UserError(
            f"MXNet's scheduler cannot listen on port {port} of this host ({error}): set "
            "MASTER_PORT so that it and the next port are free"
        ) from error


def _start(settings: dict[str, str]) -> subprocess.Popen[bytes]:
    """Start a process in its own session: a signal to this process's group does not end it."""
    words = [f"{name}={value}" for name, value in settings.items()]
    command = [sys.executable, "-m", _NODE, str(os.getpid()), *words]
    return subprocess.Popen(  # noqa: S603 - our own program
        command, stdin=subprocess.DEVNULL, start_new_session=True
    )


def _shared_settings(world: World) -> dict[str, str]:
    """Return the variables of ps-lite that all roles of this rank share."""
    hosts = [address.rpartition(":")[0] for address in world.addresses]
    try:
        first, own = socket.gethostbyname(hosts[0]), _own_address(hosts, world.rank)
    except OSError as error:
        raise AlgorithmError(
            f"the hosts of this job cannot reach one another over IPv4 ({error}), which MXNet "
            f"needs: host {hosts[world.rank]} of {', '.join(dict.fromkeys(hosts))}"
        ) from error
    return {
        "DMLC_PS_ROOT_URI": first,
        "DMLC_PS_ROOT_PORT": world.addresses[0].rpartition(":")[2],
        "DMLC_NUM_WORKER": str(world.size),
        "DMLC_NUM_SERVER": str(world.size),
        "DMLC_NODE_HOST": own,
        # Only makes the scheduler listen at all addresses of its host: on the host itself, its
        # name may mean another address (Debian's 127.0.1.1).
        "DMLC_USE_KUBERNETES": "1",
    }


def _own_address(hosts: list[str], rank: int) -> str:
    """Return this host's IPv4 address on the route to another host, whatever the interface."""
    other = next((host for host in hosts if host != hosts[rank]), hosts[rank])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((other, 9))  # sends nothing
        return str(probe.getsockname()[0])


_PATIENCE_SECONDS = 5 * 24 * 3600.0
"""Of a wait in a sum, while the first rank validates and saves, or another host still fetches its
data. `training/lifeline` detects lost ranks."""
_FAREWELL_SECONDS = 10.0  # for the last sum to reach all ranks; after a failure it never does
_CHECK_SECONDS = 1.0

_T = TypeVar("_T")

_Queue = SimpleQueue[tuple[Callable[[], Any], Future[Any]]]


class _Store(mx.kvstore.KVStore):  # type: ignore[misc]  # MXNet has no types
    """A store that is never freed: freeing waits for all ranks and all sums."""

    def __del__(self) -> None:
        pass


class Ranks:
    """Membership in the key-value store of a world; AlgorithmError if the ranks cannot meet."""

    def __init__(self, world: World) -> None:
        self.size, self._rank = world.size, world.rank
        self._keys: dict[int, int] = {}  # of arrays, by their size
        self._processes: KVStoreProcesses | None = None
        if self.size > 1:
            self._processes = KVStoreProcesses(world)
            configure(self._processes.settings)
            self._queue: _Queue = SimpleQueue()
            threading.Thread(target=_serve, args=(self._queue,), daemon=True).start()
            atexit.unregister(mx.base._notify_shutdown)  # it also waits for sums
            atexit.register(_skip_destructors)
            self._store = self._finished(_new_store, _PATIENCE_SECONDS)

    def sum(self, array: Any) -> None:
        """Replace a flat float32 NDArray by its sum over the ranks, and wait for it."""
        if self.size > 1:
            self._finished(lambda: self._add(array), _PATIENCE_SECONDS)

    def average(self, array: Any, has_samples: bool, count: float) -> None:
        """Replace a flat float32 NDArray by its mean over the `count` ranks that had samples."""
        if self.size > 1 and count > 0:
            array *= float(has_samples)
            self.sum(array)
            array /= count

    def sum_numbers(self, values: Float64Array) -> Float64Array:
        """Return float64 (N,) values summed over the ranks, in their order and in float64.

        MXNet's servers are reliable in float32 only (kvstore_dist_server.h does not initialize
        `multi_precision_`). So each rank has a row for the 16-bit words of its numbers, which are
        exact in float32; the other ranks have zeros there.
        """
        own = np.array(values, np.float64)
        if self.size == 1 or own.size == 0:
            return own
        rows = np.zeros((self.size, 4 * own.size), np.float32)
        rows[self._rank] = own.view(np.uint16)
        shared = mx.nd.array(rows.reshape(-1))
        self.sum(shared)
        words = shared.asnumpy().astype(np.uint16).reshape(rows.shape)
        summed: Float64Array = np.add.reduce(words.view(np.float64), axis=0)
        return summed

    def leave(self) -> None:
        """Wait for the device and for the last sum of all ranks; then end this rank's server."""
        if self._processes is None:
            mx.nd.waitall()
            return
        try:
            with suppress(AlgorithmError):  # a sum was interrupted or a rank failed
                self._finished(self._farewell, _FAREWELL_SECONDS)
        finally:
            self._processes.end()

    def _farewell(self) -> None:
        mx.nd.waitall()
        self._store._barrier()

    def _add(self, array: Any) -> None:
        if array.size not in self._keys:  # all ranks need the same arrays in the same order
            self._keys[array.size] = len(self._keys)
            self._store.init(self._keys[array.size], mx.nd.zeros(array.size))
        self._store.pushpull(self._keys[array.size], array, out=array)
        array.wait_to_read()

    def _finished(self, work: Callable[[], _T], seconds: float) -> _T:
        """Run `work` in the thread and return its result.

        MXNet's own waits ignore signals and lost ranks.
        """
        future: Future[_T] = Future()
        self._queue.put((work, future))
        deadline = time.monotonic() + seconds
        while not wait([future], _CHECK_SECONDS).done:
            if self._processes is not None:
                self._processes.check()
            if time.monotonic() > deadline:
                raise AlgorithmError(
                    f"the {self.size} processes of this job did not meet within {seconds:.0f} s: "
                    "check that all hosts have started and can reach one another"
                )
        return future.result()


def _serve(queue: _Queue) -> None:
    """Run all work of a queue in one thread: MXNet keeps data of every thread."""
    while True:
        work, future = queue.get()
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)


def _new_store() -> _Store:
    handle = ctypes.c_void_p()
    call("MXKVStoreCreate", mx.base.c_str("dist_sync"), ctypes.byref(handle))
    return _Store(handle)


def _skip_destructors() -> None:
    """Have the C library end the process after Python, before MXNet's static destructors.

    These abort if ps-lite's threads still run, which only end when all ranks leave together.
    """
    library = ctypes.CDLL(None)
    library.on_exit(library._exit, None)
