"""The CPUs and memory of this process; the environment of libraries and child processes."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

from image_classification.contract import environment
from image_classification.contract.environment import CPU_COUNT, LOCAL_RANK, LOCAL_WORLD_SIZE

_CGROUP = Path("/sys/fs/cgroup")
_MEMBERSHIP = Path("/proc/self/cgroup")


def cpu_count() -> int:
    """Return the CPUs for this process, ≥ 1: the setting, else the least of affinity and quota."""
    setting = CPU_COUNT.read_integer(0)
    if setting:
        return setting
    if hasattr(os, "sched_getaffinity"):  # Linux only
        return max(1, min(len(os.sched_getaffinity(0)), _cgroup_cpus()))
    return os.cpu_count() or 1


def framework_threads() -> int:
    """Return the threads of a framework, ≥ 1: the CPUs, or OMP_NUM_THREADS if it is less.

    OMP_NUM_THREADS may be a list, OpenMP's form for nested regions; its first number counts.
    """
    variable = environment.OMP_NUM_THREADS
    outermost = variable.read().split(",")[0]
    if not outermost.strip():
        return cpu_count()
    return min(cpu_count(), variable.read_integer(1, {variable.name: outermost}))


def hides_gpus() -> bool:
    """Whether CUDA_VISIBLE_DEVICES hides all GPUs from this process."""
    variable = environment.VISIBLE_DEVICES
    return variable.is_set() and variable.read().strip() in {"", "-1"}


def hide_gpus() -> None:
    """Hide all GPUs from the libraries that this process loads, and from its child processes."""
    os.environ[environment.VISIBLE_DEVICES.name] = "-1"


def memory_limit() -> int:
    """Return how many bytes this process may use: the least limit of its cgroups, or all memory.

    In a container, the process's cgroup is the root of the file system; elsewhere (a systemd
    service), it is nested, and each of its ancestors limits it too.
    """
    least = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for path in _limit_files():
        try:
            text = path.read_text().strip()
        except OSError:
            continue
        if text.isdigit():  # v2 writes "max" for no limit
            least = min(least, int(text))
    return least


def _limit_files() -> Iterator[Path]:
    """Yield the files that may hold a memory limit of this process: cgroup v2, then v1."""
    try:
        lines = _MEMBERSHIP.read_text().splitlines()
    except OSError:  # not Linux
        lines = []
    for controller, root, name in (
        ("", _CGROUP, "memory.max"),
        ("memory", _CGROUP / "memory", "memory.limit_in_bytes"),
    ):
        yield root / name
        for line in lines:  # number:controllers:/path
            _, controllers, place = line.split(":", 2)
            if controller in controllers.split(","):
                folder = root / place.lstrip("/")
                yield from (one / name for one in (folder, *folder.parents) if root in one.parents)


def _cgroup_cpus() -> int:
    """Return the CPUs in the container's quota (cgroup v2, then v1); a large number without one."""
    unlimited = 1_000_000
    try:
        quota, period = (_CGROUP / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            quota = (_CGROUP / "cpu/cpu.cfs_quota_us").read_text().strip()
            period = (_CGROUP / "cpu/cpu.cfs_period_us").read_text().strip()
        except OSError:
            return unlimited
    if not quota.isdigit() or not period.isdigit():
        return unlimited
    return max(1, -(-int(quota) // int(period)))


def disable_telemetry() -> None:
    """Switch off the telemetry of ONNX Runtime, which its wheels switch on; the user's choice wins.

    Call it before the import of ONNX Runtime, which reads the variable then.
    """
    set_default(environment.NO_TELEMETRY, environment.NO_TELEMETRY.default)


def use_one_blas_thread() -> None:
    """Let NumPy compute in the calling thread; the user's choice wins.

    Call it before the import of NumPy, which reads the variable then. Threads of a server that wait
    for each other cost 15 ms where one takes 0.05 (measured on two loaded CPUs).
    """
    set_default(environment.BLAS_THREADS, environment.BLAS_THREADS.default)


def use_network_interface(name: str) -> None:
    """Connect to the other hosts through the network interface `name`; the user's choice wins.

    Call it before the import of a framework, whose libraries read the variables then.
    """
    set_default(environment.GLOO_INTERFACE, name)
    set_default(environment.NCCL_INTERFACE, name)


def set_variable(variable: environment.Variable, value: str) -> None:
    """Set a variable for a library of this process, and for its child processes."""
    os.environ[variable.name] = value


def add_to_path() -> None:
    """Let child processes find the programs of this Python's environment first."""
    path = os.environ.get("PATH", os.defpath)
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), path])


def set_default(variable: environment.Variable, value: str) -> None:
    """Set a variable in the same way; the user's choice wins."""
    os.environ.setdefault(variable.name, value)


def local_rank() -> tuple[int, int] | None:
    """Return (rank, number) of the training processes of this host; None if this one is alone."""
    if not (LOCAL_RANK.read() and LOCAL_WORLD_SIZE.read()):
        return None
    return LOCAL_RANK.read_integer(0), LOCAL_WORLD_SIZE.read_integer(1)


def local_environments(count: int) -> list[dict[str, str]]:
    """Return the variables to set for each of `count` processes on this host: rank and CPUs."""
    shared = {LOCAL_WORLD_SIZE.name: str(count), CPU_COUNT.name: str(max(1, cpu_count() // count))}
    return [{LOCAL_RANK.name: str(rank)} | shared for rank in range(count)]
