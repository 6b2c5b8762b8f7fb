"""What a transform job asks before it sends anything: `GET /execution-parameters`."""

from __future__ import annotations

from image_classification.contract import environment
from image_classification.errors import UserError

_MAX_TOGETHER_MB = 100  # CreateTransformJob: MaxPayloadInMB × MaxConcurrentTransforms
_USUAL_PAYLOAD_MB = 6  # a payload no smaller than the platform's default leaves at most 16 at once
_STRATEGIES = {"SINGLE_RECORD": "SingleRecord", "MULTI_RECORD": "MultiRecord"}
"""The service's spelling → that of the SDK's local mode, which refuses every other."""

_LOCAL_MODE = "True"  # what local mode sets SAGEMAKER_BATCH to; the service writes true


def execution_parameters(max_content_length: int) -> dict[str, int | str]:
    """The parameters for a job that did not choose its own; what it chose comes back.

    One image a request (SINGLE_RECORD) and one request for each CPU, as far as their payloads,
    which `max_content_length` (bytes) allows, fit the platform's limit for all of them together.

    Raises:
        UserError: a variable of the job has an impossible value.
    """
    chosen = environment.MAX_CONCURRENT_TRANSFORMS.read_integer(0)
    at_once = chosen or min(environment.cpu_count(), _MAX_TOGETHER_MB // _USUAL_PAYLOAD_MB)
    largest = max(1, max_content_length >> 20)
    payload = environment.MAX_PAYLOAD_IN_MB.read_integer(0) or min(
        largest, max(1, _MAX_TOGETHER_MB // at_once)
    )
    strategy = environment.BATCH_STRATEGY.read().upper()
    if strategy not in _STRATEGIES:
        raise UserError(
            f"{environment.BATCH_STRATEGY.name}={strategy}: expected {' or '.join(_STRATEGIES)}"
        )
    is_local = environment.IS_BATCH.read() == _LOCAL_MODE
    return {
        "MaxConcurrentTransforms": at_once,
        "BatchStrategy": _STRATEGIES[strategy] if is_local else strategy,
        "MaxPayloadInMB": payload,
    }
