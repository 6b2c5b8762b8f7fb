"""The machine, the versions, and where the product decides to compute.

Later rows of the report mean little without these: the same code is fast on one driver and falls
back to a slow kernel on another.
"""

from __future__ import annotations

import platform
import subprocess
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from setting.machine import machine

from device_checks.one import Given
from device_checks.rows import Rows
from image_classification import __version__
from image_classification.contract import process
from image_classification.devices import device_of
from image_classification.devices.machine import read_machine
from image_classification.errors import UserError

_DISTRIBUTIONS = (
    *("numpy", "pillow", "simplejpeg", "cykooz.resizer", "safetensors", "onnx"),
    *("onnxruntime", "onnxruntime-gpu", "flask", "gunicorn", "httptools"),
)
_SMI_FIELDS = "name,driver_version,clocks.sm,clocks.max.sm,power.limit,temperature.gpu"


def run(given: Given) -> None:
    rows = given.rows
    cpu = machine()
    rows.note("CPU", f"{cpu['cpu']}, {cpu['cores']} cores, load {cpu['load_before']}")
    usable = f"{process.cpu_count()} CPUs, {_gib(process.memory_limit())}"
    rows.note("usable by this process", usable)
    system = f"{platform.system()} {platform.release()}"
    rows.note("system", f"{system}, Python {platform.python_version()}")
    rows.note("image_classification", f"{__version__}{_commit()}")
    rows.note("packages", _packages())
    rows.note("PyTorch", f"{torch.__version__}, CUDA {torch.version.cuda}, cuDNN {_cudnn()}")
    _note_decisions(rows)
    if given.cpu:
        rows.expect("GPUs that PyTorch sees", torch.cuda.device_count(), 0)
        return
    _note_gpus(rows)


def _note_decisions(rows: Rows) -> None:
    import onnxruntime

    rows.note("providers of ONNX Runtime", ", ".join(onnxruntime.get_available_providers()))
    for library in ("torch", "onnxruntime"):
        try:
            decision = device_of(library)
            text = decision.device + (f": {decision.note}" if decision.note else "")
        except UserError as error:
            text = f"refused: {error}"
        rows.note(f"where {library} computes, as the product decides", text)


def _note_gpus(rows: Rows) -> None:
    found = read_machine()
    rows.note("driver", f"{found.driver}, CUDA {found.cuda}, {found.device_files} device files")
    rows.expect("fault of the driver, as the product asks it", found.fault or "none", "none")
    rows.goal("GPUs that PyTorch sees", torch.cuda.device_count(), "≥", 1)
    for number in range(torch.cuda.device_count()):
        gpu = torch.cuda.get_device_properties(number)
        rows.note(
            f"GPU {number}",
            f"{gpu.name}, compute capability {gpu.major}.{gpu.minor}, {_gib(gpu.total_memory)}, "
            f"{gpu.multi_processor_count} multiprocessors",
        )
        free, _ = torch.cuda.mem_get_info(number)
        rows.note(f"free memory of GPU {number}", _gib(free))
    rows.note("code of PyTorch", ", ".join(torch.cuda.get_arch_list()))
    with suppress(OSError, subprocess.SubprocessError):
        command = ["nvidia-smi", f"--query-gpu={_SMI_FIELDS}", "--format=csv"]
        asked = subprocess.run(command, capture_output=True, text=True, timeout=20)
        rows.note("nvidia-smi", " / ".join(asked.stdout.splitlines()) or asked.stderr)


def _packages() -> str:
    found = []
    for name in _DISTRIBUTIONS:
        with suppress(PackageNotFoundError):
            found.append(f"{name} {version(name)}")
    return ", ".join(found)


def _commit() -> str:
    with suppress(OSError, subprocess.SubprocessError):
        command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
        asked = subprocess.run(command, capture_output=True, text=True, timeout=20)
        if asked.returncode == 0:
            return f", commit {asked.stdout.strip()}"
    return ""


def _cudnn() -> str:
    number = torch.backends.cudnn.version() if torch.backends.cudnn.is_available() else None
    return str(number)


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
