"""The processes of a job: which rank this one is, what they sum, and how a host starts several.

On a host with several GPUs one process starts another for each GPU and waits. Each of them reads
the same data and its share of every epoch, as hosts do; they divide the host's batch among them.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from image_classification import backends
from image_classification.backends.base import Engine, World
from image_classification.contract import environment, process
from image_classification.contract.paths import Cluster, JobPaths
from image_classification.devices import device_of
from image_classification.devices.machine import device_files
from image_classification.errors import AlgorithmError, HyperparameterError
from image_classification.training.request import JobRequest, read_request

_logger = logging.getLogger(__name__)


def world_of(cluster: Cluster) -> World:
    """Return this process's rank among those of the cluster's hosts, and their addresses.

    Hosts start at different times, and a name may resolve late: `lifeline` waits for them.
    """
    threads, hosts = process.framework_threads(), cluster.hosts
    rank, count = rank_of(cluster)
    if len(hosts) * count == 1:
        return World(threads=threads)
    if len(hosts) > 1:
        host = hosts.index(cluster.current_host) + 1
        _logger.info("This is host %d of %d: %s", host, len(hosts), cluster.current_host)
    interface = cluster.network_interface
    if interface and Path("/sys/class/net", interface).exists():  # in local mode it may not exist
        process.use_network_interface(interface)
    return World(rank, len(hosts) * count, threads, _addresses(cluster, count), count)


def rank_of(cluster: Cluster) -> tuple[int, int]:
    """Return (rank of this process, processes per host); the ranks of a host are consecutive."""
    number, count = process.local_rank() or (0, 1)
    return cluster.hosts.index(cluster.current_host) * count + number, count


def _addresses(cluster: Cluster, count: int) -> tuple[str, ...]:
    """Return `host:port` of every rank, with `count` ranks per host.

    All ports differ, because several host names may mean one machine. The lifeline uses the second
    port.
    """
    port = environment.MASTER_PORT.read_integer(1)
    hosts = cluster.hosts if len(cluster.hosts) > 1 else [meeting_host(cluster)]
    ranks = [host for host in hosts for _ in range(count)]
    return tuple(f"{host}:{port + rank + (rank > 0)}" for rank, host in enumerate(ranks))


def meeting_host(cluster: Cluster) -> str:
    """Return the address of the first process; the name of a single host need not resolve."""
    return cluster.hosts[0] if len(cluster.hosts) > 1 else "127.0.0.1"


@dataclass(frozen=True)
class ProcessGroup:
    """The processes of a job. All of them must call each method except `is_leader`.

    Attributes:
        engine: of this process; it sums over the ranks.
        world: this process among those that train together.
    """

    engine: Engine
    world: World

    @property
    def is_leader(self) -> bool:
        """Whether this process logs, validates and saves."""
        return self.world.rank == 0

    def sum(self, values: Mapping[str, float]) -> dict[str, float]:
        """Return each value summed over the ranks; all ranks pass the same names."""
        if self.world.size == 1:
            return dict(values)
        names = sorted(values)
        sums = self.engine.all_reduce(np.array([values[name] for name in names], np.float64))
        return dict(zip(names, sums.tolist(), strict=True))

    def from_leader(self, values: Mapping[str, float]) -> dict[str, float]:
        """Return the leader's values; the others pass the same names with any finite value."""
        return self.sum({name: value * self.is_leader for name, value in values.items()})

    def gathered(self, value: float) -> list[float]:
        """Return the values of all ranks in order; exact for whole numbers below 2⁵³."""
        values = np.zeros(self.world.size)
        values[self.world.rank] = value
        return [float(x) for x in self.engine.all_reduce(values)]

    def any(self, flag: bool) -> bool:
        """Return whether the flag is set on any rank."""
        return self.sum({"flag": float(flag)})["flag"] > 0

    def wait(self) -> None:
        """Wait until every rank has called this."""
        self.any(False)


def run_in_processes(
    paths: JobPaths, overrides: Mapping[str, str], arguments: Sequence[str]
) -> int | None:
    """Run the job in one process per device; return its exit code, or None if one is enough.

    Args:
        paths, overrides: as in `run_job`.
        arguments: Python's, to run the same job; the environment of a process tells its rank.

    Raises:
        UserError: the job has a mistake, or its batch cannot be divided.
        AlgorithmError: the processes were killed before they could report the reason.
    """
    wanted = environment.PROCESSES.read_integer(0)
    if process.local_rank() is not None or (wanted or device_files()) <= 1:
        return None  # before loading the framework, which takes seconds
    request = read_request(paths, overrides)
    if not device_of(request.settings.backend).is_gpu and wanted <= 1:
        return None
    launcher = backends.launcher(request.settings.backend, process.framework_threads())
    count = (wanted or launcher.device_count()) if launcher else 1
    if launcher is None or count <= 1 or not _can_be_divided(request, count):
        return None
    _logger.info("Training in %d processes on this host", count)
    failure = None if paths.artifact else paths.failure
    if failure is not None:
        failure.unlink(missing_ok=True)  # left by an earlier start
    code = launcher.launch(arguments, process.local_environments(count))
    if code and failure is not None and not failure.exists():
        raise AlgorithmError(
            "the training processes on this host were killed, possibly out of memory"
        )
    return code


def _can_be_divided(request: JobRequest, count: int) -> bool:
    settings = request.settings
    if request.is_sharded or any(channel.is_pipe for channel in request.channels.values()):
        _logger.info(
            "Training in one process: the data of a pipe or of a sharded channel is not divided"
        )
        return False
    if settings.batch_size % count:
        name = request.interface.declarations.batch_size.name
        raise HyperparameterError(
            f"{name}={settings.batch_size} cannot be divided among the {count} devices of this "
            f"host: set a multiple of {count}, or {environment.PROCESSES.name}=1 to use one device"
        )
    return True
