"""Every environment variable that the package reads or sets for a library, in one table.

Nothing else reads the environment; `serving/server` passes one variable on to its workers.
docs/environment.md is written from this table.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from image_classification.errors import UserError

_ON = ("true", "1", "yes", "on")
_OFF = ("false", "0", "no", "off")


@dataclass(frozen=True)
class Variable:
    """An environment variable: its name, its value when unset, and its meaning.

    `aliases` are other names of the same setting, which are tried in this order after `name`;
    SageMaker's toolkits have several.
    """

    name: str
    default: str
    meaning: str
    aliases: tuple[str, ...] = ()

    def read(self, environ: Mapping[str, str] | None = None) -> str:
        """Return its value, that of the first alias that is set, or the default."""
        given = os.environ if environ is None else environ
        values = (given.get(name, "") for name in (self.name, *self.aliases))
        return next(filter(None, values), self.default)

    def is_set(self) -> bool:
        """Whether this process has the variable, also with an empty value."""
        return any(name in os.environ for name in (self.name, *self.aliases))

    def read_integer(
        self, minimum: int, environ: Mapping[str, str] | None = None, *, maximum: int | None = None
    ) -> int:
        """Return its value as an integer ≥ `minimum`, ≤ `maximum`; a UserError if it is not one."""
        text = self.read(environ)
        try:
            value = int(text)
        except ValueError:
            value = minimum - 1
        if value < minimum or (maximum is not None and value > maximum):
            limit = "" if maximum is None else f" and ≤ {maximum}"
            raise UserError(
                f"environment variable {self.name} must be an integer ≥ {minimum}{limit}, "
                f"got {text!r}"
            )
        return value

    def read_switch(self, environ: Mapping[str, str] | None = None) -> bool:
        """Return its value as a switch, in any case; raise a UserError for an unknown word."""
        text = self.read(environ)
        word = text.strip().lower() or self.default
        if word in _ON:
            return True
        if word in _OFF:
            return False
        raise UserError(
            f"environment variable {self.name} must be one of {', '.join(_ON)} (on) or "
            f"{', '.join(_OFF)} (off), or unset ({self.default}), got {text!r}"
        )


DEFAULT_BASE_DIR = Path("/opt/ml")

# fmt: off
# One row per variable.

BASE_DIR = Variable("IMAGE_CLASSIFICATION_BASE_DIR", str(DEFAULT_BASE_DIR),
    "folder to use instead of /opt/ml")
BACKEND = Variable("IMAGE_CLASSIFICATION_BACKEND", "torch",
    "backend of jobs that do not set one; each training image sets its own")
CPU_COUNT = Variable("IMAGE_CLASSIFICATION_CPU_COUNT", "0",
    "CPUs to use; 0: all that the process is allowed to use")
OMP_NUM_THREADS = Variable("OMP_NUM_THREADS", "",
    "maximum number of threads of a training step, in every backend; unset: one per CPU")
MAX_PIXELS = Variable("IMAGE_CLASSIFICATION_MAX_PIXELS", str(64 << 20),
    "maximum number of pixels of an image that is packed, trained on or predicted")
PICTURE_MEMORY = Variable("IMAGE_CLASSIFICATION_PICTURE_MEMORY_MB", "0",
    "maximum memory in MiB that decoding one image can take; 0: 400 MB (381 MiB), or 40% of the "
    "container's memory if that is less")
PICTURE_SECONDS = Variable("IMAGE_CLASSIFICATION_PICTURE_SECONDS", "0",
    "maximum CPU time in seconds that decoding one image can take, proportionally more for files "
    "above 16 MiB; 0: 2 seconds")
DEVICE = Variable("IMAGE_CLASSIFICATION_DEVICE", "auto",
    "what train, serve, predict and evaluate compute on. auto: a GPU if there is one and the image "
    "is for CUDA; a GPU that cannot be used is an error. cpu: the CPU, with threads, batches and "
    "processes planned for it. cuda: a GPU, or an error")
VISIBLE_DEVICES = Variable("CUDA_VISIBLE_DEVICES", "",
    "CUDA's own list of the GPUs to use; -1 or an empty value hides all of them")
TF32 = Variable("IMAGE_CLASSIFICATION_TF32", "false",
    "true: predictions on a GPU use TF32, which is faster on Ampere and later but changes "
    "probabilities by up to 0.003; false: they agree with validation within 1e-4")
SERVING_PRECISION = Variable("IMAGE_CLASSIFICATION_SERVING_PRECISION", "float32",
    "float16: a server on a GPU computes in float16, except for the last layer, and probabilities "
    "change by up to 0.01; float32: they agree with validation within 1e-4. An error on a CPU. Not "
    "measured on a GPU")
PREFER_NHWC = Variable("IMAGE_CLASSIFICATION_PREFER_NHWC", "false",
    "true: a server on a GPU keeps the channels of a pixel together (ONNX Runtime's prefer_nhwc). "
    "An error on a CPU. Not measured on a GPU")
CUDA_GRAPHS = Variable("IMAGE_CLASSIFICATION_CUDA_GRAPHS", "false",
    "true: a server on a GPU replays a CUDA graph for each size of a batch, with one batch at a "
    "time. An error on a CPU, on a multi-model endpoint and without batches. Not measured on a GPU")
LOG_LEVEL = Variable("SAGEMAKER_CONTAINER_LOG_LEVEL", "20", "Python's numeric logging level")
LOG = Variable("IMAGE_CLASSIFICATION_LOG", "",
    "form of the log. plain: a line with date and thread id per event, as in SageMaker; terminal: "
    "bars and tables for people; json: an object per line; unset: terminal if the log is written "
    "to one, else plain. If it is unset, `train` without DATA or --output and `serve` without "
    "--model, as in the images, are plain")
LOCALE = Variable("LC_ALL", "",
    "the system's locale: if it does not name UTF-8, a terminal shows bars in ASCII",
    aliases=("LANG",))
PROGRAM = Variable("SAGEMAKER_PROGRAM", "",
    "your own code: in training, a script that runs instead of our algorithm; on a server, the "
    "file in the artifact's code/ whose model_fn, input_fn, predict_fn or output_fn replace ours")

WEIGHTS_DIR = Variable("IMAGE_CLASSIFICATION_WEIGHTS_DIR", "/opt/image-classification/weights",
    "folder of the image's pretrained weights, one <backbone>.safetensors each (.pth, .h5, "
    ".keras, .params, .tar.gz and folders of Hugging Face with that name are read too)")
JOB_NAME = Variable("TRAINING_JOB_NAME", "", "name of the training job; the platform sets it")
SUBMIT_DIRECTORY = Variable("SAGEMAKER_SUBMIT_DIRECTORY", "",
    "the code of your training script: a folder, a tar file or s3://…")
TOOLKIT_BASE_DIR = Variable("SAGEMAKER_BASE_DIR", "",
    "our launcher sets it for the package sagemaker-training, which runs your training script")
PIP_FIND_LINKS = Variable("PIP_FIND_LINKS", "",
    "pip's own list of folders with packages for your training script's requirements.txt; our "
    "launcher adds the folder wheels of the code, if it has wheels")
PIP_NO_INDEX = Variable("PIP_NO_INDEX", "",
    "pip's own switch: 1: install requirements.txt from those folders alone; our launcher sets it "
    "if the code has a folder wheels; 0: from an index too")
MASTER_PORT = Variable("MASTER_PORT", "29500",
    "TCP port of the first host where the hosts of a training job meet. They watch each other "
    "through the next port; if the framework needs it, each process listens on one of the ports "
    "after that")
PROCESSES = Variable("IMAGE_CLASSIFICATION_PROCESSES", "0",
    "training processes on each host; 0: one per GPU")
LOCAL_RANK = Variable("LOCAL_RANK", "",
    "rank of this process on its host; our launcher sets it")
LOCAL_WORLD_SIZE = Variable("LOCAL_WORLD_SIZE", "",
    "number of training processes on this host, by default one; our launcher sets it")
GLOO_INTERFACE = Variable("GLOO_SOCKET_IFNAME", "",
    "network interface to the other hosts, for Gloo; unset: that of resourceconfig.json")
NCCL_INTERFACE = Variable("NCCL_SOCKET_IFNAME", "",
    "network interface to the other hosts, for NCCL; unset: that of resourceconfig.json")
NO_TELEMETRY = Variable("ORT_DISABLE_TELEMETRY", "1",
    "1: ONNX Runtime neither writes nor sends telemetry")

# The server opens no other port, so it does not read SAGEMAKER_SAFE_PORT_RANGE.
PORT = Variable("SAGEMAKER_BIND_TO_PORT", "8080", "TCP port of the server")
HOST = Variable("IMAGE_CLASSIFICATION_HOST", "0.0.0.0", "address of the server")  # noqa: S104
MODEL_DIR = Variable("IMAGE_CLASSIFICATION_MODEL_DIR", "",
    "artifact to serve; unset: <base>/model")
SERVER_THREADS = Variable("SAGEMAKER_GUNICORN_THREADS", "0",
    "requests that a process handles at once, up to 1000; 0: one more than its CPUs, "
    "fewer with little memory")
SERVER_WORKERS = Variable("SAGEMAKER_MODEL_SERVER_WORKERS", "1",
    "server processes, up to 256, each with its own copy of the model; one on a GPU or a "
    "multi-model endpoint",
    aliases=("MODEL_SERVER_WORKERS",))
QUEUE_SIZE = Variable("SAGEMAKER_MODEL_JOB_QUEUE_SIZE", "100",
    "requests that can wait in a process; further requests get a 503")
SERVER_TIMEOUT = Variable("SAGEMAKER_MODEL_SERVER_TIMEOUT", "60",
    "seconds after which a waiting request is dropped; also, seconds after which a run of the "
    "model, a decoder or your own code counts as hung and its process is replaced",
    aliases=("SAGEMAKER_MODEL_SERVER_TIMEOUT_SECONDS", "MODEL_SERVER_TIMEOUT"))
COMPUTE_TIMEOUT = Variable("IMAGE_CLASSIFICATION_COMPUTE_TIMEOUT", "600",
    "maximum time in seconds that a request with many images can compute, from its first turn on; "
    "a request with far more images than can be computed in that time is refused at once")
STARTUP_TIMEOUT = Variable("SAGEMAKER_STARTUP_TIMEOUT", "600",
    "seconds to load the model; after this time the process ends")
GRACEFUL_TIMEOUT = Variable("IMAGE_CLASSIFICATION_GRACEFUL_TIMEOUT", "25",
    "seconds after SIGTERM in which the server answers the requests that it has accepted; "
    "SageMaker kills the container after 30")
READ_TIMEOUT = Variable("IMAGE_CLASSIFICATION_READ_TIMEOUT", "20",
    "seconds for the head of a request to arrive; also, the maximum time that its body can pause "
    "or fall behind 64 KiB/s")
MAX_CONTENT_LENGTH = Variable("MAX_CONTENT_LENGTH", str(16 << 20),
    "largest request body in bytes")
BATCHING = Variable("IMAGE_CLASSIFICATION_BATCHING", "auto",
    "on: run waiting requests together as one batch; off: run each request alone; auto: on for a "
    "GPU, off for a CPU")
MAX_BATCH_SIZE = Variable("IMAGE_CLASSIFICATION_MAX_BATCH_SIZE", "32",
    "largest batch of waiting requests, up to 1000")
DECODERS = Variable("IMAGE_CLASSIFICATION_DECODING_PROCESSES", "0",
    "processes in which each server process decodes all images, up to 256; 0: it decodes plain "
    "JPEGs itself, and all other images in up to one process per CPU")
MODEL_MEMORY = Variable("IMAGE_CLASSIFICATION_MODEL_MEMORY_MB", "0",
    "MiB for all models of a multi-model endpoint together; 0: the memory that requests do "
    "not need, at most three quarters of the memory that is free at the start")
ACCESS_LOG = Variable("IMAGE_CLASSIFICATION_ACCESS_LOG", "true",
    "true: log one line of JSON per request, without image content; pings and metrics are not "
    "logged")
METRICS = Variable("IMAGE_CLASSIFICATION_METRICS", "false",
    "true: GET /metrics answers in Prometheus' text format")
DEFAULT_ACCEPT = Variable("SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT", "",
    "Accept value for requests without one")
IS_BATCH = Variable("SAGEMAKER_BATCH", "false",
    "true in a batch transform job: answers are JSON lines by default")
IS_MULTI_MODEL = Variable("SAGEMAKER_MULTI_MODEL", "false",
    "true on a multi-model endpoint: models are loaded and unloaded over HTTP")
TOP_K = Variable("IMAGE_CLASSIFICATION_TOP_K", "",
    "verbose answers contain the K most probable classes; unset: all of them; `;top_k=K` in "
    "Accept overrides it")
THRESHOLD = Variable("IMAGE_CLASSIFICATION_THRESHOLD", "",
    "verbose answers contain the classes with at least this probability, 0 to 1; `;threshold=P` "
    "in Accept overrides it")
UNKNOWN_BELOW = Variable("IMAGE_CLASSIFICATION_UNKNOWN_BELOW", "",
    "in verbose JSON answers, the predicted_label is unknown for images with a lower score, 0 to "
    "1; 0.05 affects about 5% of images like those of training; unset: never")
BLAS_THREADS = Variable("OPENBLAS_NUM_THREADS", "1",
    "threads of NumPy's matrix products in a server, which computes with one request per CPU")
BATCH_PLACEHOLDER = Variable("IMAGE_CLASSIFICATION_BATCH_PLACEHOLDER", "false",
    "true: in batch transform, an unusable file gets a 200 with an error line instead of its "
    "prediction and does not end the job; a list without any usable image also gets a 200")
PAGE = Variable("IMAGE_CLASSIFICATION_PAGE", "true",
    "true: GET / shows a page to try the model with; the images for SageMaker set false")
MAX_PAYLOAD_IN_MB = Variable("SAGEMAKER_MAX_PAYLOAD_IN_MB", "0",
    "the transform job's MaxPayloadInMB: the body limit in MiB if MAX_CONTENT_LENGTH is unset")
MAX_CONCURRENT_TRANSFORMS = Variable("SAGEMAKER_MAX_CONCURRENT_TRANSFORMS", "0",
    "the transform job's setting, which GET /execution-parameters returns; 0: one per CPU")
BATCH_STRATEGY = Variable("SAGEMAKER_BATCH_STRATEGY", "SINGLE_RECORD",
    "the transform job's setting, which GET /execution-parameters repeats")

# fmt: on

MOST_FOR_A_PICTURE = 1_000_000
"""The most megabytes or seconds: the system cannot set a limit of any size on a process."""

VARIABLES = tuple(value for value in list(globals().values()) if isinstance(value, Variable))
"""All rows of the table."""


def is_utf8_locale() -> bool:
    """Return whether the user's locale, as the system names it, has the encoding UTF-8.

    Python itself takes UTF-8 for the locales C and POSIX.
    """
    return "utf8" in LOCALE.read().lower().replace("-", "")


def max_pixels() -> int:
    """Return the most pixels of an image; check the other limits of an image too (UserError)."""
    for variable in (PICTURE_MEMORY, PICTURE_SECONDS):
        # Later, the error would make each image an unusable sample.
        variable.read_integer(0, maximum=MOST_FOR_A_PICTURE)
    return MAX_PIXELS.read_integer(1)


def max_content_length() -> int:
    """Return the largest body in bytes: the setting, else its default or the job's payload."""
    limit = MAX_CONTENT_LENGTH.read_integer(1)
    payload = MAX_PAYLOAD_IN_MB.read_integer(0) << 20
    return limit if os.environ.get(MAX_CONTENT_LENGTH.name) else max(limit, payload)
