"""The CUDA images without a GPU: their libraries, NVIDIA's variables, an old driver, the CPU.

`make test-container` builds and tests the serve image; `make test-cuda-images` the others.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from image_classification.artifact import read_artifact
from image_classification.contract import gpus
from tests.container.engine import CUDA_LOCKS, docker, image_of, inspect, run, serving
from tests.contract.conftest import HYPERPARAMETERS
from tests.contract.jobs import write_job
from tests.golden.cases import GOLDEN

ON_CPU = ["--env", "IMAGE_CLASSIFICATION_DEVICE=cpu"]
DRIVER = "/usr/lib/x86_64-linux-gnu/libcuda.so.1"  # where NVIDIA's container runtime mounts it
# Libraries in a folder *.libs find each other through the module that loads them.
UNRESOLVED = r"""
find /opt/venv -type f -name '*.so*' -not -path '*.libs/*' | while read -r library; do
    ldd "$library" 2>/dev/null | sed -n "s|^\s*\(\S*\) => not found|\1 $library|p"
done"""
# TensorFlow and MXNet take a driver that is too old for no GPU, without a word: the runtime tells.
RUNTIME = """
import ctypes, sys
import {framework}
for name in sys.argv[2:]:
    ctypes.CDLL(name)
cuda, count = ctypes.CDLL(sys.argv[1]), ctypes.c_int()
cuda.cudaGetErrorString.restype = ctypes.c_char_p
print(cuda.cudaGetErrorString(cuda.cudaGetDeviceCount(ctypes.byref(count))).decode())
"""
TENSORFLOW_LOADS = (  # by name, when it finds a GPU
    *("libcublas.so.12", "libcublasLt.so.12", "libcudnn.so.9", "libcufft.so.11", "libcupti.so.12"),
    *("libcurand.so.10", "libcusolver.so.11", "libcusparse.so.12", "libnccl.so.2"),
)
INSUFFICIENT = "CUDA driver version is insufficient for CUDA runtime version"
ONNX_RUNTIME = """
import onnxruntime
onnxruntime.InferenceSession("/opt/ml/model/model.onnx", providers=["CUDAExecutionProvider"])
"""
USES = {  # a program that needs a GPU, and what the library says about an old driver
    "serve": ([ONNX_RUNTIME], f"CUDA failure 35: {INSUFFICIENT}"),
    "torch": (["import torch; torch.zeros(1).cuda()"], "driver on your system is too old"),
    "tensorflow": (
        [RUNTIME.format(framework="tensorflow"), "libcudart.so.12", *TENSORFLOW_LOADS],
        INSUFFICIENT,
    ),
    "mxnet": ([RUNTIME.format(framework="mxnet"), "libcudart.so.11.0"], INSUFFICIENT),
}


CODES = Path(__file__).with_name("gpu_codes.py").read_text("utf-8")


@pytest.fixture(scope="module", params=CUDA_LOCKS)
def lock(request: pytest.FixtureRequest) -> str:
    """The name of a CUDA image's lock, such as serve-cu12."""
    return str(request.param)


@pytest.fixture(scope="module")
def cuda_image(lock: str) -> str:
    name = image_of(lock)
    if docker("image", "inspect", name).returncode:
        pytest.fail(f"there is no image {name}: `make test-cuda-images` builds it")
    return name


@pytest.fixture(scope="module")
def old_driver(lock: str, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Options of docker run: a GPU with the driver in libcuda.c, but no kernel module."""
    compiler = shutil.which("gcc") or pytest.skip("there is no C compiler for the driver's stub")
    library = tmp_path_factory.mktemp("driver") / "libcuda.so.1"
    source = Path(__file__).with_name("libcuda.c")
    command = [compiler, "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", "-o", library, source]
    subprocess.run(command, check=True)
    # A driver serves all minor versions of its CUDA, also later ones.
    version = ["--env", "STUB_CUDA=10020"] if lock.endswith("-cu11") else []
    return ["--volume", f"{library}:{DRIVER}:ro", "--device", "/dev/null:/dev/nvidia0", *version]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an artifact."""
    folder = tmp_path_factory.mktemp("artifact") / "model"
    with tarfile.open(GOLDEN / "artifacts" / "torch.tar.gz") as tar:
        tar.extractall(folder, filter="data")
    folder.parent.chmod(0o755)
    folder.chmod(0o755)
    return folder


def role(lock: str) -> str:
    """Return `serve`, or the framework of a train image."""
    parts = lock.split("-")
    return "serve" if parts[0] == "serve" else parts[1]


def test_every_library_resolves_without_variables_except_the_drivers(cuda_image: str) -> None:
    done = run(cuda_image, "sh", "-c", UNRESOLVED)
    missing = [line for line in done.stdout.splitlines() if not line.startswith("libcuda.so.1 ")]
    assert done.returncode == 0 and missing == []


def test_the_dynamic_linker_knows_every_cuda_library_by_its_name(cuda_image: str) -> None:
    """CUDA's libraries load each other by name, cuDNN its parts and ONNX Runtime cuFFT."""
    script = "find /opt/venv/lib -path '*/nvidia/*/lib/lib*.so*' -printf '%f\\n'; echo; ldconfig -p"
    listed, known = run(cuda_image, "sh", "-c", script).stdout.split("\n\n")
    names = {line.split()[0] for line in known.splitlines()[1:]}
    assert listed and set(listed.split()) <= names


def test_the_variables_of_nvidias_container_runtime_let_every_driver_start(cuda_image: str) -> None:
    variables = inspect("image", cuda_image)["Config"]["Env"]
    assert "NVIDIA_VISIBLE_DEVICES=all" in variables
    assert "NVIDIA_DRIVER_CAPABILITIES=compute,utility" in variables
    assert "NVIDIA_REQUIRE_CUDA=cuda>=11.0" in variables
    assert not [text for text in variables if text.startswith("LD_LIBRARY_PATH")]


def test_the_library_has_code_for_the_gpus_of_the_documented_table(
    cuda_image: str, lock: str
) -> None:
    (row,) = (row for row in (*gpus.TRAIN_IMAGES, *gpus.SERVE_IMAGES) if row.name == lock)
    done = run(cuda_image, "python3", "-c", CODES, role(lock))
    found = set(done.stdout.split())
    assert {name for name in found if name.startswith("sm_")} == {f"sm_{c}" for c in row.codes}
    if row.ptx:
        assert f"compute_{row.ptx}" in found


def test_with_an_old_driver_the_library_names_the_driver_and_no_missing_file(
    cuda_image: str, lock: str, old_driver: list[str], model: Path
) -> None:
    program, reason = USES[role(lock)]
    mount = {model: "/opt/ml/model"}
    done = run(cuda_image, "python3", "-c", *program, volumes=mount, options=old_driver)
    output = done.stdout + done.stderr
    assert reason in output
    assert "cannot open shared object" not in output and "Cannot dlopen" not in output


def test_with_an_old_driver_the_program_ends_with_what_it_needs_and_what_to_set(
    cuda_image: str,
    lock: str,
    old_driver: list[str],
    model: Path,
    channels: dict[str, Path],
    tmp_path: Path,
) -> None:
    if role(lock) == "serve":
        done = run(cuda_image, "serve", volumes={model: "/opt/ml/model"}, options=old_driver)
    else:
        base = write_job(tmp_path / "ml", HYPERPARAMETERS, channels)
        done = run(cuda_image, "train", volumes={base: "/opt/ml"}, options=old_driver)
    output = done.stdout + done.stderr
    assert done.returncode == 2, output
    assert "ClientError: this machine has 1 NVIDIA GPU (Tesla T4)" in output
    assert "is too old" in output and "IMAGE_CLASSIFICATION_DEVICE=cpu" in output


def test_a_job_computes_on_the_cpu_if_told_to(
    cuda_image: str, lock: str, old_driver: list[str], channels: dict[str, Path], tmp_path: Path
) -> None:
    if role(lock) == "serve":
        pytest.skip("the serve image does not train")
    base = write_job(tmp_path / "ml", HYPERPARAMETERS | {"epochs": 1}, channels)
    done = run(cuda_image, "train", volumes={base: "/opt/ml"}, options=[*old_driver, *ON_CPU])
    assert done.returncode == 0, done.stdout + done.stderr
    assert read_artifact(base / "model").manifest["backend"] == role(lock)


def test_a_server_computes_on_the_cpu_if_told_to(
    cuda_image: str,
    old_driver: list[str],
    model: Path,
    jpeg: bytes,
    record_figure: Callable[[str, str], None],
) -> None:
    with serving(cuda_image, model, options=[*old_driver, *ON_CPU]) as server:
        answer = server.invoke(jpeg, Content_Type="image/jpeg")
        assert answer.status == 200, answer.body
        assert len(json.loads(answer.body)) > 1
        record_figure(f"{cuda_image}: seconds to the first ping", f"{server.seconds_to_ping:.2f}")
