"""The processes that train together: sums over all of them, and nothing when there is only one.

In: arrays of this rank. Out: the same, summed or averaged over the world by MXNet's key-value store
`dist_sync`, without an optimizer on its servers: they add, and every rank gets the same sum. They
add in the order in which the arrays come: two ranks repeat a job to the bit, more of them to the
last digits.
"""

from __future__ import annotations

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
import numpy.typing as npt

from image_classification.backends.base import World
from image_classification.backends.mxnet.kvstore_node import call, configure
from image_classification.backends.processes import launch
from image_classification.errors import AlgorithmError, UserError

__all__ = ["device_count", "launch"]


def device_count() -> int:
    """The GPUs of this machine that MXNet may use: none with its builds from PyPI."""
    return int(mx.context.num_gpus())


_NODE = f"{__package__}.kvstore_node"


class KVStoreProcesses:
    """Those that this rank starts: its server, and the scheduler if it is the first.

    To be made in the main thread: the kernel ends them with the thread that started them.

    Args:
        world: of more than one rank.

    Attributes:
        settings: of ps-lite in this process; see `kvstore_node.configure`.

    Raises:
        AlgorithmError: the first host has no IPv4 address, or no way leads to it.
        UserError: this is the first host, and its port is taken.
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
        """Raise AlgorithmError when one of them has ended: no sum would ever."""
        for role, process in self._running.items():
            code = process.poll()
            if code is not None:
                raise AlgorithmError(
                    f"the {role} of MXNet's key-value store ended with exit code {code}: the log "
                    "says why, or it was killed, perhaps for want of memory"
                )

    def end(self) -> None:
        """End them."""
        for process in self._running.values():
            process.kill()
            process.wait()
        self._running.clear()


def _check_port(port: str) -> None:
    try:
        socket.create_server(("", int(port))).close()
    except (OSError, OverflowError) as error:
        raise UserError(
            f"MXNet's scheduler cannot listen at port {port} of this host ({error}): set "
            "MASTER_PORT so that it and the next port are free"
        ) from error


def _start(settings: dict[str, str]) -> subprocess.Popen[bytes]:
    """In a session of its own: what stops a group of processes leaves it to this one's end."""
    words = [f"{name}={value}" for name, value in settings.items()]
    command = [sys.executable, "-m", _NODE, str(os.getpid()), *words]
    return subprocess.Popen(  # noqa: S603 - our own program
        command, stdin=subprocess.DEVNULL, start_new_session=True
    )


def _shared_settings(world: World) -> dict[str, str]:
    """What all roles of this rank have, by the names of ps-lite's variables."""
    hosts = [address.rpartition(":")[0] for address in world.addresses]
    try:
        first, own = socket.gethostbyname(hosts[0]), _own_address(hosts, world.rank)
    except OSError as error:
        raise AlgorithmError(
            f"the hosts of this job do not reach one another over IPv4 ({error}), which MXNet "
            f"needs: host {hosts[world.rank]} of {', '.join(dict.fromkeys(hosts))}"
        ) from error
    return {
        "DMLC_PS_ROOT_URI": first,
        "DMLC_PS_ROOT_PORT": world.addresses[0].rpartition(":")[2],
        "DMLC_NUM_WORKER": str(world.size),
        "DMLC_NUM_SERVER": str(world.size),
        "DMLC_NODE_HOST": own,
        # The scheduler then listens at all addresses of its host, and nothing else changes: its
        # name may mean another one to itself (Debian's 127.0.1.1).
        "DMLC_USE_KUBERNETES": "1",
    }


def _own_address(hosts: list[str], rank: int) -> str:
    """The IPv4 address that this host has for another one: the route's, whatever its interface."""
    other = next((host for host in hosts if host != hosts[rank]), hosts[rank])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((other, 9))  # sends nothing
        return str(probe.getsockname()[0])


_PATIENCE_SECONDS = 5 * 24 * 3600.0
"""The others wait in a sum while the first rank validates and saves, or for a host whose data is
still on its way; who watches for lost ranks is the core (`training/lifeline`)."""
_FAREWELL_SECONDS = 10.0
"""For the last sum to reach all ranks; one that fails waits in vain, and then says why."""
_CHECK_SECONDS = 1.0

_T = TypeVar("_T")

_Queue = SimpleQueue[tuple[Callable[[], Any], Future[Any]]]


class _Store(mx.kvstore.KVStore):  # type: ignore[misc]  # MXNet has no types
    """One that is never freed: MXNet would wait in that for all ranks, and for all sums."""

    def __del__(self) -> None:
        pass


class Ranks:
    """Membership in the key-value store of a world.

    Args:
        world: its rank, its size and where the ranks meet.

    Raises:
        AlgorithmError: the ranks cannot meet.
    """

    def __init__(self, world: World) -> None:
        self.size, self._rank = world.size, world.rank
        self._keys: dict[int, int] = {}  # of arrays, by their size
        self._processes: KVStoreProcesses | None = None
        if self.size > 1:
            self._processes = KVStoreProcesses(world)
            configure(self._processes.settings)
            self._queue: _Queue = SimpleQueue()
            threading.Thread(target=_serve, args=(self._queue,), daemon=True).start()
            atexit.unregister(mx.base._notify_shutdown)  # waits for sums as well
            atexit.register(_skip_destructors)
            self._store = self._finished(_new_store, _PATIENCE_SECONDS)

    def sum(self, array: Any) -> None:
        """Replace a flat float32 NDArray by its sum over the ranks; returns when that is there."""
        if self.size > 1:
            self._finished(lambda: self._add(array), _PATIENCE_SECONDS)

    def average(self, array: Any, has_samples: bool, count: float) -> None:
        """Replace a flat float32 NDArray by its mean over the `count` ranks that had samples."""
        if self.size > 1 and count > 0:
            array *= float(has_samples)
            self.sum(array)
            array /= count

    def sum_numbers(self, values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Float64 (N,) values summed over the ranks, in their order: exact as float64 is.

        MXNet's servers are sure of float32 only (`multi_precision_` of kvstore_dist_server.h has
        no first value). So each rank has a row for the 16-bit parts of its numbers, which float32
        holds exactly, and where the others have zeros.
        """
        own = np.array(values, np.float64)
        if self.size == 1 or own.size == 0:
            return own
        rows = np.zeros((self.size, 4 * own.size), np.float32)
        rows[self._rank] = own.view(np.uint16)
        shared = mx.nd.array(rows.reshape(-1))
        self.sum(shared)
        parts = shared.asnumpy().astype(np.uint16).reshape(rows.shape)
        summed: npt.NDArray[np.float64] = np.add.reduce(parts.view(np.float64), axis=0)
        return summed

    def leave(self) -> None:
        """Wait for the device and for the last sum of all; then end this rank's server."""
        if self._processes is None:
            mx.nd.waitall()
            return
        try:
            with suppress(AlgorithmError):  # a sum was interrupted, or a rank failed
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
        """What `work` returns, from the thread: MXNet's own waits heed no signal and no loss."""
        future: Future[_T] = Future()
        self._queue.put((work, future))
        deadline = time.monotonic() + seconds
        while not wait([future], _CHECK_SECONDS).done:
            if self._processes is not None:
                self._processes.check()
            if time.monotonic() > deadline:
                raise AlgorithmError(
                    f"the {self.size} processes of this job did not all come within "
                    f"{seconds:.0f} s: did all hosts start, and may they reach one another?"
                )
        return future.result()


def _serve(queue: _Queue) -> None:
    """Do what is asked for: in one thread, because MXNet keeps something of every one."""
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
    """Have the C library end the process, when Python has, before MXNet's static destructors.

    These abort where ps-lite's threads still run, and they do: ps-lite leaves only together.
    """
    library = ctypes.CDLL(None)
    library.on_exit(library._exit, None)
