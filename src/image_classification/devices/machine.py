"""The NVIDIA GPUs of this machine, as its kernel and its driver report them.

Also a program: it asks the driver in a process of its own, because a process that has called the
driver must not fork, and because a broken driver can hang. It imports the standard library alone.
"""

from __future__ import annotations

import ctypes
import json
import re
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

LIBRARY = "libcuda.so.1"
"""The driver's own library, which the NVIDIA Container Toolkit mounts into a container."""

DEV, VERSION_FILE = Path("/dev"), Path("/proc/driver/nvidia/version")

_SECONDS = 20.0  # a sound driver answers within 5, on a machine with eight GPUs that were idle
_SECONDS_TO_END = 1.0
_VERSION = re.compile(r"Kernel Module\b.*?\s(\d+\.\d+(?:\.\d+)?)\s")
_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR


@dataclass(frozen=True)
class Gpu:
    """A GPU that the driver reports.

    Attributes:
        name: of the product, such as Tesla T4.
        capability: NVIDIA's compute capability, such as (7, 5).
        memory: bytes in all.
        free: bytes that no process uses; None if the question was not asked.
    """

    name: str
    capability: tuple[int, int]
    memory: int
    free: int | None = None


@dataclass(frozen=True)
class Machine:
    """What is there.

    Attributes:
        device_files: the number of files /dev/nvidia0, /dev/nvidia1, …
        driver: release of the kernel's driver, such as 535.183.01; None if it is not known.
        cuda: the newest CUDA that the driver's library has, such as (12, 2); None if not known.
        gpus: those that a process can use, after CUDA_VISIBLE_DEVICES.
        fault: why a process cannot use any of them, in one line; None if it can.
    """

    device_files: int = 0
    driver: str | None = None
    cuda: tuple[int, int] | None = None
    gpus: tuple[Gpu, ...] = ()
    fault: str | None = None


def device_files(folder: Path = DEV) -> int:
    """Count the device files of NVIDIA GPUs, without asking the driver."""
    return sum(path.name[6:].isdigit() for path in folder.glob("nvidia[0-9]*"))


@lru_cache(maxsize=1)
def this_machine() -> Machine:
    """Return what is there now; the driver is asked once in the life of a process."""
    return read_machine()


def read_machine(
    folder: Path = DEV,
    version_file: Path = VERSION_FILE,
    library: str = LIBRARY,
    seconds: float = _SECONDS,
    *,
    with_free: bool = False,
) -> Machine:
    """Return what is there; the driver is asked only if there is a device file.

    Args:
        folder, version_file, library: of the driver.
        seconds: how long the driver has to answer.
        with_free: ask for the free memory too, which takes a few hundred megabytes meanwhile.
    """
    count = device_files(folder)
    if not count:
        return Machine()
    driver = _kernel_driver(version_file)
    answer = _ask(library, seconds, with_free)
    if isinstance(answer, str):
        return Machine(count, driver, fault=answer)
    number = answer["cuda"]
    gpus = tuple(
        Gpu(gpu["name"], (gpu["major"], gpu["minor"]), gpu["memory"], gpu.get("free"))
        for gpu in answer["gpus"]
    )
    fault = answer["fault"] or (None if gpus else "it reports no GPU")
    cuda = (number // 1000, number % 1000 // 10) if number else None
    return Machine(count, driver, cuda, gpus, fault)


def free_memory() -> int | None:
    """Return the free bytes of the first GPU that this process can use; None if not known."""
    gpus = read_machine(with_free=True).gpus
    return gpus[0].free if gpus else None


def _kernel_driver(version_file: Path) -> str | None:
    try:
        found = _VERSION.search(version_file.read_text("utf-8", "replace"))
    except OSError:
        return None
    return found.group(1) if found else None


def _ask(library: str, seconds: float, with_free: bool) -> dict[str, Any] | str:
    """Return the answer of `_driver_answer` in a process of its own, or why there is none."""
    command = [sys.executable, "-I", __file__, library, *["free"][: int(with_free)]]
    process = subprocess.Popen(  # noqa: S603 - this file
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert process.stdout is not None
    try:
        output, _ = process.communicate(timeout=seconds)
        answer: dict[str, Any] | str = json.loads(output)
        return answer
    except subprocess.TimeoutExpired:
        process.kill()
        with suppress(subprocess.TimeoutExpired):  # a process that hangs in the kernel stays
            process.wait(_SECONDS_TO_END)
        return f"it did not answer within {seconds:g} s"
    except ValueError:
        return f"it ended the process that asked it (code {process.returncode})"
    finally:
        process.stdout.close()


def _driver_answer(library: str, with_free: bool) -> dict[str, Any] | str:
    """Ask the driver's library; a text is the reason why it cannot be loaded."""
    try:
        cuda = ctypes.CDLL(library)
    except OSError as error:
        return f"its library cannot be loaded ({error})"
    number, count = ctypes.c_int(), ctypes.c_int()
    if cuda.cuDriverGetVersion(ctypes.byref(number)):
        number.value = 0
    answer: dict[str, Any] = {"cuda": number.value, "gpus": [], "fault": None}
    code = cuda.cuInit(0) or cuda.cuDeviceGetCount(ctypes.byref(count))
    if code:
        answer["fault"] = f"CUDA error {code}{_words(cuda, code)}"
        return answer
    for index in range(count.value):
        answer["gpus"].append(_describe(cuda, index, with_free))
    return answer


def _words(cuda: Any, code: int) -> str:
    """Return what CUDA calls an error: `, CUDA_ERROR_NO_DEVICE, no CUDA-capable device …`."""
    words = ""
    for name in ("cuGetErrorName", "cuGetErrorString"):
        text = ctypes.c_char_p()
        function: Callable[..., int] | None = getattr(cuda, name, None)
        if function is not None and not function(code, ctypes.byref(text)) and text.value:
            words += f", {text.value.decode('utf-8', 'replace')}"
    return words


def _describe(cuda: Any, index: int, with_free: bool) -> dict[str, Any]:
    device, value, name = ctypes.c_int(), ctypes.c_int(), ctypes.create_string_buffer(128)
    total, free = ctypes.c_size_t(), ctypes.c_size_t()
    gpu: dict[str, Any] = {"name": "", "major": 0, "minor": 0, "memory": 0}
    if cuda.cuDeviceGet(ctypes.byref(device), index):
        return gpu
    if not cuda.cuDeviceGetName(name, len(name), device):
        gpu["name"] = name.value.decode("utf-8", "replace")
    for part, attribute in (("major", _MAJOR), ("minor", _MINOR)):
        if not cuda.cuDeviceGetAttribute(ctypes.byref(value), attribute, device):
            gpu[part] = value.value
    if not cuda.cuDeviceTotalMem_v2(ctypes.byref(total), device):
        gpu["memory"] = total.value
    context = ctypes.c_void_p()
    if with_free and not cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), device):
        is_current = not cuda.cuCtxSetCurrent(context)
        if is_current and not cuda.cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total)):
            gpu["free"] = free.value
    return gpu


if __name__ == "__main__":
    sys.stdout.write(json.dumps(_driver_answer(sys.argv[1], "free" in sys.argv[2:])))
