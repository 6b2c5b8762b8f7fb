"""Several hosts on one machine: processes that connect over TCP, each with its own job tree."""

from __future__ import annotations

import json
import os
import random
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

from tests.contract.conftest import HYPERPARAMETERS
from tests.contract.jobs import write_job

HOSTS = ["127.0.0.1", "localhost"]
"""Two names that resolve to this machine; the first leads."""


def free_ports(count: int) -> str:
    """Return the first of `count` consecutive free ports, below the ephemeral ones."""
    while True:
        first = random.randrange(20_000, 30_000)
        with ExitStack() as sockets, suppress(OSError):
            for port in range(first, first + count):
                sockets.enter_context(socket.socket()).bind(("", port))
            return str(first)


def start_hosts(
    root: Path,
    channels: dict[str, Path],
    changed: Mapping[str, object] | None = None,
    parts: Mapping[str, Path] | None = None,
    hosts: Sequence[str] = HOSTS,
    namespaces: Mapping[str, str] | None = None,
    interface: str = "ethwe",
) -> list[subprocess.Popen[str]]:
    """Start a `train` process per host of one job; `parts` are their own train channels.

    A changed hyperparameter of None is left out. A host in a network namespace runs in it; the
    default interface is one that does not exist, as in local mode.
    """
    port = free_ports(2 * len(hosts) + 1)  # the lifeline's is one; of two processes each at most
    given = HYPERPARAMETERS | dict(changed or {})
    hyperparameters = {name: value for name, value in given.items() if value is not None}
    processes = []
    for host in hosts:
        own = {"train": parts[host]} if parts else {}
        base = write_job(root / host, hyperparameters, channels | own)
        if parts:
            shard(base, "train")
        resources = {
            "current_host": host,
            "hosts": list(hosts),
            "network_interface_name": interface,
        }
        (base / "input" / "config" / "resourceconfig.json").write_text(json.dumps(resources))
        inside = ["ip", "netns", "exec", namespaces[host]] if namespaces else []
        command = [*inside, sys.executable, "-m", "image_classification", "train"]
        processes.append(
            subprocess.Popen(
                [*command, "--base-dir", str(base)],
                env=os.environ | {"MASTER_PORT": port, "IMAGE_CLASSIFICATION_CPU_COUNT": "1"},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    return processes


def end(processes: list[subprocess.Popen[str]]) -> list[tuple[int, str]]:
    """Return (exit code, log) of each process; they must end within two minutes."""
    try:
        logs = [process.communicate(timeout=120)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    return [(process.returncode, log) for process, log in zip(processes, logs, strict=True)]


def shard(base: Path, *channels: str) -> None:
    """Return the platform's configuration of channels with different objects on each host."""
    path = base / "input" / "config" / "inputdataconfig.json"
    inputs = json.loads(path.read_text())
    for name in channels:
        inputs[name]["S3DistributionType"] = "ShardedByS3Key"
    path.write_text(json.dumps(inputs))
