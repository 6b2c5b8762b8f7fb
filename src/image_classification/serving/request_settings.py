"""How requests are answered, from the environment; read before anything listens."""

from dataclasses import dataclass

from image_classification.artifact import Artifact
from image_classification.contract import environment
from image_classification.contract.process import cpu_count
from image_classification.errors import RequestError, UserError
from image_classification.serving.codec import accept

_MAX_TOGETHER_MB = 100  # CreateTransformJob: MaxPayloadInMB × MaxConcurrentTransforms
_USUAL_PAYLOAD_MB = 6  # a payload no smaller than the platform's default leaves at most 16 at once
_STRATEGIES = {"SINGLE_RECORD": "SingleRecord", "MULTI_RECORD": "MultiRecord"}
"""The service's spelling → that of the SDK's local mode, which refuses every other."""

_LOCAL_MODE = "True"  # the value of SAGEMAKER_BATCH in local mode; the service writes true


@dataclass(frozen=True)
class RequestSettings:
    """The environment's settings of requests and answers.

    Attributes:
        max_content_length: bytes; a larger body is refused with 413.
        default_accept: what a request without Accept, or with `*/*`, gets; "" leaves it to the
            form of the body.
        top_k, threshold: of verbose answers whose Accept has neither.
        unknown_below: a lower score makes the predicted label of a verbose answer "unknown".
        is_placeholder: whether an image that cannot be used is answered 200 with an error line.
    """

    max_content_length: int = 16 * 2**20
    default_accept: str = ""
    top_k: int | None = None
    threshold: float | None = None
    unknown_below: float | None = None
    is_placeholder: bool = False


def read_settings() -> RequestSettings:
    """Read the settings; a UserError names a variable with an impossible value."""
    is_batch = environment.IS_BATCH.read_switch()
    default_accept = environment.DEFAULT_ACCEPT.read()
    try:
        accept.parse_accept(default_accept, accept.JSON)
    except RequestError as error:
        raise UserError(f"{environment.DEFAULT_ACCEPT.name}: {error}") from error
    top_k, threshold = environment.TOP_K.read(), environment.THRESHOLD.read()
    lowest = environment.UNKNOWN_BELOW.read()
    try:
        unknown_below = accept.parse_share("score", lowest) if lowest else None
    except RequestError as error:
        raise UserError(f"{environment.UNKNOWN_BELOW.name}: {error}") from error
    try:
        return RequestSettings(
            environment.max_content_length(),
            default_accept or (accept.JSON_LINES if is_batch else ""),
            accept.parse_top_k(top_k) if top_k else None,
            accept.parse_share("threshold", threshold) if threshold else None,
            unknown_below,
            is_batch and environment.BATCH_PLACEHOLDER.read_switch(),
        )
    except RequestError as error:
        names = f"{environment.TOP_K.name}, {environment.THRESHOLD.name}"
        raise UserError(f"{names}: {error}") from error


def execution_parameters(max_content_length: int) -> dict[str, int | str]:
    """Return the parameters for a transform job that sets none; values that it sets are kept.

    The defaults are one image per request (SINGLE_RECORD) and one request for each CPU, as far as
    payloads of up to `max_content_length` bytes fit the platform's limit for all of them together.

    Raises:
        UserError: a variable of the job has an impossible value.
    """
    chosen = environment.MAX_CONCURRENT_TRANSFORMS.read_integer(0)
    at_once = chosen or min(cpu_count(), _MAX_TOGETHER_MB // _USUAL_PAYLOAD_MB)
    largest = max(1, max_content_length >> 20)
    usual = min(largest, max(1, _MAX_TOGETHER_MB // at_once))
    payload = environment.MAX_PAYLOAD_IN_MB.read_integer(0) or usual
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


def check_settings() -> None:
    """Raise a UserError for a bad setting here, where it ends the command, and not in a worker."""
    environment.max_pixels()
    for variable in (environment.READ_TIMEOUT, environment.STARTUP_TIMEOUT):
        variable.read_integer(1)
    environment.MODEL_MEMORY.read_integer(0)
    for switch in (
        environment.ACCESS_LOG,
        environment.METRICS,
        environment.PAGE,
        environment.IS_BATCH,
        environment.BATCH_PLACEHOLDER,
        environment.IS_MULTI_MODEL,
    ):
        switch.read_switch()
    execution_parameters(read_settings().max_content_length)


def check_score(artifact: Artifact) -> None:
    """Raise a UserError if answers are to depend on a score that the artifact's model has not."""
    if read_settings().unknown_below is not None and artifact.read_index() is None:
        raise UserError(
            f"{environment.UNKNOWN_BELOW.name}: the model has no feature index of its training "
            "images: train it with feature_index=True, or unset the variable"
        )
