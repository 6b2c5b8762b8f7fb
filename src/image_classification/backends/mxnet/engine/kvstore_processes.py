"""The processes behind MXNet's key-value store: one scheduler, and one server for each rank.

A server adds what the ranks send of its keys; large arrays are divided among all servers, so each
rank's has as much to add as the others. The scheduler, beside the first rank, only introduces them.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys

from image_classification.backends.base import World
from image_classification.errors import AlgorithmError, UserError

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
