"""The hosts of a job as one group of processes: who leads, and what all of them must agree on.

Every host runs the same program. The first of the sorted host names leads: it validates, logs,
saves. The others learn its decisions through sums over the ranks, the one thing an engine offers.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from image_classification.backends.base import Engine, World
from image_classification.contract import environment
from image_classification.contract.environment import Cluster

_logger = logging.getLogger(__name__)


def world_of(cluster: Cluster) -> World:
    """This process among those of the cluster's hosts, and where they meet.

    They start at different times, and a name may resolve late: who waits for them, and how long, is
    `lifeline`'s.
    """
    threads, hosts = environment.framework_threads(), cluster.hosts
    rank, count = place_of(cluster)
    if len(hosts) * count == 1:
        return World(threads=threads)
    if len(hosts) > 1:
        host = hosts.index(cluster.current_host) + 1
        _logger.info("This is host %d of %d: %s", host, len(hosts), cluster.current_host)
    interface = cluster.network_interface
    if interface and Path("/sys/class/net", interface).exists():  # local mode names one that is not
        environment.use_network_interface(interface)
    return World(rank, len(hosts) * count, threads, _addresses(cluster, count), count)


def place_of(cluster: Cluster) -> tuple[int, int]:
    """(rank of this process, processes on each host): ranks run over a host's, host after host."""
    number, count = environment.local_place() or (0, 1)
    return cluster.hosts.index(cluster.current_host) * count + number, count


def _addresses(cluster: Cluster, count: int) -> tuple[str, ...]:
    """Of every rank, `count` of them on each host; the port after the first is the lifeline's.

    No two have the same port: the names of several hosts may be of one machine.
    """
    port = environment.MASTER_PORT.read_integer(1)
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
