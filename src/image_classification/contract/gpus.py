"""SageMaker's GPU machines: their GPUs, the drivers that a job can have, and the images that work.

`SOURCES` has the source of each fact. A test compares the instance types and the names of AMIs with
the service model in botocore, and the images with the locks. `scripts/docs` writes docs/gpus.md.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

SOURCES: Mapping[str, str] = {
    "model": "SageMaker's service model in botocore 1.44.5: instance types, AMIs and their drivers",
    "drivers": "[AWS, GPU drivers of inference]"
    "(https://docs.aws.amazon.com/sagemaker/latest/dg/inference-gpu-drivers.html), versions of "
    "2025 and 2026, read on 2026-12-01: default drivers. The newer version no longer names `ml.p3`",
    "model-2025": "The service model of February 2025, which still listed the families of an AMI "
    "([sagemaker-core, pull 245](https://github.com/aws/sagemaker-core/pull/245))",
    "autogluon": "The AMIs that AutoGluon Cloud sets for images of CUDA 13 "
    "([pull 270](https://github.com/autogluon/autogluon-cloud/pull/270))",
    "examples": "Public examples with `ml.g4dn`, `ml.g5`, `ml.g7e` and `ml.p6-b200` endpoints, "
    "read on 2026-12-01. They show that somebody named the AMI for the family, not that AWS "
    "supports it",
}


@dataclass(frozen=True)
class Image:
    """A CUDA image, and the library in it that computes.

    Attributes:
        name: the last part of the names of its lock and of its tag, such as serve-cu12.
        cuda: major version of CUDA.
        driver: the first branch of drivers that has this version of CUDA.
        library, version: what computes, as the lock pins it.
        codes: compute capabilities (75 is 7.5) for which the library has machine code.
        ptx: the one for which it has PTX, which the driver compiles; 0 for none.
        ptx_driver: the first branch of drivers that can compile it.
        newest: the newest GPUs for which the other libraries in the image have code.
    """

    name: str
    cuda: int
    driver: int
    library: str
    version: str
    codes: tuple[int, ...]
    newest: int
    ptx: int = 0
    ptx_driver: int = 0

    def computes_on(self, capability: int) -> bool:
        """Whether it has code for a GPU: machine code runs on later GPUs of its major version."""
        return capability <= self.newest and (self._has(capability) or capability == self.ptx)

    def needed_driver(self, capability: int) -> int:
        """Return the first branch of drivers with which it computes on such a GPU."""
        return self.driver if self._has(capability) else max(self.driver, self.ptx_driver)

    def works(self, capability: int, driver: int) -> bool:
        """Whether it computes on such a GPU with such a driver, without cuda-compat."""
        return self.computes_on(capability) and driver >= self.needed_driver(capability)

    def _has(self, capability: int) -> bool:
        major = capability // 10
        return any(code // 10 == major and code <= capability for code in self.codes)


# Read from what the locks install: of onnxruntime-gpu and mxnet-cu117 in their fat binaries, of
# TensorFlow in its build_info, of PyTorch in torch.cuda.PYTORCH_RELEASES_CODE_CC. A test fails if a
# lock has another version: read the codes again before you change the row.
TRAIN_IMAGES = (
    Image("train-torch-cu13", 13, 580, "torch", "2.13.0", (75, 80, 86, 90, 100, 120), 120),
    Image("train-tensorflow-cu12", 12, 525, "tensorflow", "2.21.0", (60, 70, 80, 89), 90, 90, 555),
    Image("train-mxnet-cu11", 11, 450, "mxnet-cu117", "1.9.1", (50, 60, 70, 80, 86), 86),
)
SERVE_IMAGES = (
    Image("serve-cu12", 12, 525, "onnxruntime-gpu", "1.26.0", (60, 70, 75, 80, 86, 90), 90),
    Image("serve-cu13", 13, 580, "onnxruntime-gpu", "1.31.1", (75, 80, 86, 89, 90, 120), 120),
)

COMPAT_DRIVERS: Mapping[int, int] = {12: 470, 13: 535}
"""CUDA's version → the oldest driver with which NVIDIA's package cuda-compat is reported to work.

For 12: NVIDIA's containers of CUDA 12.9 (aws/deep-learning-containers, issue 4990). For 13: dstack,
pull 4007, and what AutoGluon Cloud does. Forward compatibility is for data-center GPUs only.
"""


@dataclass(frozen=True)
class Family:
    """The instance types of one GPU.

    Attributes:
        name: such as g5.
        gpu, capability: its GPU and the compute capability of that; 75 is 7.5.
        sizes: the sizes of a job kind, for those that have the family.
        drivers: the driver of a job kind that names no AMI, where one is published.
    """

    name: str
    gpu: str
    capability: int
    sizes: Mapping[str, tuple[str, ...]]
    drivers: Mapping[str, int] = field(default_factory=dict)

    def types(self, job: str) -> tuple[str, ...]:
        """Return its instance types for a job kind."""
        return tuple(f"ml.{self.name}.{size}" for size in self.sizes.get(job, ()))


TRAINING, PROCESSING, ENDPOINT, TRANSFORM = "training", "processing", "endpoint", "transform"
_LARGE = tuple(f"{count}xlarge" for count in (2, 4, 8, 12, 24, 48))
_ALL = ("xlarge", *_LARGE[:4], "16xlarge", *_LARGE[4:])
_T4 = tuple(size for size in _ALL if size not in {"24xlarge", "48xlarge"})
_V100 = ("2xlarge", "8xlarge", "16xlarge")
_NOT_SERVED = (TRAINING,)
_SERVED = (TRAINING, ENDPOINT)
_NO_BATCH = (TRAINING, PROCESSING, ENDPOINT)
_EVERY = (TRAINING, PROCESSING, ENDPOINT, TRANSFORM)


def _of(sizes: tuple[str, ...], jobs: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    return dict.fromkeys(jobs, sizes)


_OLD = {ENDPOINT: 470, TRANSFORM: 470}
FAMILIES = (
    Family("p3", "V100", 70, _of(_V100, _EVERY), _OLD),
    Family("p3dn", "V100", 70, _of(("24xlarge",), _NOT_SERVED)),
    Family("g4dn", "T4", 75, _of(_T4, _EVERY), _OLD),
    Family("p4d", "A100", 80, _of(("24xlarge",), _SERVED), {ENDPOINT: 470}),
    Family("p4de", "A100", 80, _of(("24xlarge",), _SERVED), {ENDPOINT: 470}),
    Family("g5", "A10G", 86, _of(_ALL, _EVERY), _OLD),
    Family("g6", "L4", 89, _of(_ALL, _EVERY), {ENDPOINT: 535}),
    Family("g6e", "L40S", 89, _of(_ALL, _EVERY)),
    Family(
        *("p5", "H100", 90),
        _of(("4xlarge", "48xlarge"), _SERVED) | {PROCESSING: ("4xlarge",)},
        {ENDPOINT: 535},
    ),
    Family("p5e", "H200", 90, _of(("48xlarge",), _SERVED), {ENDPOINT: 550}),
    Family("p5en", "H200", 90, _of(("48xlarge",), _SERVED), {ENDPOINT: 550}),
    Family("p6-b200", "B200", 100, _of(("48xlarge",), _SERVED)),
    Family("p6-b300", "B300", 103, _of(("48xlarge",), _SERVED)),
    Family("g7", "RTX PRO 4500 Blackwell", 120, _of(_LARGE, _NO_BATCH)),
    Family("g7e", "RTX PRO 6000 Blackwell", 120, _of(_LARGE, _NO_BATCH)),
)
LEFT_OUT: Mapping[str, str] = {
    "p2": "its GPU, K80, has compute capability 3.7, for which no image has code",
    "p6e-gb200": "its CPU is an ARM, and the images are for x86-64",
}
"""Families in SageMaker's service model that cannot run any image → why."""


@dataclass(frozen=True)
class Ami:
    """A host that a job can ask for.

    Attributes:
        name: the value of InferenceAmiVersion or TransformAmiVersion.
        driver: branch of its driver.
        cuda: the newest CUDA of that driver.
        families: those with which a source names it.
        sources: keys of SOURCES.
    """

    name: str
    driver: int
    cuda: str
    families: tuple[str, ...]
    sources: tuple[str, ...]


INFERENCE_AMIS = (
    Ami(
        *("al2-ami-sagemaker-inference-gpu-2", 535, "12.2"),
        ("p3", "g4dn", "p4d", "p4de", "g5", "g6", "p5"),
        ("model", "model-2025"),
    ),
    Ami("al2-ami-sagemaker-inference-gpu-2-1", 535, "12.2", (), ("model",)),
    Ami("al2-ami-sagemaker-inference-gpu-3-1", 550, "12.4", ("g4dn", "g5"), ("model", "examples")),
    Ami(
        *("al2023-ami-sagemaker-inference-gpu-4-1", 580, "13.0"),
        ("g4dn", "p4d", "p4de", "g5", "g6", "g6e", "p5", "p5e", "p5en", "p6-b200", "g7e"),
        ("model", "autogluon", "examples"),
    ),
)
TRANSFORM_AMIS = (
    Ami("al2-ami-sagemaker-batch-gpu-470", 470, "11.4", ("g4dn", "g5"), ("model", "drivers")),
    Ami(
        *("al2-ami-sagemaker-batch-gpu-535", 535, "12.2"),
        ("g4dn", "g5", "g6", "g6e"),
        ("model", "autogluon"),
    ),
)
AMIS: Mapping[str, tuple[Ami, ...]] = {
    TRAINING: (),
    PROCESSING: (),
    ENDPOINT: INFERENCE_AMIS,
    TRANSFORM: TRANSFORM_AMIS,
}

ADVISED: Mapping[int, tuple[str, str | None]] = {
    12: ("al2-ami-sagemaker-inference-gpu-2", "al2-ami-sagemaker-batch-gpu-535"),
    13: ("al2023-ami-sagemaker-inference-gpu-4-1", None),
}
"""CUDA's version of a serving image → InferenceAmiVersion, TransformAmiVersion (None: too old)."""


def cuda_of(uri: str) -> int:
    """Return the CUDA version that the tag of an image ends in (-cu12; 0.1 has -cuda), or 0."""
    tag = uri.partition("@")[0].rpartition("/")[2].partition(":")[2]
    if found := re.search(r"-cu(\d\d)$", tag):
        return int(found.group(1))
    if not tag.endswith("-cuda"):
        return 0
    backends = {"-torch-": 13, "-tensorflow-": 12, "-mxnet-": 11}
    return next((cuda for name, cuda in backends.items() if name in tag), 12)


def image_of(uri: str, images: tuple[Image, ...]) -> Image | None:
    """Return the image with the CUDA of a URI; None if its tag names none, or one of no image.

    An image for training also serves: it has the ONNX Runtime of the serving image with its CUDA.
    """
    return next((image for image in images if image.cuda == cuda_of(uri)), None)


def instance_types(image: Image, job: str) -> list[str]:
    """Return the GPU instance types on which a job of this kind can compute with an image.

    A training host's driver is not published: there the GPU alone decides. An endpoint or a
    transform job needs the driver too, by default or with the AMI of `ADVISED`.
    """
    return [
        name
        for family in FAMILIES
        if image.computes_on(family.capability)
        and (not AMIS[job] or _has_driver(image, family, job))
        for name in family.types(job)
    ]


def _has_driver(image: Image, family: Family, job: str) -> bool:
    advised = ADVISED.get(image.cuda, ())
    amis = [ami for ami in AMIS[job] if ami.name in advised and family.name in ami.families]
    drivers = [family.drivers.get(job, 0), *(ami.driver for ami in amis)]
    return any(image.works(family.capability, driver) for driver in drivers)
