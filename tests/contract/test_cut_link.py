"""One job on two hosts whose link is cut: two network namespaces and a pair of interfaces."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ClassFolders
from tests.contract import jobs
from tests.contract.hosts import start_hosts
from tests.contract.jobs import read_to

NETWORK = "10.77.0"
INTERFACE = "link0"


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


pytestmark = pytest.mark.slow  # of waiting: the silence that is allowed


@pytest.fixture
def namespaces() -> Iterator[dict[str, str]]:
    """Address → name of its network namespace, in which it is the only one but the loopback's."""
    if shutil.which("ip") is None:
        pytest.skip("needs the command ip (Debian package iproute2)")
    names = [f"icls-{os.getpid()}-{number}" for number in (1, 2)]
    try:
        try:
            for name in names:
                ip("netns", "add", name)
        except subprocess.CalledProcessError as error:
            pytest.skip(f"needs root and network namespaces: {error.stderr.strip()}")
        first, second = (("name", INTERFACE, "netns", name) for name in names)
        ip("link", "add", *first, "type", "veth", "peer", *second)
        for number, name in enumerate(names, 1):
            ip("-n", name, "addr", "add", f"{NETWORK}.{number}/24", "dev", INTERFACE)
            ip("-n", name, "link", "set", INTERFACE, "up")
            ip("-n", name, "link", "set", "lo", "up")
        yield {f"{NETWORK}.{number}": name for number, name in enumerate(names, 1)}
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


def test_a_cut_link_ends_both_hosts_within_a_minute_and_each_names_the_other(
    tmp_path: Path, write_class_folders: ClassFolders, namespaces: dict[str, str]
) -> None:
    if jobs.BACKEND in jobs.ONE_HOST:
        pytest.skip(f"backend {jobs.BACKEND} trains on one host")
    channels = {
        "train": write_class_folders(tmp_path / "train", per_class=11),
        "validation": write_class_folders(tmp_path / "validation", per_class=5, seed=1),
    }
    hosts = list(namespaces)
    processes = start_hosts(
        tmp_path,
        channels,
        {"epochs": 100_000, "checkpoint_frequency": 100_000},
        hosts=hosts,
        namespaces=namespaces,
        interface=INTERFACE,
    )
    try:
        read_to(processes[0], "Epoch[1] Validation-accuracy=")
        ip("-n", namespaces[hosts[1]], "link", "set", INTERFACE, "down")
        deadline = time.monotonic() + 60
        logs = [
            process.communicate(timeout=max(0.1, deadline - time.monotonic()))[0]
            for process in processes
        ]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    for host, other, process, log in zip(hosts, reversed(hosts), processes, logs, strict=True):
        assert process.returncode == 1, log
        failure = (tmp_path / host / "output" / "failure").read_text().splitlines()[0]
        assert failure.startswith(f"AlgorithmError: host {other} has not answered for 40 s")
