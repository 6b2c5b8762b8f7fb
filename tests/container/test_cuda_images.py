"""The CUDA images without a GPU: their libraries, NVIDIA's variables, an old driver, the CPU.

`make test-container` builds and tests the serve image; `make test-cuda-images` the others.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from image_classification.artifact import read_artifact
from image_classification.contract import gpus
from tests.container.engine import CUDA_LOCKS, docker, image_of, inspect, run, serving
from tests.contract.conftest import HYPERPARAMETERS
from tests.contract.jobs import write_job
from tests.golden.cases import GOLDEN, parted, requests, unpacked

ON_CPU = ["--env", "IMAGE_CLASSIFICATION_DEVICE=cpu"]
DRIVER = "/usr/lib/x86_64-linux-gnu/libcuda.so.1"  # where NVIDIA's container runtime mounts it
# Libraries in a folder *.libs find each other through the module that loads them. Those of
# torchvision find PyTorch's, which are loaded before them.
UNRESOLVED = r"""
find /opt/venv -type f -name '*.so*' -not -path '*.libs/*' -not -path '*/torchvision/*' |
    while read -r library; do
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
COMPILING = {  # framework → exit code and message of a job with compile=on
    "torch": (2, "ClientError: compile=on: this image cannot compile"),
    "tensorflow": (0, "Epoch[0] Validation-accuracy="),  # its XLA needs no compiler
    "mxnet": (0, "compile=on: MXNet has no compiler for training steps; set compile=off"),
}
KERNELS = """
from tensorflow.python.framework import dtypes, kernels
for name in ("Conv2D", "Conv2DBackpropInput", "Conv2DBackpropFilter", "DepthwiseConv2dNative",
             "DepthwiseConv2dNativeBackpropInput", "DepthwiseConv2dNativeBackpropFilter",
             "FusedBatchNormV3", "FusedBatchNormGradV3", "MatMul", "Relu", "ReluGrad", "MaxPool"):
    registered = kernels.get_registered_kernels_for_op(name).kernel
    types = {value for kernel in registered if kernel.device_type == "GPU"
             for constraint in kernel.constraint if constraint.name == "T"
             for value in constraint.allowed_values.list.type}
    for dtype in (dtypes.float32, dtypes.float16, dtypes.bfloat16):
        if dtype.as_datatype_enum not in types:
            print(name, dtype.name)
"""
PTX_DRIVERS = {"ptx_8.5": 555}
"""Version of PTX → the first branch of drivers that compiles it (NVIDIA's history of PTX)."""
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
    return unpacked(GOLDEN / "artifacts" / "torch.tar.gz", tmp_path_factory.mktemp("artifact"))


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
        (version,) = (name for name in found if name.startswith("ptx_"))
        assert f"compute_{row.ptx}" in found and PTX_DRIVERS[version] == row.ptx_driver


def test_tensorflow_has_kernels_for_gpus_in_every_precision_of_a_training_step(
    cuda_image: str, lock: str
) -> None:
    if role(lock) != "tensorflow":
        pytest.skip("the other frameworks have no list of their kernels")
    done = run(cuda_image, "python3", "-c", KERNELS)
    assert done.returncode == 0 and done.stdout == "", done.stdout + done.stderr


def test_with_an_old_driver_the_library_names_the_driver_and_no_missing_file(
    cuda_image: str, lock: str, old_driver: list[str], model: Path
) -> None:
    program, reason = USES[role(lock)]
    mount = {model: "/opt/ml/model"}
    done = run(cuda_image, "python3", "-c", *program, volumes=mount, options=old_driver)
    output = done.stdout + done.stderr
    assert reason in output
    assert "cannot open shared object" not in output and "Cannot dlopen" not in output


@pytest.mark.parametrize("program", ["train", "serve"])
def test_with_an_old_driver_the_program_ends_with_what_it_needs_and_what_to_set(
    cuda_image: str,
    lock: str,
    old_driver: list[str],
    model: Path,
    channels: dict[str, Path],
    tmp_path: Path,
    program: str,
) -> None:
    if program == "serve":
        done = run(cuda_image, "serve", volumes={model: "/opt/ml/model"}, options=old_driver)
    elif role(lock) == "serve":
        pytest.skip("the serve image does not train")
    else:
        base = write_job(tmp_path / "ml", HYPERPARAMETERS, channels)
        done = run(cuda_image, "train", volumes={base: "/opt/ml"}, options=old_driver)
        failure = (base / "output" / "failure").read_text("utf-8")
        assert failure.startswith("ClientError: this machine has 1 NVIDIA GPU (Tesla T4)")
    output = done.stdout + done.stderr
    assert done.returncode == 2, output
    assert "IMAGE_CLASSIFICATION_DEVICE=cpu" in output
    if (role(lock), program) == ("mxnet", "serve"):
        assert "ClientError: this machine has an NVIDIA GPU, but this is a training image" in output
        assert "image-classification-serve with a tag ending in -cu12 or -cu13" in output
    else:
        assert "ClientError: this machine has 1 NVIDIA GPU (Tesla T4)" in output
        assert "is too old" in output


def test_a_job_computes_on_the_cpu_if_told_to_and_all_images_serve_its_model(
    cuda_image: str,
    lock: str,
    old_driver: list[str],
    channels: dict[str, Path],
    jpeg: bytes,
    tmp_path: Path,
) -> None:
    if role(lock) == "serve":
        pytest.skip("the serve image does not train")
    base = write_job(tmp_path / "ml", HYPERPARAMETERS | {"epochs": 1}, channels)
    options = [*old_driver, *ON_CPU]
    done = run(cuda_image, "train", volumes={base: "/opt/ml"}, options=options)
    assert done.returncode == 0, done.stdout + done.stderr
    assert read_artifact(base / "model").manifest["backend"] == role(lock)
    images = [cuda_image, *(image_of(row.name) for row in gpus.SERVE_IMAGES)]
    answers = []
    for image in images:
        if docker("image", "inspect", image).returncode:
            continue  # scripts/test-cuda-images builds the images for serving first
        with serving(image, base / "model", options=options) as server:
            answer = server.invoke(jpeg, Content_Type="image/jpeg")
        assert answer.status == 200, answer.body
        answers.append(json.loads(answer.body))
    assert len(answers[0]) == len(list(channels["train"].iterdir()))
    for other in answers[1:]:
        assert other == pytest.approx(answers[0], abs=1e-5)


@pytest.mark.parametrize("backend", ["torch", "tensorflow", "mxnet"])
def test_a_server_computes_the_golden_answers_on_the_cpu_if_told_to(
    cuda_image: str,
    old_driver: list[str],
    tmp_path: Path,
    backend: str,
    record_figure: Callable[[str, str], None],
) -> None:
    name = "one JPEG, application/json;verbose"
    expected = json.loads((GOLDEN / "artifacts" / f"{backend}.json").read_text("utf-8"))
    body, headers = requests()[name]
    model = unpacked(GOLDEN / "artifacts" / f"{backend}.tar.gz", tmp_path)
    with serving(cuda_image, model, options=[*old_driver, *ON_CPU]) as server:
        answer = server.invoke(body, **headers)
        record_figure(f"{cuda_image}: seconds to the first ping", f"{server.seconds_to_ping:.2f}")
    (form, numbers) = parted(answer.body.decode())
    (expected_form, expected_numbers) = parted(expected["serve"][name]["body"])
    assert (answer.status, form) == (200, expected_form)
    assert numbers == pytest.approx(expected_numbers, abs=1e-5)


def test_without_a_gpu_every_image_serves_on_the_cpu(
    cuda_image: str, model: Path, jpeg: bytes
) -> None:
    with serving(cuda_image, model, options=[]) as server:
        assert server.invoke(jpeg, Content_Type="image/jpeg").status == 200


def test_without_a_gpu_a_job_computes_on_the_cpu_or_names_the_image_for_cpus(
    cuda_image: str, lock: str, channels: dict[str, Path], tmp_path: Path
) -> None:
    if role(lock) == "serve":
        pytest.skip("the serve image does not train")
    base = write_job(tmp_path / "ml", HYPERPARAMETERS | {"epochs": 1}, channels)
    done = run(cuda_image, "train", volumes={base: "/opt/ml"})
    if role(lock) == "mxnet":  # it is linked with the driver's library
        failure = (base / "output" / "failure").read_text("utf-8")
        assert done.returncode == 2 and failure.startswith("ClientError: "), failure
        assert "use the image for CPUs" in failure
    else:
        assert done.returncode == 0, done.stdout + done.stderr


def test_compile_on_compiles_with_tensorflow_is_refused_by_torch_and_a_warning_of_mxnet(
    cuda_image: str, lock: str, old_driver: list[str], channels: dict[str, Path], tmp_path: Path
) -> None:
    if role(lock) == "serve":
        pytest.skip("the serve image does not train")
    base = write_job(tmp_path / "ml", HYPERPARAMETERS | {"epochs": 1, "compile": "on"}, channels)
    done = run(cuda_image, "train", volumes={base: "/opt/ml"}, options=[*old_driver, *ON_CPU])
    code, message = COMPILING[role(lock)]
    assert done.returncode == code and message in done.stdout + done.stderr, done.stderr
