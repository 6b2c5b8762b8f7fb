"""Where a job's files are, which host this is, and every environment variable that is read.

In: `/opt/ml` (or another base directory) and the environment. Out: read-only values. Nothing
outside this package reads the environment or knows these paths; `serving/server` passes one
variable on to its workers.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from image_classification.errors import UserError

_ON = ("true", "1", "yes", "on")
_OFF = ("false", "0", "no", "off")


@dataclass(frozen=True)
class Variable:
    """An environment variable: its name, what holds when it is unset, and its meaning.

    `aliases` are other names of the setting, in falling rank; SageMaker's toolkits have several.
    """

    name: str
    default: str
    meaning: str
    aliases: tuple[str, ...] = ()

    def read(self, environ: Mapping[str, str] | None = None) -> str:
        """Its value, that of the first alias that is set, or the default."""
        given = os.environ if environ is None else environ
        values = (given.get(name, "") for name in (self.name, *self.aliases))
        return next(filter(None, values), self.default)

    def read_integer(self, minimum: int, environ: Mapping[str, str] | None = None) -> int:
        """Its value as an integer ≥ `minimum`; a UserError names it otherwise."""
        text = self.read(environ)
        try:
            value = int(text)
        except ValueError:
            value = minimum - 1
        if value < minimum:
            raise UserError(
                f"environment variable {self.name} must be an integer ≥ {minimum}, got {text!r}"
            )
        return value

    def read_switch(self, environ: Mapping[str, str] | None = None) -> bool:
        """Its value as a switch, in any case; a UserError names it if it is no accepted word."""
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

BASE_DIR = Variable(
    "IMAGE_CLASSIFICATION_BASE_DIR", str(DEFAULT_BASE_DIR), "folder that stands for /opt/ml"
)
BACKEND = Variable(
    "IMAGE_CLASSIFICATION_BACKEND",
    "torch",
    "what computes where a job names no backend; each train image sets its own",
)
CPU_COUNT = Variable(
    "IMAGE_CLASSIFICATION_CPU_COUNT", "0", "CPUs to use; 0 asks the machine and its limits"
)
OMP_NUM_THREADS = Variable(
    "OMP_NUM_THREADS",
    "",
    "most threads a training step may use, whichever the backend; unset: one for each CPU",
)
MAX_PIXELS = Variable(
    "IMAGE_CLASSIFICATION_MAX_PIXELS",
    str(64 * 2**20),
    "largest image, in pixels, that is packed, trained on or answered",
)
LOG_LEVEL = Variable("SAGEMAKER_CONTAINER_LOG_LEVEL", "20", "Python's numeric logging level")
PROGRAM = Variable(
    "SAGEMAKER_PROGRAM",
    "",
    "the user's own code: a training script, run instead of our algorithm; on a server the file in "
    "the artifact's code/ whose model_fn, input_fn, predict_fn or output_fn replace ours",
)

WEIGHTS_DIR = Variable(
    "IMAGE_CLASSIFICATION_WEIGHTS_DIR",
    "/opt/image-classification/weights",
    "folder of pretrained weights baked into the image, one <backbone>.safetensors each",
)
JOB_NAME = Variable("TRAINING_JOB_NAME", "", "name of the training job, set by the platform")
SUBMIT_DIRECTORY = Variable(
    "SAGEMAKER_SUBMIT_DIRECTORY", "", "the code of that script: a folder, a tar file or s3://…"
)
MASTER_PORT = Variable(
    "MASTER_PORT",
    "29500",
    "TCP port of the first host where the hosts of a training job meet; through the next one they "
    "watch each other; where the framework needs it each process listens at one of the ports after",
)
PROCESSES = Variable(
    "IMAGE_CLASSIFICATION_PROCESSES",
    "0",
    "processes that train on each host; 0: one for each GPU",
)
LOCAL_RANK = Variable(
    "LOCAL_RANK", "", "number of this process among those of its host; set by our launcher"
)
LOCAL_WORLD_SIZE = Variable(
    "LOCAL_WORLD_SIZE", "", "how many these are; without it there is one; set by our launcher"
)

# The server takes no other port, so there is none to choose from SAGEMAKER_SAFE_PORT_RANGE.
PORT = Variable("SAGEMAKER_BIND_TO_PORT", "8080", "TCP port the server listens on")
HOST = Variable("IMAGE_CLASSIFICATION_HOST", "0.0.0.0", "address the server listens on")  # noqa: S104
MODEL_DIR = Variable(
    "IMAGE_CLASSIFICATION_MODEL_DIR", "", "artifact to serve; <base>/model when unset"
)
SERVER_THREADS = Variable(
    "SAGEMAKER_GUNICORN_THREADS",
    "0",
    "requests a process works on at once; 0: one more than its CPUs, fewer where memory is short",
)
SERVER_WORKERS = Variable(
    "SAGEMAKER_MODEL_SERVER_WORKERS",
    "1",
    "server processes, each with its own copy of the model; one on a GPU or a multi-model endpoint",
    aliases=("MODEL_SERVER_WORKERS",),
)
QUEUE_SIZE = Variable(
    "SAGEMAKER_MODEL_JOB_QUEUE_SIZE",
    "100",
    "requests that wait in a process for their turn; further ones are answered 503",
)
SERVER_TIMEOUT = Variable(
    "SAGEMAKER_MODEL_SERVER_TIMEOUT",
    "60",
    "seconds after which a waiting request is no longer computed, and one run of the model "
    "or of your own handlers is taken for hung and its process replaced",
    aliases=("SAGEMAKER_MODEL_SERVER_TIMEOUT_SECONDS", "MODEL_SERVER_TIMEOUT"),
)
STARTUP_TIMEOUT = Variable(
    "SAGEMAKER_STARTUP_TIMEOUT", "600", "seconds the model may take to load before its process ends"
)
READ_TIMEOUT = Variable(
    "IMAGE_CLASSIFICATION_READ_TIMEOUT",
    "20",
    "seconds the head of a request may take to arrive, and its body, which gets one more for each "
    "64 KiB that came",
)
MAX_CONTENT_LENGTH = Variable(
    "MAX_CONTENT_LENGTH", str(16 * 2**20), "largest request body in bytes"
)
BATCHING = Variable(
    "IMAGE_CLASSIFICATION_BATCHING",
    "auto",
    "requests that wait together run as one batch: on, off, or auto: on a GPU only",
)
MAX_BATCH_SIZE = Variable(
    "IMAGE_CLASSIFICATION_MAX_BATCH_SIZE", "32", "largest batch that waiting requests form"
)
MODEL_MEMORY = Variable(
    "IMAGE_CLASSIFICATION_MODEL_MEMORY_MB",
    "0",
    "MiB that the models of a multi-model endpoint may take together; 0: three quarters of what "
    "is free at the start",
)
ACCESS_LOG = Variable(
    "IMAGE_CLASSIFICATION_ACCESS_LOG",
    "true",
    "true: one line of JSON for each request but pings and metrics, without image content",
)
METRICS = Variable(
    "IMAGE_CLASSIFICATION_METRICS", "false", "true: GET /metrics answers in Prometheus' text format"
)
DEFAULT_ACCEPT = Variable(
    "SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT", "", "Accept when a request has none"
)
IS_BATCH = Variable(
    "SAGEMAKER_BATCH", "false", "true in a batch transform job: answers are JSON lines by default"
)
IS_MULTI_MODEL = Variable(
    "SAGEMAKER_MULTI_MODEL", "false", "true on a multi-model endpoint: models come and go over HTTP"
)
TOP_K = Variable(
    "IMAGE_CLASSIFICATION_TOP_K",
    "",
    "verbose answers hold the K most probable classes; unset: all of them; `;top_k=K` wins",
)
THRESHOLD = Variable(
    "IMAGE_CLASSIFICATION_THRESHOLD",
    "",
    "verbose answers hold classes with this probability, 0 to 1, or more; `;threshold=P` wins",
)
BATCH_PLACEHOLDER = Variable(
    "IMAGE_CLASSIFICATION_BATCH_PLACEHOLDER",
    "false",
    "true: in batch transform a file that is no usable image is answered 200 with an error line in "
    "the place of its prediction, and does not end the job",
)
PAGE = Variable(
    "IMAGE_CLASSIFICATION_PAGE",
    "true",
    "true: GET / shows a page to try the model with; the images, which SageMaker runs, set false",
)
MAX_PAYLOAD_IN_MB = Variable(
    "SAGEMAKER_MAX_PAYLOAD_IN_MB",
    "0",
    "the transform job's MaxPayloadInMB: the body limit in MiB where MAX_CONTENT_LENGTH is unset",
)
MAX_CONCURRENT_TRANSFORMS = Variable(
    "SAGEMAKER_MAX_CONCURRENT_TRANSFORMS",
    "0",
    "the transform job's setting, repeated by GET /execution-parameters; 0: one for each CPU",
)
BATCH_STRATEGY = Variable(
    "SAGEMAKER_BATCH_STRATEGY",
    "SINGLE_RECORD",
    "the transform job's setting, repeated by GET /execution-parameters",
)


def max_content_length() -> int:
    """The largest request body in bytes: the setting, else its default or the job's payload."""
    limit = MAX_CONTENT_LENGTH.read_integer(1)
    payload = MAX_PAYLOAD_IN_MB.read_integer(0) * 2**20
    return limit if os.environ.get(MAX_CONTENT_LENGTH.name) else max(limit, payload)


VARIABLES = tuple(value for value in list(globals().values()) if isinstance(value, Variable))
"""Every declaration."""
