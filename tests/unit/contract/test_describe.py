"""`describe` prints a request that is valid by SageMaker's own service model."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("botocore", reason="botocore is not installed")

import botocore.session
from botocore.validate import ParamValidator

from image_classification.cli import main
from image_classification.contract import gpus
from image_classification.contract.algorithm import algorithm_request
from image_classification.contract.hyperparameter import parse_all
from image_classification.contract.interface import INTERFACES
from image_classification.contract.presets import PRESETS


@pytest.fixture(scope="module")
def shape() -> Any:
    """The input shape of CreateAlgorithm."""
    model = botocore.session.get_session().get_service_model("sagemaker")
    return model.operation_model("CreateAlgorithm").input_shape


def described(capsys: pytest.CaptureFixture[str], *options: str) -> dict[str, Any]:
    assert main(["describe", *options]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def beyond(value: Any, shape: Any, path: str = "") -> Iterator[str]:
    """What botocore leaves to the service: enumerations and patterns."""
    if shape.type_name == "structure":
        for name, member in value.items():
            yield from beyond(member, shape.members[name], f"{path}.{name}")
    elif shape.type_name == "list":
        for number, member in enumerate(value):
            yield from beyond(member, shape.member, f"{path}[{number}]")
    elif shape.type_name == "string":
        pattern = shape.metadata.get("pattern", "")
        if shape.enum and value not in shape.enum:
            yield f"{path}={value!r} is not one of {shape.enum}"
        elif "\\p{" not in pattern and not re.fullmatch(pattern or ".*", value, re.DOTALL):
            yield f"{path}={value!r} is not {pattern}"
        if len(value) > shape.metadata.get("max", 10**6):
            yield f"{path} is too long"


@pytest.mark.parametrize("interface", sorted(INTERFACES))
def test_the_request_is_valid_by_the_service_model(
    capsys: pytest.CaptureFixture[str], shape: Any, interface: str
) -> None:
    request = described(capsys, "--interface", interface)
    report = ParamValidator().validate(request, shape)
    assert not report.has_errors(), report.generate_report()
    assert list(beyond(request, shape)) == []
    specification = request["TrainingSpecification"]
    assert len(specification["SupportedHyperParameters"]) <= 100
    assert len(specification["TrainingChannels"]) <= 8
    assert len(specification["MetricDefinitions"]) <= 40


def test_the_request_has_the_given_names_and_images(capsys: pytest.CaptureFixture[str]) -> None:
    request = described(capsys, "--image", "a/b:1", "--serve-image", "a/c:1", "--name", "mine")
    assert request["AlgorithmName"] == "mine"
    assert request["TrainingSpecification"]["TrainingImage"] == "a/b:1"
    assert request["InferenceSpecification"]["Containers"] == [{"Image": "a/c:1"}]


GPU_IMAGES = [("torch-cu13", "cu13"), ("torch-cu13", "cu12"), ("mxnet-cu11", "cu12")]


@pytest.mark.parametrize(("train", "serve"), [*GPU_IMAGES, ("tensorflow-cu12", "tensorflow-cu12")])
def test_the_request_for_cuda_images_is_valid_and_names_the_amis_with_their_driver(
    capsys: pytest.CaptureFixture[str], shape: Any, train: str, serve: str
) -> None:
    request = described(capsys, "--image", f"r/t:1-{train}", "--serve-image", f"r/s:1-{serve}")
    assert not ParamValidator().validate(request, shape).has_errors()
    assert list(beyond(request, shape)) == []
    inference, transform = gpus.ADVISED[int(serve[-2:])]
    said = request["AlgorithmDescription"]
    assert f"InferenceAmiVersion={inference}" in said
    assert (f"TransformAmiVersion={transform}" in said) == (transform is not None)


def gpu_families(names: list[str]) -> set[str]:
    return {name.split(".")[1] for name in names if re.match(r"ml\.[gp]\d", name)}


def test_the_request_lists_no_gpu_on_which_an_image_cannot_compute(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert "p3" not in gpu_families(training_types(described(capsys)))
    new = described(capsys, "--image", "r/t:1-torch-cu13", "--serve-image", "r/s:1-cu13")
    old = described(capsys, "--image", "r/t:1-mxnet-cu11", "--serve-image", "r/s:1-cu12")
    assert "p3" not in gpu_families(training_types(new))
    assert gpu_families(training_types(old)) == {"p3", "p3dn", "g4dn", "g5", "p4d", "p4de"}
    serving = new["InferenceSpecification"]
    assert gpu_families(serving["SupportedTransformInstanceTypes"]) == set()  # no driver 580
    assert "g5" in gpu_families(serving["SupportedRealtimeInferenceInstanceTypes"])
    assert "p6-b200" not in gpu_families(serving["SupportedRealtimeInferenceInstanceTypes"])
    serving = old["InferenceSpecification"]
    assert gpu_families(serving["SupportedTransformInstanceTypes"]) == {"g4dn", "g5", "g6", "g6e"}
    only_cpu = described(capsys, "--serve-image", "r/t:1-mxnet-cu11")["InferenceSpecification"]
    assert gpu_families(only_cpu["SupportedRealtimeInferenceInstanceTypes"]) == set()


def training_types(request: dict[str, Any]) -> list[str]:
    return list(request["TrainingSpecification"]["SupportedTrainingInstanceTypes"])


def hyperparameters(interface: str) -> dict[str, dict[str, Any]]:
    request = algorithm_request(INTERFACES[interface], "x", "i", "i", [], [])
    rows = request["TrainingSpecification"]["SupportedHyperParameters"]
    return {row["Name"]: row for row in rows}


def test_the_request_has_the_declared_ranges_defaults_and_tunable_flags() -> None:
    rows = hyperparameters("mxnet")
    assert rows["beta_1"] | {"Description": ""} == {
        "Name": "beta_1",
        "Description": "",
        "Type": "Continuous",
        "Range": {"ContinuousParameterRangeSpecification": {"MinValue": "0", "MaxValue": "1"}},
        "IsTunable": True,
        "IsRequired": False,
        "DefaultValue": "0.9",
    }
    assert rows["optimizer"]["Range"]["CategoricalParameterRangeSpecification"]["Values"] == [
        *("sgd", "adam", "rmsprop", "nag")
    ]
    assert not rows["epochs"]["IsTunable"]
    assert rows["epochs"]["Range"]["IntegerParameterRangeSpecification"]["MinValue"] == "1"


def filled_in(interface: str) -> dict[str, str]:
    """What the service adds to every job of the algorithm that leaves it out."""
    rows = hyperparameters(interface).items()
    return {name: row["DefaultValue"] for name, row in rows if "DefaultValue" in row}


@pytest.mark.parametrize("interface", sorted(INTERFACES))
def test_a_job_with_the_defaults_that_the_service_fills_in_is_legal(interface: str) -> None:
    declared = INTERFACES[interface].hyperparameters
    assert parse_all(declared, filled_in(interface)) == parse_all(declared, {})


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("interface", sorted(INTERFACES))
def test_defaults_that_the_service_fills_in_do_not_change_a_preset(
    interface: str, preset: str
) -> None:
    parse = INTERFACES[interface].parse
    assert parse(filled_in(interface) | {"preset": preset}) == parse({"preset": preset})


def test_a_default_that_the_service_must_not_fill_in_is_in_the_description() -> None:
    row = hyperparameters("mxnet")["num_layers"]
    assert "DefaultValue" not in row and row["Description"].endswith("Default: 152.")


def test_every_spelling_is_declared_and_only_one_of_them_can_have_a_default() -> None:
    rows = hyperparameters("tensorflow")
    for name in ("train_only_top_layer", "train_only_on_top_layer", "train_only_on_top", "eps"):
        assert "DefaultValue" not in rows[name]
