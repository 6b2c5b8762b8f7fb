"""docs/operations.md is correct: its code parses, its metrics are ours, its commands exist."""

from __future__ import annotations

import ast
import json
import re

import pytest

from image_classification.contract import gpus
from image_classification.contract.interface import INTERFACES
from image_classification.contract.metrics import MXNET_METRICS
from tests.conftest import REPOSITORY

PAGE = (REPOSITORY / "docs" / "operations.md").read_text("utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture(scope="module")
def calls() -> dict[str, dict[str, ast.expr]]:
    """Name of a called function → the keyword arguments of its first call in the blocks."""
    found: dict[str, dict[str, ast.expr]] = {}
    for node in ast.walk(ast.parse("\n".join(blocks("python")))):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func).rpartition(".")[2]
            found.setdefault(name, {k.arg or "": k.value for k in node.keywords})
    return found


def test_its_metric_definitions_are_those_of_the_contract() -> None:
    (text,) = re.findall(r"^metrics = (\[.*?\])\n", "\n".join(blocks("python")), re.S | re.M)
    definitions = {entry["Name"]: entry["Regex"] for entry in ast.literal_eval(text)}
    expected = {metric.name: metric.regex for metric in MXNET_METRICS}
    assert definitions
    assert definitions.items() <= expected.items()


def test_its_job_and_its_tuned_names_are_accepted(calls: dict[str, dict[str, ast.expr]]) -> None:
    job = ast.literal_eval(calls["Estimator"]["hyperparameters"])
    ranges = calls["HyperparameterTuner"]["hyperparameter_ranges"]
    assert isinstance(ranges, ast.Dict)
    tuned = dict.fromkeys((ast.literal_eval(key) for key in ranges.keys if key), "")
    INTERFACES["mxnet"].parse({name: str(value) for name, value in job.items()})
    INTERFACES["mxnet"].parse(tuned)  # an empty value is unset: names alone are checked


def test_its_job_for_gpus_is_accepted_and_runs_where_its_image_works() -> None:
    (text,) = re.findall(r"^gpu_estimator = (Estimator\(.*?^\))", PAGE, re.S | re.M)
    call = ast.parse(text, mode="eval").body
    assert isinstance(call, ast.Call)
    found = {keyword.arg: keyword.value for keyword in call.keywords}
    job = ast.literal_eval(found["hyperparameters"])
    INTERFACES["mxnet"].parse({name: str(value) for name, value in job.items()})
    image = gpus.image_of(ast.unparse(call.args[0]).strip("f'"), gpus.TRAIN_IMAGES)
    assert image
    instance = ast.literal_eval(found["instance_type"])
    assert instance in gpus.instance_types(image, gpus.TRAINING)
    assert ast.unparse(found["use_spot_instances"]) == "True"


def test_its_endpoint_and_transform_job_on_gpus_name_the_ami_of_their_image() -> None:
    section = PAGE.partition("\n## CUDA\n")[2].partition("\n## ")[0]
    (tag,) = re.findall(r'image-classification-serve(:\S+?)"', section)
    image = gpus.image_of(tag, gpus.SERVE_IMAGES)
    assert image
    inference, transform = gpus.ADVISED[image.cuda]
    assert f'inference_ami_version="{inference}"' in section.partition("0.1.0-cu13")[0]
    assert f'"TransformAmiVersion": "{transform}"' in section
    assert f'inference_ami_version="{gpus.ADVISED[13][0]}"' in section
    assert {"ml.g5.xlarge"} == set(re.findall(r'"(ml\.[^"]+)"', section))
    for job in (gpus.ENDPOINT, gpus.TRANSFORM):
        assert "ml.g5.xlarge" in gpus.instance_types(image, job)


def test_its_transform_job_is_a_valid_request() -> None:
    pytest.importorskip("botocore", reason="botocore is not installed")
    import botocore.session
    from botocore.validate import ParamValidator

    (text,) = re.findall(r"create_transform_job(\(.*?^\))", PAGE, re.S | re.M)
    call = ast.parse(f"f{text}", mode="eval").body
    assert isinstance(call, ast.Call)
    request = {
        str(keyword.arg): "model" if keyword.arg == "ModelName" else ast.literal_eval(keyword.value)
        for keyword in call.keywords
    }
    model = botocore.session.get_session().get_service_model("sagemaker")
    shape = model.operation_model("CreateTransformJob").input_shape
    report = ParamValidator().validate(request, shape)
    assert not report.has_errors(), report.generate_report()


def test_its_policy_is_json_and_every_target_and_script_it_names_is_there() -> None:
    for text in blocks("json"):
        assert json.loads(text)["Statement"]
    makefile = (REPOSITORY / "Makefile").read_text("utf-8")
    commands = re.findall(r"\bmake ((?:[a-z][a-z-]+ ?)+)", "\n".join(blocks("bash")))
    commands += re.findall(r"`make ([a-z -]+)`", PAGE)
    targets = {target for command in commands for target in command.split()}
    assert {"build", "push", "demo-docker"} <= targets
    assert [target for target in sorted(targets) if f"\n{target}: ##" not in makefile] == []
    for script in re.findall(r"\bscripts/[a-z-]+", PAGE):
        assert (REPOSITORY / script).is_file(), script
