"""The CreateAlgorithm request: the declarations of an interface in the form of SageMaker's API.

Shapes, limits and enumerations are those of the service model in botocore
(`sagemaker/2017-07-24/service-2.json`); a test validates the request against it.
"""

from collections.abc import Sequence
from typing import Any

from image_classification.contract.channels import Channel
from image_classification.contract.hyperparameter import Hyperparameter
from image_classification.contract.interface import Interface
from image_classification.contract.presets import depended_on

TRAINING_INSTANCES = (
    *(f"ml.{kind}.xlarge" for kind in ("m5", "c5", "m6i", "c6i", "g4dn", "g5", "g6")),
    *(f"ml.{kind}.2xlarge" for kind in ("m5", "c5", "m6i", "c6i", "g4dn", "g5", "g6", "p3")),
    *(f"ml.{kind}.4xlarge" for kind in ("m5", "c5", "m6i", "c6i", "g4dn", "g5", "g6")),
    *(f"ml.{kind}.12xlarge" for kind in ("g4dn", "g5", "g6")),
    *("ml.p3.8xlarge", "ml.p3.16xlarge", "ml.p4d.24xlarge", "ml.p5.48xlarge"),
)
SERVING_INSTANCES = (
    *(f"ml.{kind}.xlarge" for kind in ("m5", "c5", "m6i", "c6i", "g4dn", "g5")),
    *(f"ml.{kind}.2xlarge" for kind in ("m5", "c5", "m6i", "c6i", "g4dn", "g5")),
    *("ml.m5.large", "ml.m6i.large", "ml.c6i.large"),
)

_LARGEST_INTEGER = 2**31 - 1
_LARGEST_NUMBER = 1e9
_BOOLEANS = ["True", "true", "1", "False", "false", "0"]
"""The spellings of the SDKs; the service refuses other values before the image sees them."""


def algorithm_request(
    interface: Interface,
    name: str,
    training_image: str,
    serving_image: str,
    content_types: Sequence[str],
    response_types: Sequence[str],
) -> dict[str, Any]:
    """Return the request for `aws sagemaker create-algorithm --cli-input-json`.

    Args:
        interface: the interface of the algorithm.
        name: the name of the algorithm.
        training_image, serving_image: URIs of the images.
        content_types, response_types: those of requests to the server and of its answers.
    """
    return {
        "AlgorithmName": name,
        "AlgorithmDescription": f"Image classification, interface {interface.name}",
        "TrainingSpecification": {
            "TrainingImage": training_image,
            "SupportedHyperParameters": _hyperparameters(interface),
            "SupportedTrainingInstanceTypes": list(TRAINING_INSTANCES),
            "SupportsDistributedTraining": True,
            "MetricDefinitions": [
                {"Name": metric.name, "Regex": metric.regex} for metric in interface.metrics
            ],
            "TrainingChannels": [_channel(c) for c in interface.channels if c.name != "code"],
            "SupportedTuningJobObjectiveMetrics": [
                {"Type": metric.direction, "MetricName": metric.name}
                for metric in interface.metrics
            ],
        },
        "InferenceSpecification": {
            "Containers": [{"Image": serving_image}],
            "SupportedTransformInstanceTypes": list(SERVING_INSTANCES),
            "SupportedRealtimeInferenceInstanceTypes": list(SERVING_INSTANCES),
            "SupportedContentTypes": list(content_types),
            "SupportedResponseMIMETypes": list(response_types),
        },
    }


def _channel(channel: Channel) -> dict[str, Any]:
    is_pipe = "Pipe" in channel.input_modes  # in Pipe mode the platform decompresses
    return {
        "Name": channel.name,
        "Description": channel.meaning,
        "IsRequired": channel.required,
        "SupportedContentTypes": list(channel.content_types) or ["application/x-image"],
        "SupportedCompressionTypes": ["None", "Gzip"] if is_pipe else ["None"],
        "SupportedInputModes": list(channel.input_modes),
    }


def _hyperparameters(interface: Interface) -> list[dict[str, Any]]:
    """Return an entry for every spelling, because the service refuses undeclared names."""
    return [
        _specification(entry, name, interface)
        for entry in interface.hyperparameters
        for name in entry.names
    ]


def _specification(entry: Hyperparameter[Any], name: str, interface: Interface) -> dict[str, Any]:
    kind, legal = _range(entry)
    specification: dict[str, Any] = {
        "Name": name,
        "Description": entry.meaning,
        "Type": kind,
        "IsTunable": bool(entry.tuned),
        "IsRequired": False,
    }
    if legal:
        specification["Range"] = legal
    if entry.default is None:
        return specification
    # The service fills in defaults, and the job cannot tell them from the user's values: with
    # several spellings it would get two values, and a preset would yield to all of them.
    if entry.aliases or entry.name in depended_on(interface.name):
        specification["Description"] += f" Default: {entry.default}."
    else:
        specification["DefaultValue"] = str(entry.default)
    return specification


def _range(entry: Hyperparameter[Any]) -> tuple[str, dict[str, Any]]:
    if entry.kind == "text":
        return "FreeText", {}
    if entry.kind in {"boolean", "categorical"}:
        values = _BOOLEANS if entry.kind == "boolean" else list(entry.only or entry.choices)
        return "Categorical", {"CategoricalParameterRangeSpecification": {"Values": values}}
    # The service has only closed bounds: it accepts an open bound itself, and the job refuses it.
    lows, highs = (entry.at_least, entry.above), (entry.at_most, entry.below)
    low = next((bound for bound in lows if bound is not None), -_LARGEST_INTEGER)
    high = next((bound for bound in highs if bound is not None), None)
    if entry.kind == "integer":
        largest = _LARGEST_INTEGER if high is None else min(high, _LARGEST_INTEGER)
        bounds = (str(int(low)), str(int(largest)))
        kind = "Integer"
    else:
        bounds = (f"{low:g}", f"{_LARGEST_NUMBER if high is None else high:g}")
        kind = "Continuous"
    legal = {"MinValue": bounds[0], "MaxValue": bounds[1]}
    return kind, {f"{kind}ParameterRangeSpecification": legal}
