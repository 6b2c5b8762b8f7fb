"""Where a job's files are, which host this is, and every environment variable that is read.

In: `/opt/ml` (or another base directory) and the environment. Out: read-only values. No other
module reads the environment or knows these paths; `serving/server` passes one variable on to its
workers.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from image_classification.errors import UserError

DEFAULT_BASE_DIR = Path("/opt/ml")


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
        """True for true, 1, yes and on in any case."""
        return self.read(environ).strip().lower() in {"true", "1", "yes", "on"}


BASE_DIR = Variable(
    "IMAGE_CLASSIFICATION_BASE_DIR", str(DEFAULT_BASE_DIR), "folder that stands for /opt/ml"
)
WEIGHTS_DIR = Variable(
    "IMAGE_CLASSIFICATION_WEIGHTS_DIR",
    "/opt/image-classification/weights",
    "folder of pretrained weights baked into the image, one <backbone>.safetensors each",
)
CPU_COUNT = Variable(
    "IMAGE_CLASSIFICATION_CPU_COUNT", "0", "CPUs to use; 0 asks the machine and its limits"
)
MAX_PIXELS = Variable(
    "IMAGE_CLASSIFICATION_MAX_PIXELS",
    str(64 * 2**20),
    "largest image, in pixels, that is trained on or answered",
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
    "requests a process works on at once; 0: one for each CPU, fewer where memory is short",
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
    "seconds after which a waiting request is no longer computed, and one run of the model is "
    "taken for hung and its process replaced",
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
LOG_LEVEL = Variable("SAGEMAKER_CONTAINER_LOG_LEVEL", "20", "Python's numeric logging level")
JOB_NAME = Variable("TRAINING_JOB_NAME", "", "name of the training job, set by the platform")
PROGRAM = Variable(
    "SAGEMAKER_PROGRAM",
    "",
    "the user's own code: a training script, run instead of our algorithm; on a server the file in "
    "the artifact's code/ whose model_fn, input_fn, predict_fn or output_fn replace ours",
)
SUBMIT_DIRECTORY = Variable(
    "SAGEMAKER_SUBMIT_DIRECTORY", "", "the code of that script: a folder, a tar file or s3://…"
)

MASTER_PORT = Variable(
    "MASTER_PORT",
    "29500",
    "TCP port of the first host where the hosts of a training job meet; through the next one they "
    "watch each other",
)
PROCESSES = Variable(
    "IMAGE_CLASSIFICATION_PROCESSES",
    "0",
    "processes that train on each host, 1 on a backend other than torch; 0: one for each GPU",
)
LOCAL_RANK = Variable(
    "LOCAL_RANK", "", "number of this process among those of its host; set by our launcher"
)
LOCAL_WORLD_SIZE = Variable(
    "LOCAL_WORLD_SIZE", "", "how many these are; without it there is one; set by our launcher"
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

VARIABLES = tuple(value for value in list(globals().values()) if isinstance(value, Variable))


@dataclass(frozen=True)
class JobPaths:
    """The files of a training job.

    Attributes:
        base: the tree's root, `/opt/ml` on SageMaker.
        channel_folders: channel name → folder; empty: those of the tree.
        artifact: where the artifact and other results go; None: the tree's model and output/data.
    """

    base: Path = DEFAULT_BASE_DIR
    channel_folders: Mapping[str, Path] = field(default_factory=dict)
    artifact: Path | None = None

    @property
    def config(self) -> Path:
        """hyperparameters.json, inputdataconfig.json, resourceconfig.json."""
        return self.base / "input" / "config"

    @property
    def processing_config(self) -> Path:
        """resourceconfig.json and processingjobconfig.json of a Processing job."""
        return self.base / "config"

    @property
    def data(self) -> Path:
        """One folder per channel."""
        return self.base / "input" / "data"

    @property
    def model(self) -> Path:
        """The artifact; becomes model.tar.gz."""
        return self.artifact or self.base / "model"

    @property
    def output_data(self) -> Path:
        """Other results; becomes output.tar.gz."""
        return self.artifact or self.base / "output" / "data"

    @property
    def tensorboard(self) -> Path:
        """Event files; the platform copies them while the job runs."""
        return (self.artifact or self.base / "output") / "tensorboard"

    @property
    def failure(self) -> Path:
        """The reason of a failure, read by the platform after a non-zero exit."""
        return self.base / "output" / "failure"

    @property
    def checkpoints(self) -> Path | None:
        """checkpointconfig.json's path, else <base>/checkpoints if it exists, else None."""
        configured = read_json(self.config / "checkpointconfig.json").get("LocalPath")
        if configured:
            return Path(str(configured))
        default = self.base / "checkpoints"
        return default if default.is_dir() else None


@dataclass(frozen=True)
class Cluster:
    """The hosts of a job (resourceconfig.json); the first of the sorted names leads."""

    current_host: str = "localhost"
    hosts: tuple[str, ...] = field(default=("localhost",))
    network_interface: str = ""


def read_cluster(paths: JobPaths) -> Cluster:
    """The cluster from resourceconfig.json; one host without it. Unknown keys are ignored."""
    return _cluster_of(read_json(paths.config / "resourceconfig.json"))


def read_processing_cluster(paths: JobPaths) -> Cluster:
    """The cluster of a Processing job, whose configuration is in `<base>/config`.

    Without it, that of a training job that runs our program.
    """
    config = read_json(paths.processing_config / "resourceconfig.json")
    return _cluster_of(config) if config else read_cluster(paths)


def is_sharded_input(paths: JobPaths, folder: Path) -> bool:
    """Whether a Processing job gives each host its own part of `folder` (ShardedByS3Key)."""
    inputs = read_json(paths.processing_config / "processingjobconfig.json").get("ProcessingInputs")
    for entry in inputs if isinstance(inputs, list) else []:
        source = entry.get("S3Input") if isinstance(entry, dict) else None
        if not isinstance(source, dict) or source.get("S3DataDistributionType") != "ShardedByS3Key":
            continue
        local = Path(str(source.get("LocalPath", "")))
        if folder == local or local in folder.parents or folder in local.parents:
            return True
    return False


def _cluster_of(config: Mapping[str, Any]) -> Cluster:
    current = str(config.get("current_host", "localhost"))
    hosts = tuple(sorted(str(host) for host in config.get("hosts") or [current]))
    if current not in hosts:
        raise UserError(
            f"resourceconfig.json: current_host {current!r} is not among hosts {list(hosts)}"
        )
    return Cluster(current, hosts, str(config.get("network_interface_name") or ""))


def max_content_length() -> int:
    """The largest request body in bytes: the setting, else its default or the job's payload."""
    limit = MAX_CONTENT_LENGTH.read_integer(1)
    payload = MAX_PAYLOAD_IN_MB.read_integer(0) * 2**20
    return limit if os.environ.get(MAX_CONTENT_LENGTH.name) else max(limit, payload)


def disable_telemetry() -> None:
    """Keep ONNX Runtime, whose wheels have telemetry switched on, from writing and sending its own.

    It reads the variable when it is loaded, so this comes before its import. A user's choice wins.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")


def with_python_path(folder: Path, added: Mapping[str, str]) -> dict[str, str]:
    """This process's environment with `added`, and with `folder` first on PYTHONPATH."""
    path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH", "")]))
    return {**os.environ, **added, "PYTHONPATH": path}


def use_network_interface(name: str) -> None:
    """Have the frameworks' libraries reach the other hosts through it, unless the user chose one.

    They read these variables when they are loaded, so this comes before the framework's import.
    """
    for variable in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        os.environ.setdefault(variable, name)


def local_place() -> tuple[int, int] | None:
    """(number, count) of this process among those that train on this host; None if it is alone."""
    if not (LOCAL_RANK.read() and LOCAL_WORLD_SIZE.read()):
        return None
    return LOCAL_RANK.read_integer(0), LOCAL_WORLD_SIZE.read_integer(1)


def of_local_processes(count: int) -> list[dict[str, str]]:
    """What the environment of each process of this host has more: its place, and its CPUs."""
    cpus = str(max(1, cpu_count() // count))
    return [
        {
            LOCAL_RANK.name: str(number),
            LOCAL_WORLD_SIZE.name: str(count),
            CPU_COUNT.name: cpus,
        }
        for number in range(count)
    ]


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in `path`, or {} if there is no such file; a UserError if it is not one."""
    try:
        content = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: expected a JSON object, got {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected a JSON object, got {type(content).__name__}")
    return content


def cpu_count() -> int:
    """CPUs this process may use, ≥ 1: the setting, else the least of affinity and cgroup quota."""
    setting = CPU_COUNT.read_integer(0)
    if setting:
        return setting
    if hasattr(os, "sched_getaffinity"):  # Linux only
        return max(1, min(len(os.sched_getaffinity(0)), _cgroup_cpus()))
    return os.cpu_count() or 1


def _cgroup_cpus() -> int:
    """CPUs allowed by the container's quota (cgroup v2, then v1); a large number without one."""
    unlimited = 1_000_000
    root = Path("/sys/fs/cgroup")
    try:
        quota, period = (root / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            quota = (root / "cpu/cpu.cfs_quota_us").read_text().strip()
            period = (root / "cpu/cpu.cfs_period_us").read_text().strip()
        except OSError:
            return unlimited
    if not quota.isdigit() or not period.isdigit():
        return unlimited
    return max(1, -(-int(quota) // int(period)))
