"""Whether this process computes on a GPU: decided once, before any data is read, never silently.

In: what the user set, what the library was built for (`builds`), what is there (`machine`). Out: a
decision, or an error with the way out. docs/gpus.md has the decisions as a table.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

from image_classification.contract import environment, gpus, process
from image_classification.contract.gpus import Image
from image_classification.devices.builds import Build, installed_build
from image_classification.devices.machine import Gpu, Machine, device_files, this_machine
from image_classification.errors import UnusableDeviceError, UserError

CPU_SETTING = f"{environment.DEVICE.name}=cpu"

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Decision:
    """Where this process computes.

    Attributes:
        device: cuda or cpu.
        note: why, in one line for the log; None where nobody can be surprised.
    """

    device: str
    note: str | None = None

    @property
    def is_gpu(self) -> bool:
        """Whether it computes on a GPU."""
        return self.device == "cuda"


def decide(setting: str, build: Build, machine: Machine, *, hides_gpus: bool = False) -> Decision:
    """Decide where to compute. One rule per statement; the first that applies decides.

    Args:
        setting: auto, cpu or cuda.
        build: of the library that computes.
        machine: what is there.
        hides_gpus: whether CUDA_VISIBLE_DEVICES names no GPU.

    Raises:
        UnusableDeviceError: a GPU is demanded and absent, or present and unusable.
    """
    there = _there(machine)
    if setting == "cpu":
        note = f"{there}, and {CPU_SETTING}: computing on the CPU"
        return Decision("cpu", note if machine.device_files else None)
    if setting == "cuda" and not machine.device_files:
        raise UnusableDeviceError(
            f"{environment.DEVICE.name}=cuda, but this machine has no NVIDIA GPU (/dev/nvidia0): "
            "use an instance type with one (docker run needs --gpus all), or set "
            f"{environment.DEVICE.name}=auto"
        )
    if not machine.device_files:
        return Decision("cpu")
    if build.cuda is None and setting == "cuda":
        raise UnusableDeviceError(
            f"{environment.DEVICE.name}=cuda, but {build.name} is a build for CPUs: use an image "
            f"whose tag ends in -cu11, -cu12 or -cu13, or set {environment.DEVICE.name}=auto"
        )
    if build.cuda is None:
        return Decision(
            "cpu", f"{there}, but {build.name} is a build for CPUs: computing on the CPU"
        )
    hiding = environment.VISIBLE_DEVICES.name
    if hides_gpus and setting == "cuda":
        raise UnusableDeviceError(
            f"{environment.DEVICE.name}=cuda, but {hiding} hides all GPUs: unset {hiding}, or set "
            f"{environment.DEVICE.name}=auto"
        )
    if hides_gpus:
        return Decision("cpu", f"{there}, but {hiding} hides them: computing on the CPU")
    image = _image_of(build, build.cuda)
    _check_driver(build, build.cuda, machine, image)
    _check_fault(build, build.cuda, machine)
    if image is not None:
        _check_capability(build, image, machine)
    return Decision("cuda")


def _image_of(build: Build, cuda: tuple[int, int]) -> Image | None:
    """Return the image that has this build; None for a build of somebody else.

    Which GPUs another build knows is not known here: the library itself refuses the others.
    """
    return next(
        (
            image
            for image in (*gpus.TRAIN_IMAGES, *gpus.SERVE_IMAGES)
            if image.library == build.package
            and image.version == build.version.partition("+")[0]
            and image.cuda == cuda[0]
        ),
        None,
    )


def _check_driver(
    build: Build, needed: tuple[int, int], machine: Machine, image: Image | None
) -> None:
    """Raise an UnusableDeviceError if the driver is known to be too old.

    A driver serves all minor versions of its CUDA. But it compiles PTX, which a library has for
    GPUs that are newer than itself, only of its own minor version and earlier ones.
    """
    if machine.cuda is None:
        return
    ptx_driver = _ptx_driver(image, machine)
    if machine.cuda >= (needed if ptx_driver else (needed[0], 0)):
        return
    driver = ptx_driver or _DRIVERS.get(needed[0])
    found = f"its driver {machine.driver}" if machine.driver else "its driver"
    raise UnusableDeviceError(
        f"{_there(machine)}, but {found} (CUDA {_dotted(machine.cuda)}) is too old: "
        f"{_needs(build, needed, driver)}; {_way_to_driver(build, needed[0], machine)}, use "
        f"another instance type, or set {CPU_SETTING} to compute on the CPU"
    )


def _ptx_driver(image: Image | None, machine: Machine) -> int:
    """Return the driver that compiles PTX for a GPU here; 0 if the library needs no PTX."""
    if image is None:
        return 0
    capabilities = [_number(gpu) for gpu in machine.gpus if image.computes_on(_number(gpu))]
    driver = max(map(image.needed_driver, capabilities), default=0)
    return driver if driver > image.driver else 0


def _check_fault(build: Build, needed: tuple[int, int], machine: Machine) -> None:
    """Raise an UnusableDeviceError unless the driver works."""
    if machine.fault is None:
        return
    found = f"its driver {machine.driver}" if machine.driver else "its driver"
    raise UnusableDeviceError(
        f"{_there(machine)}, but {found} cannot be used: {machine.fault}. "
        f"{_needs(build, needed, _DRIVERS.get(needed[0]))}; start the container with --gpus all "
        "and NVIDIA_DRIVER_CAPABILITIES=compute,utility, use another instance, or set "
        f"{CPU_SETTING} to compute on the CPU"
    )


def _check_capability(build: Build, image: Image, machine: Machine) -> None:
    """Raise an UnusableDeviceError if the library has no code for a GPU that it would use."""
    for gpu in machine.gpus:
        if image.computes_on(_number(gpu)):
            continue
        others = [other.name for other in _images_like(build) if other.computes_on(_number(gpu))]
        way = f"use the image {' or '.join(others)}" if others else "use another instance type"
        raise UnusableDeviceError(
            f"this machine has the GPU {gpu.name} of compute capability "
            f"{_dotted(gpu.capability)}, for which {build.name} in the image {image.name} has no "
            f"code: {way}, or set {CPU_SETTING} to compute on the CPU"
        )


_DRIVERS = {image.cuda: image.driver for image in (*gpus.TRAIN_IMAGES, *gpus.SERVE_IMAGES)}


def _needs(build: Build, cuda: tuple[int, int], driver: int | None) -> str:
    release = f"driver {driver} or later" if driver else "a driver with that"
    return f"{build.name} is built for CUDA {_dotted(cuda)}, which needs {release}"


def _way_to_driver(build: Build, cuda: int, machine: Machine) -> str:
    """Return what to set on SageMaker for a newer driver, or which image does with this one."""
    newest = machine.cuda[0] if machine.cuda else 0
    ways = [
        f"use the image {image.name}"
        for image in _images_like(build)
        if image.cuda <= newest and all(image.computes_on(_number(gpu)) for gpu in machine.gpus)
    ]
    if build.package == _SERVES:
        endpoint, transform = gpus.ADVISED.get(cuda, (None, None))
        if transform:
            ways.insert(0, f"set TransformAmiVersion={transform} in a batch transform job")
        if endpoint:
            ways.insert(0, f"set InferenceAmiVersion={endpoint} on an endpoint")
    return ", ".join(ways) or "SageMaker chooses the driver of a training job"


def _images_like(build: Build) -> tuple[Image, ...]:
    return gpus.SERVE_IMAGES if build.package == _SERVES else gpus.TRAIN_IMAGES


_SERVES = "onnxruntime-gpu"


def _number(gpu: Gpu) -> int:
    return gpu.capability[0] * 10 + gpu.capability[1]


def _there(machine: Machine) -> str:
    names = sorted({gpu.name for gpu in machine.gpus if gpu.name})
    products = f" ({', '.join(names)})" if names else ""
    plural = "" if machine.device_files == 1 else "s"
    return f"this machine has {machine.device_files} NVIDIA GPU{plural}{products}"


def _dotted(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"


def device_setting() -> str:
    """Return the user's setting: auto, cpu or cuda; a UserError for another word."""
    setting = environment.DEVICE.read().strip().lower()
    if setting not in {"auto", "cpu", "cuda"}:
        raise UserError(
            f"environment variable {environment.DEVICE.name} must be auto, cpu or cuda, got "
            f"{setting!r}"
        )
    return setting


def device_of(library: str) -> Decision:
    """Decide where the installed library computes on this machine.

    If the user wants the CPU, the GPUs are hidden from whatever this process loads and starts.

    Args:
        library: torch, tensorflow, mxnet, onnxruntime, or another one, which has no CUDA.

    Raises:
        UserError: see `decide`; an UnusableDeviceError, or an unknown setting.
    """
    setting, build = device_setting(), installed_build(library)
    is_asked = setting != "cpu" and build.cuda is not None and not process.hides_gpus()
    machine = this_machine() if is_asked else Machine(device_files())
    decision = decide(setting, build, machine, hides_gpus=process.hides_gpus())
    if setting == "cpu":
        process.hide_gpus()
    return decision


def log_decision(decision: Decision) -> None:
    """Log why this process computes where it does, if somebody could be surprised."""
    if decision.note is not None:
        _logger.warning("%s", decision.note[0].upper() + decision.note[1:])


def serving_device() -> Decision:
    """Decide where ONNX Runtime computes, and log a decision that can surprise.

    Raises:
        UnusableDeviceError: see `decide`; also, a training image with CUDA serves on a GPU machine:
            its ONNX Runtime is a build for CPUs, and a GPU would be paid for nothing.
    """
    decision = device_of("onnxruntime")
    runtime = installed_build("onnxruntime")
    is_paid = device_setting() != "cpu" and bool(device_files()) and runtime.cuda is None
    if is_paid and environment.BACKEND.is_set():  # a training image
        if installed_build(environment.BACKEND.read()).cuda is not None:
            raise UnusableDeviceError(
                f"this machine has an NVIDIA GPU, but this is a training image: its {runtime.name} "
                "is a build for CPUs. Use the image image-classification-serve with a tag ending "
                f"in -cu12 or -cu13, a CPU instance, or set {CPU_SETTING} to compute on the CPU"
            )
    log_decision(decision)
    return decision


def check_engine(decision: Decision, device: str, library: str) -> None:
    """Raise an UnusableDeviceError if a framework computes on the CPU after all.

    Args:
        decision: of this process.
        device: where the framework's engine computes.
        library: of the framework.
    """
    if decision.is_gpu and device.startswith("cpu"):
        raise UnusableDeviceError(
            f"{_there(this_machine())}, and its driver works, but {installed_build(library).name} "
            "does not use it: the lines above have its reason, for example a CUDA library that is "
            f"missing; use one of our images, or set {CPU_SETTING} to compute on the CPU"
        )
