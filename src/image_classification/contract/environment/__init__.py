"""Where a job's files are, which host this is, and every environment variable that is read.

In: `/opt/ml` (or another base directory) and the environment. Out: read-only values. Nothing
outside this package reads the environment or knows these paths; `serving/server` passes one
variable on to its workers.
"""

from __future__ import annotations

from image_classification.contract.environment.cluster import (
    Cluster,
    is_sharded_input,
    read_cluster,
    read_processing_cluster,
)
from image_classification.contract.environment.paths import JobPaths, read_json
from image_classification.contract.environment.process import (
    cpu_count,
    disable_telemetry,
    use_network_interface,
    with_python_path,
)
from image_classification.contract.environment.serving_variables import (
    ACCESS_LOG,
    BATCH_PLACEHOLDER,
    BATCH_STRATEGY,
    BATCHING,
    DEFAULT_ACCEPT,
    HOST,
    IS_BATCH,
    IS_MULTI_MODEL,
    MAX_BATCH_SIZE,
    MAX_CONCURRENT_TRANSFORMS,
    MAX_CONTENT_LENGTH,
    MAX_PAYLOAD_IN_MB,
    METRICS,
    MODEL_DIR,
    MODEL_MEMORY,
    PAGE,
    PORT,
    QUEUE_SIZE,
    READ_TIMEOUT,
    SERVER_THREADS,
    SERVER_TIMEOUT,
    SERVER_WORKERS,
    STARTUP_TIMEOUT,
    THRESHOLD,
    TOP_K,
    max_content_length,
)
from image_classification.contract.environment.training_variables import (
    BACKEND,
    BASE_DIR,
    CPU_COUNT,
    DEFAULT_BASE_DIR,
    JOB_NAME,
    LOG_LEVEL,
    MASTER_PORT,
    MAX_PIXELS,
    PROGRAM,
    SUBMIT_DIRECTORY,
    WEIGHTS_DIR,
)
from image_classification.contract.environment.variable import Variable

__all__ = [
    "ACCESS_LOG",
    "BACKEND",
    "BASE_DIR",
    "BATCHING",
    "BATCH_PLACEHOLDER",
    "BATCH_STRATEGY",
    "CPU_COUNT",
    "DEFAULT_ACCEPT",
    "DEFAULT_BASE_DIR",
    "HOST",
    "IS_BATCH",
    "IS_MULTI_MODEL",
    "JOB_NAME",
    "LOG_LEVEL",
    "MASTER_PORT",
    "MAX_BATCH_SIZE",
    "MAX_CONCURRENT_TRANSFORMS",
    "MAX_CONTENT_LENGTH",
    "MAX_PAYLOAD_IN_MB",
    "MAX_PIXELS",
    "METRICS",
    "MODEL_DIR",
    "MODEL_MEMORY",
    "PAGE",
    "PORT",
    "PROGRAM",
    "QUEUE_SIZE",
    "READ_TIMEOUT",
    "SERVER_THREADS",
    "SERVER_TIMEOUT",
    "SERVER_WORKERS",
    "STARTUP_TIMEOUT",
    "SUBMIT_DIRECTORY",
    "THRESHOLD",
    "TOP_K",
    "VARIABLES",
    "WEIGHTS_DIR",
    "Cluster",
    "JobPaths",
    "Variable",
    "cpu_count",
    "disable_telemetry",
    "is_sharded_input",
    "max_content_length",
    "read_cluster",
    "read_json",
    "read_processing_cluster",
    "use_network_interface",
    "with_python_path",
]

VARIABLES = tuple(value for value in list(globals().values()) if isinstance(value, Variable))
"""Every declaration."""
