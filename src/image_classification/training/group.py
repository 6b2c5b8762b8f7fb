"""A job on a host with several GPUs: one process for each, all of them ranks of one job.

This process then only starts them and waits. Each reads the same data and takes its part of every
epoch, as hosts do; a host's batch is divided among its processes.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from image_classification import backends
from image_classification.backends.base import Engine, World
from image_classification.contract.environment import MASTER_PORT, PROCESSES
from image_classification.contract.paths import Cluster, JobPaths
from image_classification.contract.process import (
    framework_threads,
    gpu_count,
    local_environments,
    local_rank,
    use_network_interface,
)
from image_classification.errors import AlgorithmError, HyperparameterError
from image_classification.training.request import JobRequest, read_request

_logger = logging.getLogger(__name__)


def world_of(cluster: Cluster) -> World:
    """This process among those of the cluster's hosts, and where they meet.

    They start at different times, and a name may resolve late: who waits for them, and how long, is
    `lifeline`'s.
    """
    threads, hosts = framework_threads(), cluster.hosts
    rank, count = place_of(cluster)
    if len(hosts) * count == 1:
        return World(threads=threads)
    if len(hosts) > 1:
        host = hosts.index(cluster.current_host) + 1
        _logger.info("This is host %d of %d: %s", host, len(hosts), cluster.current_host)
    interface = cluster.network_interface
    if interface and Path("/sys/class/net", interface).exists():  # local mode names one that is not
        use_network_interface(interface)
    return World(rank, len(hosts) * count, threads, _addresses(cluster, count), count)


def place_of(cluster: Cluster) -> tuple[int, int]:
    """(rank of this process, processes on each host): ranks run over a host's, host after host."""
    number, count = local_rank() or (0, 1)
    return cluster.hosts.index(cluster.current_host) * count + number, count


def _addresses(cluster: Cluster, count: int) -> tuple[str, ...]:
    """Of every rank, `count` of them on each host; the port after the first is the lifeline's.

    No two have the same port: the names of several hosts may be of one machine.
    """
    port = MASTER_PORT.read_integer(1)
    hosts = cluster.hosts if len(cluster.hosts) > 1 else [meeting_host(cluster)]
    ranks = [host for host in hosts for _ in range(count)]
    return tuple(f"{host}:{port + rank + (rank > 0)}" for rank, host in enumerate(ranks))


def meeting_host(cluster: Cluster) -> str:
    """The address of the first process; that of a host alone need not resolve."""
    return cluster.hosts[0] if len(cluster.hosts) > 1 else "127.0.0.1"


@dataclass(frozen=True)
class ProcessGroup:
    """The processes of a job; each method but `is_leader` must be called by all of them.

    Attributes:
        engine: this process's, which sums over the ranks.
        world: this process among them.
    """

    engine: Engine
    world: World

    @property
    def is_leader(self) -> bool:
        """Whether this process logs, validates and saves."""
        return self.world.rank == 0

    def sum(self, values: Mapping[str, float]) -> dict[str, float]:
        """Each value summed over the ranks; all ranks give the same names."""
        if self.world.size == 1:
            return dict(values)
        names = sorted(values)
        sums = self.engine.all_reduce(np.array([values[name] for name in names], np.float64))
        return dict(zip(names, sums.tolist(), strict=True))

    def from_leader(self, values: Mapping[str, float]) -> dict[str, float]:
        """The leader's values; the others give the same names with any finite value."""
        return self.sum({name: value * self.is_leader for name, value in values.items()})

    def gathered(self, value: float) -> list[float]:
        """The value of every rank, in their order; exact for whole numbers below 2⁵³."""
        values = np.zeros(self.world.size)
        values[self.world.rank] = value
        return [float(x) for x in self.engine.all_reduce(values)]

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on any rank."""
        return self.sum({"flag": float(flag)})["flag"] > 0

    def wait(self) -> None:
        """Return when every rank has called this."""
        self.any(False)


def run_in_processes(
    paths: JobPaths, overrides: Mapping[str, str], arguments: Sequence[str]
) -> int | None:
    """Run the job in one process for each device; its exit code, or None where one is enough.

    Args:
        paths, overrides: as of `run_job`.
        arguments: of Python, to run the same job; what it does in a process depends on the
            environment that is given to it.

    Raises:
        UserError: the job is wrong, or its batch cannot be divided.
        AlgorithmError: the processes were killed before they could say why.
    """
    wanted = PROCESSES.read_integer(0)
    if local_rank() is not None or (wanted or gpu_count()) <= 1:
        return None  # before the framework is asked, which takes seconds to load
    request = read_request(paths, overrides)
    launcher = backends.launcher(request.settings.backend, framework_threads())
    count = (wanted or launcher.device_count()) if launcher else 1
    if launcher is None or count <= 1 or not _can_be_divided(request, count):
        return None
    _logger.info("Training in %d processes on this host", count)
    failure = None if paths.artifact else paths.failure
    if failure is not None:
        failure.unlink(missing_ok=True)  # of an earlier start
    code = launcher.launch(arguments, local_environments(count))
    if code and failure is not None and not failure.exists():
        raise AlgorithmError(
            "the processes that train on this host were killed, perhaps for want of memory"
        )
    return code


def _can_be_divided(request: JobRequest, count: int) -> bool:
    settings = request.settings
    if request.is_sharded or any(channel.is_pipe for channel in request.channels.values()):
        _logger.info("Training in one process: a pipe, or a host's own part, is not divided")
        return False
    if settings.batch_size % count:
        name = request.interface.declarations.batch_size.name
        raise HyperparameterError(
            f"{name}={settings.batch_size} cannot be divided among the {count} devices of this "
            f"host: set a multiple of {count}, or {PROCESSES.name}=1 to use one device"
        )
    return True
