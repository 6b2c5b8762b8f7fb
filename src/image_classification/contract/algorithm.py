"""The CreateAlgorithm request: the declarations of an interface in the form of SageMaker's API.

Shapes, limits and enumerations are those of the service model in botocore
(`sagemaker/2017-07-24/service-2.json`); a test validates the request against it.
"""

from collections.abc import Sequence
from typing import Any

from image_classification.contract import gpus
from image_classification.contract.channels import Channel
from image_classification.contract.hyperparameter import Hyperparameter
from image_classification.contract.interface import Interface
from image_classification.contract.presets import depended_on

_CPU_KINDS = ("m5", "c5", "m6i", "c6i")
TRAINING_INSTANCES = tuple(f"ml.{k}.{s}xlarge" for s in ("", "2", "4") for k in _CPU_KINDS)
SERVING_INSTANCES = (
    *(f"ml.{kind}.{size}xlarge" for size in ("", "2") for kind in _CPU_KINDS),
    *("ml.m5.large", "ml.m6i.large", "ml.c6i.large"),
)
# For images whose tag does not say which CUDA they have: instances whose GPUs most images know.
_USUAL_GPUS = {
    gpus.TRAINING: (
        *(f"ml.{k}.{s}xlarge" for s in ("", "2", "4", "12") for k in ("g4dn", "g5", "g6")),
        *("ml.p4d.24xlarge", "ml.p5.48xlarge"),
    ),
    gpus.ENDPOINT: tuple(f"ml.{k}.{s}xlarge" for s in ("", "2") for k in ("g4dn", "g5")),
    gpus.TRANSFORM: tuple(f"ml.{k}.{s}xlarge" for s in ("", "2") for k in ("g4dn", "g5")),
}

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
        training_image, serving_image: URIs of the images. If a tag ends in -cu11, -cu12 or -cu13,
            the instance types are those on which this version of CUDA can compute, and the
            description names the AMIs that have its driver.
        content_types, response_types: those of requests to the server and of its answers.
    """
    return {
        "AlgorithmName": name,
        "AlgorithmDescription": f"Image classification, interface {interface.name}"
        + _drivers(serving_image),
        "TrainingSpecification": {
            "TrainingImage": training_image,
            "SupportedHyperParameters": _hyperparameters(interface),
            "SupportedTrainingInstanceTypes": [
                *TRAINING_INSTANCES,
                *_gpu_instances(training_image, gpus.TRAIN_IMAGES, gpus.TRAINING),
            ],
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
            "SupportedTransformInstanceTypes": [
                *SERVING_INSTANCES,
                *_gpu_instances(serving_image, gpus.SERVE_IMAGES, gpus.TRANSFORM),
            ],
            "SupportedRealtimeInferenceInstanceTypes": [
                *SERVING_INSTANCES,
                *_gpu_instances(serving_image, gpus.SERVE_IMAGES, gpus.ENDPOINT),
            ],
            "SupportedContentTypes": list(content_types),
            "SupportedResponseMIMETypes": list(response_types),
        },
    }


def _gpu_instances(uri: str, images: tuple[gpus.Image, ...], job: str) -> Sequence[str]:
    """Return the GPU instance types for an image; none for one whose CUDA is not in `images`."""
    if not gpus.cuda_of(uri):
        return _USUAL_GPUS[job]
    image = gpus.image_of(uri, images)
    return gpus.instance_types(image, job) if image else ()


def _drivers(uri: str) -> str:
    """Return what an endpoint and a batch transform job with GPUs have to ask for."""
    image = gpus.image_of(uri, gpus.SERVE_IMAGES)
    if image is None:
        return ""
    inference, transform = gpus.ADVISED[image.cuda]
    batch = (
        f"for batch transform, set TransformAmiVersion={transform}"
        if transform
        else f"batch transform has none for CUDA {image.cuda}"
    )
    return (
        f". GPUs need NVIDIA driver {image.driver} or later. If an endpoint has an older one by "
        f"default, set InferenceAmiVersion={inference}; {batch}"
    )


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
