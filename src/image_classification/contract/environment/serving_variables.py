"""The variables of the server."""

from __future__ import annotations

import os

from image_classification.contract.environment.variable import Variable

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
