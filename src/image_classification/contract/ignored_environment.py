"""Environment variables that the platform and its toolkits set and that change nothing here.

They are accepted, because a model moved from another image brings them along.
"""

from __future__ import annotations

IGNORED = {
    "SAGEMAKER_MODEL_SERVER_VMARGS": "options of a Java server; this one is Python",
    "SAGEMAKER_NUM_MODEL_WORKERS": "workers for each model of a multi-model endpoint; all models "
    "share the server's threads",
    "SAGEMAKER_MAX_REQUEST_SIZE": "the XGBoost image's body limit on multi-model endpoints; "
    "MAX_CONTENT_LENGTH is this server's",
    "SAGEMAKER_SAFE_PORT_RANGE": "ports for helpers; the server opens none but its own",
    "SAGEMAKER_BASE_DIR": "the toolkits' root folder; IMAGE_CLASSIFICATION_BASE_DIR is ours",
    "SAGEMAKER_ENV": "says that the platform runs the container; nothing depends on it",
    "ENDPOINT_SERVER_TIMEOUT": "set by the TensorFlow built-in beside "
    "SAGEMAKER_MODEL_SERVER_TIMEOUT, which counts",
    "MODEL_CACHE_ROOT": "set by the TensorFlow built-in; nothing is cached on disk",
}
"""Name → why it has no effect."""
