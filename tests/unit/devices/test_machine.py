"""What the kernel and the driver's library say, asked in a process of its own."""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path

import pytest

from image_classification.devices.machine import (
    Gpu,
    Machine,
    device_files,
    free_memory,
    read_machine,
)

VERSION = (
    "NVRM version: NVIDIA UNIX x86_64 Kernel Module  470.256.02  Thu May  2 14:37:44 UTC 2024\n"
    "GCC version:  gcc version 7.3.1\n"
)
OPEN = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build\n"


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A driver's library: tests/container/libcuda.c."""
    compiler = shutil.which("gcc") or pytest.skip("there is no C compiler for the driver's stub")
    source = Path(__file__).parents[2] / "container" / "libcuda.c"
    path = tmp_path_factory.mktemp("driver") / "libcuda.so.1"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", path, source], check=True)
    return str(path)


@pytest.fixture
def dev(tmp_path: Path) -> Path:
    """A folder of devices with two GPUs."""
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm", "null"):
        (tmp_path / name).touch()
    (tmp_path / "version").write_text(VERSION)
    return tmp_path


def test_gpus_are_counted_by_their_device_files_alone(dev: Path, tmp_path: Path) -> None:
    assert device_files(dev) == 2
    assert device_files(tmp_path / "nowhere") == 0


def test_without_a_device_file_the_driver_is_not_asked(tmp_path: Path) -> None:
    assert read_machine(tmp_path, tmp_path / "version", "/no/library") == Machine()


@pytest.mark.parametrize(("text", "driver"), [(VERSION, "470.256.02"), (OPEN, "580.65.06")])
def test_the_driver_reports_its_release_its_cuda_and_its_gpus(
    dev: Path, library: str, text: str, driver: str
) -> None:
    (dev / "version").write_text(text)
    found = read_machine(dev, dev / "version", library)
    assert found == Machine(2, driver, (11, 4), (Gpu("Tesla T4", (7, 5), 2**34),))


def test_the_driver_is_newer_where_it_says_so(
    dev: Path, library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STUB_CUDA", "12020")
    found = read_machine(dev, dev / "nothing", library)
    assert (found.cuda, found.driver) == ((12, 2), None)


def test_a_missing_library_and_an_error_of_the_driver_are_named(
    dev: Path, library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault = read_machine(dev, dev / "version", "libcuda-of-nobody.so").fault
    assert fault is not None and fault.startswith("its library cannot be loaded (libcuda-of-nobody")
    monkeypatch.setenv("STUB_ERROR", "802")
    found = read_machine(dev, dev / "version", library)
    assert (found.fault, found.cuda) == ("CUDA error 802, CUDA_ERROR_STUB", (11, 4))
    monkeypatch.setenv("STUB_ABORT", "1")
    found = read_machine(dev, dev / "version", library)
    assert found == Machine(2, "470.256.02", fault="it ended the process that asked it (code -6)")


def test_a_driver_that_hangs_is_not_waited_for(
    dev: Path, library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STUB_SECONDS", "600")
    begin = time.monotonic()
    found = read_machine(dev, dev / "version", library, seconds=0.5)
    assert found.fault == "it did not answer within 0.5 s"
    assert time.monotonic() - begin < 60


def test_a_library_of_another_kind_is_a_fault_and_no_crash(dev: Path) -> None:
    fault = read_machine(dev, dev / "version", "libm.so.6").fault
    assert fault is not None and fault.startswith("it ended the process that asked it")


def test_free_memory_is_not_known_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    if not device_files():
        assert free_memory() is None
