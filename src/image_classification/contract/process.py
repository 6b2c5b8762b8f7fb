"""What this process may use, and what libraries and child processes find in its environment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from image_classification.contract.environment import (
    CPU_COUNT,
    LOCAL_RANK,
    LOCAL_WORLD_SIZE,
    OMP_NUM_THREADS,
)


def cpu_count() -> int:
    """CPUs this process may use, ≥ 1: the setting, else the least of affinity and cgroup quota."""
    setting = CPU_COUNT.read_integer(0)
    if setting:
        return setting
    if hasattr(os, "sched_getaffinity"):  # Linux only
        return max(1, min(len(os.sched_getaffinity(0)), _cgroup_cpus()))
    return os.cpu_count() or 1


def framework_threads() -> int:
    """Threads for a framework's own work, ≥ 1: the CPUs, or OMP_NUM_THREADS where that is less.

    Of a list, OpenMP's form for nested regions, the first number counts.
    """
    outermost = OMP_NUM_THREADS.read().split(",")[0]
    if not outermost.strip():
        return cpu_count()
    given = {OMP_NUM_THREADS.name: outermost}
    return min(cpu_count(), OMP_NUM_THREADS.read_integer(1, given))


def gpu_count() -> int:
    """NVIDIA GPUs of this machine, ≥ 0, by their device files: no framework is loaded for it."""
    return sum(path.name[6:].isdigit() for path in Path("/dev").glob("nvidia[0-9]*"))


def _cgroup_cpus() -> int:
    """CPUs allowed by the container's quota (cgroup v2, then v1); a large number without one."""
    unlimited = 1_000_000
    root = Path("/sys/fs/cgroup")
    try:
        quota, period = (root / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            quota = (root / "cpu/cpu.cfs_quota_us").read_text().strip()
            period = (root / "cpu/cpu.cfs_period_us").read_text().strip()
        except OSError:
            return unlimited
    if not quota.isdigit() or not period.isdigit():
        return unlimited
    return max(1, -(-int(quota) // int(period)))


def disable_telemetry() -> None:
    """Keep ONNX Runtime, whose wheels have telemetry switched on, from writing and sending its own.

    It reads the variable when it is loaded, so this comes before its import. A user's choice wins.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")


def with_python_path(folder: Path, added: Mapping[str, str]) -> dict[str, str]:
    """This process's environment with `added`, and with `folder` first on PYTHONPATH."""
    path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH", "")]))
    return {**os.environ, **added, "PYTHONPATH": path}


def use_network_interface(name: str) -> None:
    """Have the frameworks' libraries reach the other hosts through it, unless the user chose one.

    They read these variables when they are loaded, so this comes before the framework's import.
    """
    for variable in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        os.environ.setdefault(variable, name)


def local_place() -> tuple[int, int] | None:
    """(number, count) of this process among those that train on this host; None if it is alone."""
    if not (LOCAL_RANK.read() and LOCAL_WORLD_SIZE.read()):
        return None
    return LOCAL_RANK.read_integer(0), LOCAL_WORLD_SIZE.read_integer(1)


def of_local_processes(count: int) -> list[dict[str, str]]:
    """What the environment of each process of this host has more: its place, and its CPUs."""
    cpus = str(max(1, cpu_count() // count))
    return [
        {
            LOCAL_RANK.name: str(number),
            LOCAL_WORLD_SIZE.name: str(count),
            CPU_COUNT.name: cpus,
        }
        for number in range(count)
    ]
