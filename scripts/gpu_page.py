"""The generated page docs/gpus.md: which image computes on which of SageMaker's GPU machines."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from device_checks.catalog import CHECKS

from image_classification.contract import gpus
from image_classification.contract.gpus import Family, Image
from image_classification.devices import decide
from image_classification.devices.builds import Build
from image_classification.devices.machine import Gpu, Machine
from image_classification.errors import UnusableDeviceError

_HEAD = """\
A CUDA image computes on a machine if two things are true: its library has code for the GPU, and
the host's driver is new enough for the image's version of CUDA. SageMaker provides the driver. A
job cannot install another one, but an endpoint and a batch transform job can ask for another host
(AMI). The tables follow from these rules and the facts in `contract/gpus.py`. **Nothing on this
page was run on SageMaker**: the facts are those of the [sources](#sources).

If the default driver is too old, set an AMI from [the table](#endpoints). With a wrong AMI, an
endpoint can stay in the state `Creating` without a log. [Operations](operations.md#cuda) has
examples."""

_COMPAT = """\
"With cuda-compat" marks an image that works only if it was built with
[`COMPAT`](images.md#cuda-variants): NVIDIA's package lets data-center GPUs run with an older
driver. The image then uses it automatically. `*` marks an AMI for which no source names the
family: AWS's page about the drivers has the current list."""


def gpus_page(notice: str) -> str:
    """Return the page."""
    lines = ["# GPUs on SageMaker", "", notice, "", _HEAD, "", "## Images", "", *_images()]
    lines += ["", "## Instances", "", *_instances()]
    lines += ["", "## Decisions", "", *_decisions()]
    lines += ["", "## Endpoints", "", _COMPAT, ""]
    lines += _hosts(gpus.ENDPOINT, "InferenceAmiVersion")
    lines += ["", "## Batch transform", "", *_hosts(gpus.TRANSFORM, "TransformAmiVersion")]
    lines += ["", "## Training and processing", "", *_training()]
    lines += ["", "## Check a machine", "", *_checks()]
    lines += ["", "## Sources", "", *(f"- {text}." for text in gpus.SOURCES.values())]
    lines += [
        "- Drivers that a version of CUDA needs, and its forward compatibility: "
        "[NVIDIA, CUDA Compatibility](https://docs.nvidia.com/deploy/cuda-compatibility/).",
        "- The code in a library: of onnxruntime-gpu and mxnet-cu117, counted in the fat binaries "
        "of the built images; of TensorFlow, its `build_info`; of PyTorch, its "
        "`torch.cuda.PYTORCH_RELEASES_CODE_CC`.",
        "- The driver for TensorFlow's PTX: the newest in the built image is of version 8.5, for "
        "which [NVIDIA's history of PTX](https://docs.nvidia.com/cuda/parallel-thread-execution/) "
        "names driver 555.",
    ]
    return "\n".join(lines) + "\n"


def _images() -> list[str]:
    rows = [
        "| Image | Library | CUDA | Driver | Compute capabilities of its code |",
        "|---|---|---|---|---|",
    ]
    for image in (*gpus.TRAIN_IMAGES, *gpus.SERVE_IMAGES):
        codes = ", ".join(map(_dotted, image.codes))
        if image.ptx:
            codes += f"; PTX of {_dotted(image.ptx)}, with driver {image.ptx_driver} or later"
        rows.append(
            f"| `{image.name}` | {image.library} {image.version} | {image.cuda} "
            f"| {image.driver} or later | {codes} |"
        )
    return [
        *rows,
        "",
        "Code for a GPU also runs on later GPUs of the same major version: code for 8.6 runs on "
        "8.9. "
        "The other libraries have no code beyond 9.0 in the `-cu12` images, and none beyond 8.6 in "
        "the `-cu11` image. `train-torch-cu13` and `train-tensorflow-cu12` serve on the same "
        "machines as `serve-cu13` and `serve-cu12`, because they have the same ONNX Runtime; "
        "`train-mxnet-cu11` serves on CPUs only.",
    ]


def _instances() -> list[str]:
    rows = ["| Family | GPU | Compute capability | Images with code for it |", "|---|---|---|---|"]
    for family in gpus.FAMILIES:
        images = _names(i for i in _every() if i.computes_on(family.capability))
        rows.append(
            f"| `ml.{family.name}` | {family.gpu} | {_dotted(family.capability)} | {images} |"
        )
    left = [f"`ml.{name}`: {why}" for name, why in gpus.LEFT_OUT.items()]
    return [*rows, "", "Not listed, because no image works: " + "; ".join(left) + "."]


_DECIDING = """\
`train`, `serve`, `predict` and `evaluate` decide once what they compute on, before they read data.
`IMAGE_CLASSIFICATION_DEVICE` is `auto`, `cpu` or `cuda`. With `cpu`, threads, batches and processes
are planned for the CPU, and the GPUs are hidden from all libraries. A GPU that is there and cannot
be used is an error (exit code 2, in a training job also in the failure file), because the CPU would
be slow and you would pay for the GPU. The first row that applies decides."""

_AFTERWARDS = """\
After the decision for the GPU, it is also an error if the framework or ONNX Runtime computes on
the CPU, for example because a library is missing. ONNX Runtime never falls back to the CPU later: a
GPU that is lost [ends the server](serving.md#what-it-withstands). The driver has 20 seconds to
answer.

A server on a GPU makes [batches](serving.md#batches-on-a-gpu). It computes in float32 without TF32;
float16, NHWC, CUDA graphs and decoding in several processes are
[settings](serving.md#settings-of-a-gpu), which have not been measured on a GPU.

`train-mxnet-cu11` differs in two ways. Its ONNX Runtime is a build for CPUs, so `serve` on a
machine with a GPU is an error that names the images for serving, unless
`IMAGE_CLASSIFICATION_DEVICE=cpu` is set. And its MXNet cannot be loaded without a driver, so
`train` on a machine without a GPU is an error that names the image for CPUs. The other images train
and serve there."""

_T4 = Gpu("Tesla T4", (7, 5), 2**34)
_V100 = Gpu("Tesla V100-SXM2-16GB", (7, 0), 2**34)
_GOOD = Machine(1, "580.65.06", (13, 0), (_T4,))
_OLD = Machine(1, "535.183.01", (12, 2), (_T4,))
_FOR_CPUS = Build("ONNX Runtime", gpus.SERVE_IMAGES[1].version)
_FOR_CUDA = Build("ONNX Runtime", _FOR_CPUS.version, (13, 0), "onnxruntime-gpu")
_CASES: Sequence[tuple[Sequence[str], str, Build, Machine, bool]] = (
    (("cpu",), "no GPU", _FOR_CUDA, Machine(), False),
    (("cpu",), "a GPU", _FOR_CUDA, _OLD, False),
    (("auto", "cuda"), "no GPU", _FOR_CUDA, Machine(), False),
    (("auto", "cuda"), "a GPU, in an image for CPUs", _FOR_CPUS, _GOOD, False),
    (("auto", "cuda"), "a GPU that `CUDA_VISIBLE_DEVICES` hides", _FOR_CUDA, _GOOD, True),
    (("auto", "cuda"), "a driver that is too old for the library", _FOR_CUDA, _OLD, False),
    (
        *(("auto", "cuda"), "a driver that is missing, fails or does not answer", _FOR_CUDA),
        *(Machine(1, "580.65.06", fault="it did not answer within 20 s"), False),
    ),
    (
        *(("auto", "cuda"), "a GPU for which the library has no code", _FOR_CUDA),
        *(Machine(1, "580.65.06", (13, 0), (_V100,)), False),
    ),
    (("auto", "cuda"), "another GPU", _FOR_CUDA, _GOOD, False),
)


def _decisions() -> list[str]:
    """Return the section with the results that the program itself gives."""
    rows = ["| Setting | Machine | Result |", "|---|---|---|"]
    for settings, situation, build, machine, hides in _CASES:
        results = [_decided(setting, build, machine, hides) for setting in settings]
        for result in dict.fromkeys(results):
            names = [f"`{s}`" for s, own in zip(settings, results, strict=True) if own == result]
            rows.append(f"| {', '.join(names)} | {situation} | {result} |")
    return [*_DECIDING.splitlines(), "", *rows, "", *_AFTERWARDS.splitlines()]


def _decided(setting: str, build: Build, machine: Machine, hides: bool) -> str:
    try:
        decision = decide(setting, build, machine, hides_gpus=hides)
    except UnusableDeviceError as error:
        return f"error: {error}"
    place = "GPU" if decision.is_gpu else "CPU"
    return f"{place}; log: {decision.note}" if decision.note else place


def _hosts(job: str, parameter: str) -> list[str]:
    amis = gpus.AMIS[job]
    heads = [f"`{ami.name}`<br>driver {ami.driver}, CUDA {ami.cuda}" for ami in amis]
    lines = [
        f"The columns are the values of `{parameter}`; without it, a job gets the default.",
        "",
        "| Family | Default | " + " | ".join(heads) + " |",
        "|---|---|" + "---|" * len(amis),
    ]
    missing = []
    for family in gpus.FAMILIES:
        if not family.types(job):
            continue
        default = family.drivers.get(job)
        cells = [f"driver {default}: {_working(family, default)}" if default else "not published"]
        for ami in amis:
            mark = "" if family.name in ami.families or ami.driver == default else "*"
            cells.append(_working(family, ami.driver) + mark)
        if any(image.computes_on(family.capability) for image in gpus.SERVE_IMAGES):
            lines.append(f"| `ml.{family.name}` | " + " | ".join(cells) + " |")
        else:
            missing.append(f"`ml.{family.name}`")
    if missing:
        names = ", ".join(missing)
        lines += ["", f"Not listed, because no serving image has code for their GPUs: {names}."]
    return lines


def _working(family: Family, driver: int) -> str:
    found = []
    for image in gpus.SERVE_IMAGES:
        if image.works(family.capability, driver):
            found.append(f"`{image.name}`")
        elif image.computes_on(family.capability) and driver >= gpus.COMPAT_DRIVERS[image.cuda]:
            found.append(f"`{image.name}` with cuda-compat")
    return ", ".join(found) or "none"


def _training() -> list[str]:
    rows = ["| Family | Jobs | Image: driver that it needs |", "|---|---|---|"]
    for family in gpus.FAMILIES:
        jobs = [job for job in (gpus.TRAINING, gpus.PROCESSING) if family.types(job)]
        images = [
            f"`{image.name}`: {image.needed_driver(family.capability)}"
            for image in gpus.TRAIN_IMAGES
            if image.computes_on(family.capability)
        ]
        if jobs and images:
            rows.append(f"| `ml.{family.name}` | {', '.join(jobs)} | {', '.join(images)} |")
    return [
        "SageMaker does not publish the drivers of the hosts of training and processing jobs, and "
        "a job cannot choose one. If the driver is too old, the log names the driver found and the "
        "driver needed. AWS documents [its training container of CUDA 13.0]"
        "(https://aws.github.io/deep-learning-containers/pytorch/deployment/sagemaker/) with "
        "`ml.p5.48xlarge`; we do not know whether that relies on cuda-compat.",
        "",
        *rows,
        "",
        "`preprocess` and `im2rec` compute on CPUs. A processing job needs a GPU only for your own "
        "code.",
    ]


_CHECKING = """\
`scripts/device-check` checks a machine with a GPU, in at most ten minutes. It needs a checkout and
a Python interpreter with the packages for training and serving: PyTorch 2.11 to 2.13, and any build
of ONNX Runtime. It installs and downloads nothing. If a package is missing, it ends with an error
that names the package.

```bash
scripts/device-check                             # local-run/device-check/report.md and report.json
PYTHON=/opt/venv/bin/python scripts/device-check --photos DIR --output DIR --minutes 8
scripts/device-check --only speed waits
scripts/device-check --cpu                       # every step on the CPU with tiny sizes, as in CI
```

| Check | What it checks | What must be true |
|---|---|---|
"""

_REPORT = """\
Each check runs in processes of its own with a time limit (`--list`). One that hangs or crashes is
recorded with the end of its log, and the next one runs. Both files are written again after each
check and list the remaining ones as `not run`, so you can read them at any time. `log.txt` has all
output. The report has a row for each goal (found, bound, reached) and for each fact, such as
versions, images per second and the sizes used. Photographs are generated unless `--photos` names a
folder; the report names files in it that cannot be used. Only one run at a time can write to a
folder. Of several GPUs, the first one is checked, or those that `CUDA_VISIBLE_DEVICES` lists. With
`--cpu`, goals about speed are shown but not judged.

If ONNX Runtime is a build for CPUs, the server computes on the CPU, as in production. A second
server then runs the same batcher and HTTP code with PyTorch instead of ONNX Runtime. The exit code
is 0 if all goals are reached, 1 if a goal is missed or a check did not end, and 2 if the command
line is wrong, a package or the GPU is missing, or the report cannot be written. It has not run on a
GPU yet. Every step ran on the CPU, with PyTorch 2.11.0 for CUDA 13.0 and with 2.13.0."""


def _checks() -> list[str]:
    rows = [f"| `{check.name}` | {check.title} | {check.goal} |" for check in CHECKS]
    return [*_CHECKING.splitlines(), *rows, "", *_REPORT.splitlines()]


def _every() -> Sequence[Image]:
    return (*gpus.TRAIN_IMAGES, *gpus.SERVE_IMAGES)


def _names(images: Iterable[Image]) -> str:
    return ", ".join(f"`{image.name}`" for image in images)


def _dotted(capability: int) -> str:
    return f"{capability // 10}.{capability % 10}"
