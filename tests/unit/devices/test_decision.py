"""Where a process computes: what the user set, what the library was built for, what is there."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from image_classification import devices
from image_classification.contract import gpus, process
from image_classification.devices import (
    Decision,
    check_engine,
    decide,
    device_of,
    log_decision,
    serving_device,
)
from image_classification.devices.builds import Build, installed_build
from image_classification.devices.machine import Gpu, Machine
from image_classification.errors import UnusableDeviceError, UserError

T4, V100 = ("Tesla T4", (7, 5)), ("Tesla V100", (7, 0))
H100, B200 = ("NVIDIA H100", (9, 0)), ("NVIDIA B200", (10, 0))
RTX = ("NVIDIA RTX PRO 6000", (12, 0))
CPU_BUILD = Build("ONNX Runtime", "1.31.1")
SERVE_12 = Build("ONNX Runtime", "1.26.0", (12, 8), "onnxruntime-gpu")
SERVE_13 = Build("ONNX Runtime", "1.31.1", (13, 0), "onnxruntime-gpu")
TORCH = Build("PyTorch", "2.13.0+cu130", (13, 0), "torch")
TENSORFLOW = Build("TensorFlow", "2.21.0", (12, 5), "tensorflow")
MXNET = Build("MXNet", "1.9.1", (11, 7), "mxnet-cu117")
NOTHING = Machine()


def machine(
    product: tuple[str, tuple[int, int]] = T4,
    cuda: tuple[int, int] | None = (13, 0),
    driver: str | None = "580.65.06",
    fault: str | None = None,
) -> Machine:
    gpus = () if fault else (Gpu(*product, memory=2**34),)
    return Machine(1, driver, cuda, gpus, fault)


GOOD, OLD = machine(), machine(T4, (11, 4), "470.256.02")
DRIVER_535 = machine(T4, (12, 2), "535.183.01")


@pytest.mark.parametrize(
    ("setting", "build", "there", "hides", "device", "note"),
    [
        ("cpu", SERVE_13, NOTHING, False, "cpu", None),
        ("cpu", SERVE_13, OLD, False, "cpu", "and IMAGE_CLASSIFICATION_DEVICE=cpu: computing on"),
        ("auto", SERVE_13, NOTHING, False, "cpu", None),
        ("auto", CPU_BUILD, NOTHING, False, "cpu", None),
        ("auto", CPU_BUILD, GOOD, False, "cpu", "ONNX Runtime 1.31.1 is a build for CPUs"),
        ("auto", SERVE_13, GOOD, True, "cpu", "but CUDA_VISIBLE_DEVICES hides them"),
        ("auto", SERVE_13, GOOD, False, "cuda", None),
        ("cuda", SERVE_13, GOOD, False, "cuda", None),
        ("auto", SERVE_12, DRIVER_535, False, "cuda", None),  # 12.8 with a driver of 12.2
        ("auto", MXNET, GOOD, False, "cuda", None),
        ("auto", TENSORFLOW, machine(H100, (12, 5), "555.42.06"), False, "cuda", None),
        ("auto", Build("PyTorch", "9.9", (13, 0), "torch"), machine(V100), False, "cuda", None),
    ],
)
def test_a_process_computes_where_it_can_and_a_surprise_is_one_line(
    setting: str, build: Build, there: Machine, hides: bool, device: str, note: str | None
) -> None:
    decision = decide(setting, build, there, hides_gpus=hides)
    assert (decision.device, decision.is_gpu) == (device, device == "cuda")
    if note is None:
        assert decision.note is None
    else:
        assert decision.note is not None and note in decision.note
        assert (
            decision.note.startswith("this machine has 1 NVIDIA GPU") and "\n" not in decision.note
        )


@pytest.mark.parametrize(
    ("setting", "build", "there", "hides", "found", "way"),
    [
        ("cuda", SERVE_13, NOTHING, False, "this machine has no NVIDIA GPU", "--gpus all"),
        ("cuda", CPU_BUILD, NOTHING, False, "this machine has no NVIDIA GPU", "=auto"),
        ("cuda", CPU_BUILD, GOOD, False, "is a build for CPUs", "-cu11, -cu12 or -cu13"),
        (
            "cuda",
            SERVE_13,
            GOOD,
            True,
            "CUDA_VISIBLE_DEVICES hides all GPUs",
            "unset CUDA_VISIBLE",
        ),
        *(
            ("auto", SERVE_12, OLD, False, "its driver 470.256.02 (CUDA 11.4) is too old", way)
            for way in (
                "ONNX Runtime 1.26.0 is built for CUDA 12.8, which needs driver 525 or later",
                "InferenceAmiVersion=al2-ami-sagemaker-inference-gpu-2 on an endpoint",
                "TransformAmiVersion=al2-ami-sagemaker-batch-gpu-535 in a batch transform job",
                "set IMAGE_CLASSIFICATION_DEVICE=cpu",
            )
        ),
        *(
            ("auto", SERVE_13, DRIVER_535, False, "535.183.01 (CUDA 12.2) is too old", way)
            for way in (
                "needs driver 580 or later",
                "InferenceAmiVersion=al2023-ami-sagemaker-inference-gpu-4-1",
                "use the image serve-cu12",
            )
        ),
        ("cuda", TORCH, DRIVER_535, False, "too old", "use the image train-tensorflow-cu12"),
        ("auto", TORCH, machine(B200, (12, 8), "570.1.1"), False, "too old", "SageMaker chooses"),
        ("auto", SERVE_13, machine(cuda=(12, 2), driver=None), False, "its driver (CUDA 12.2)", ""),
        ("auto", Build("PyTorch", "3", (14, 0), "torch"), GOOD, False, "too old", "with that"),
        # PTX needs a driver as new as the compiler that wrote it.
        ("auto", TENSORFLOW, machine(H100, (12, 2), "535.1"), False, "too old", "driver 555 or"),
        *(
            ("auto", SERVE_12, machine(cuda=None, fault=fault), False, fault, "--gpus all")
            for fault in (
                "its library cannot be loaded (libcuda.so.1: no such file)",
                "CUDA error 802, CUDA_ERROR_SYSTEM_NOT_READY",
                "it did not answer within 20 s",
            )
        ),
        ("auto", TORCH, machine(V100), False, "Tesla V100 of compute capability 7.0", "-cu12"),
        ("auto", SERVE_13, machine(V100), False, "no code", "use the image serve-cu12, or"),
        ("auto", SERVE_12, machine(B200), False, "no code", "use another instance type, or"),
        ("auto", SERVE_12, machine(RTX), False, "no code", "use the image serve-cu13, or"),
        ("auto", MXNET, machine(H100), False, "no code", "train-torch-cu13 or train-tensorflow"),
    ],
)
def test_a_gpu_that_is_demanded_and_absent_or_there_and_unusable_is_the_users_error(
    setting: str, build: Build, there: Machine, hides: bool, found: str, way: str
) -> None:
    with pytest.raises(UnusableDeviceError) as caught:
        decide(setting, build, there, hides_gpus=hides)
    said = str(caught.value)
    assert found in said and way in said and "\n" not in said
    assert (caught.value.exit_code, caught.value.prefix) == (2, "ClientError")


def test_every_machine_of_the_table_is_decided_as_the_table_says() -> None:
    builds = {"torch": (TORCH,), "tensorflow": (TENSORFLOW,), "mxnet-cu117": (MXNET,)}
    builds["onnxruntime-gpu"] = (SERVE_12, SERVE_13)
    versions = {470: (11, 4), 535: (12, 2), 550: (12, 4), 555: (12, 5), 580: (13, 0)}
    for image in (*gpus.TRAIN_IMAGES, *gpus.SERVE_IMAGES):
        (build,) = (b for b in builds[image.library] if b.cuda and b.cuda[0] == image.cuda)
        for family in gpus.FAMILIES:
            for driver, cuda in versions.items():
                capability = divmod(family.capability, 10)
                there = machine((family.gpu, capability), cuda, f"{driver}.1")
                try:
                    is_gpu = decide("auto", build, there).is_gpu
                except UnusableDeviceError:
                    is_gpu = False
                assert is_gpu == image.works(family.capability, driver), (image, family, driver)


# ---- of this process


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("IMAGE_CLASSIFICATION_DEVICE", "IMAGE_CLASSIFICATION_BACKEND"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")


Fake = Callable[..., None]


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Fake:
    def install(there: Machine, **builds: Build) -> None:
        monkeypatch.setattr(devices, "device_files", lambda: there.device_files)
        monkeypatch.setattr(devices, "this_machine", lambda: there)
        monkeypatch.setattr(devices, "installed_build", builds.__getitem__)

    return install


def test_the_cpu_setting_hides_the_gpus_and_does_not_ask_the_driver(
    fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask() -> Machine:
        raise AssertionError("a broken driver can hang")

    fake(GOOD, torch=TORCH)
    monkeypatch.setattr(devices, "this_machine", ask)
    monkeypatch.setenv("IMAGE_CLASSIFICATION_DEVICE", "CPU ")
    assert device_of("torch").device == "cpu"
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "-1" and process.hides_gpus()


@pytest.mark.parametrize(
    ("value", "hides"), [("-1", True), ("", True), ("0", False), ("0,1", False)]
)
def test_cudas_own_variable_can_hide_all_gpus(
    fake: Fake, monkeypatch: pytest.MonkeyPatch, value: str, hides: bool
) -> None:
    fake(GOOD, torch=TORCH)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
    assert device_of("torch").device == ("cpu" if hides else "cuda")


def test_an_unknown_setting_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMAGE_CLASSIFICATION_DEVICE", "gpu")
    with pytest.raises(UserError, match="IMAGE_CLASSIFICATION_DEVICE must be auto, cpu or cuda"):
        device_of("torch")


def test_a_cuda_training_image_whose_onnx_runtime_is_for_cpus_names_the_serve_image(
    fake: Fake, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("IMAGE_CLASSIFICATION_BACKEND", "mxnet")
    fake(GOOD, onnxruntime=CPU_BUILD, mxnet=MXNET)
    with pytest.raises(UnusableDeviceError, match=r"image-classification-serve .* -cu12 or -cu13"):
        serving_device()
    monkeypatch.setenv("IMAGE_CLASSIFICATION_DEVICE", "cpu")
    assert serving_device().device == "cpu"
    assert "IMAGE_CLASSIFICATION_DEVICE=cpu: computing on the CPU" in caplog.text
    monkeypatch.setenv("IMAGE_CLASSIFICATION_DEVICE", "auto")
    for there, framework in ((NOTHING, MXNET), (GOOD, Build("MXNet", "1.9.1"))):
        fake(there, onnxruntime=CPU_BUILD, mxnet=framework)
        assert serving_device().device == "cpu"


def test_a_training_image_whose_onnx_runtime_is_for_cuda_serves_on_the_gpu(
    fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMAGE_CLASSIFICATION_BACKEND", "torch")
    fake(GOOD, onnxruntime=SERVE_13, torch=TORCH)
    assert serving_device().is_gpu


def test_a_framework_that_stays_on_the_cpu_after_all_is_an_error(fake: Fake) -> None:
    fake(GOOD, tensorflow=TENSORFLOW)
    check_engine(Decision("cpu"), "cpu", "tensorflow")
    check_engine(Decision("cuda"), "gpu:0", "tensorflow")
    for device in ("cpu", "cpu(0)"):
        with pytest.raises(UnusableDeviceError, match=r"TensorFlow 2\.21\.0 does not use it"):
            check_engine(Decision("cuda"), device, "tensorflow")


def test_the_reason_is_logged_once_as_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    log_decision(Decision("cpu"))
    log_decision(Decision("cpu", "this machine has 1 NVIDIA GPU, but …"))
    assert caplog.messages == ["This machine has 1 NVIDIA GPU, but …"]


def test_the_installed_libraries_have_a_name_and_builds_for_cpus_no_cuda() -> None:
    build = installed_build("onnxruntime")
    assert build.name.startswith("ONNX Runtime 1.")
    assert build.cuda is None or build.cuda >= (11, 0)
    assert installed_build("reference") == Build("the backend reference")
