"""Features and maps in answers: what they are, in every form of list, and who refuses them."""

from __future__ import annotations

import base64
import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper
from PIL import Image

from image_classification.artifact import read_artifact
from image_classification.feature_index import INDEX_FILE
from image_classification.images.preprocessing import preprocess
from tests.contract.jobs import Server, run_command, running_server
from tests.contract.test_multi_model import load
from tests.golden import cases

EVERYTHING = "application/json;verbose;explain;features"


@pytest.fixture(scope="module")
def server(trained_job: Path) -> Iterator[Server]:
    with running_server(trained_job / "model") as running:
        yield running


@pytest.fixture(scope="module")
def red(small_channels: dict[str, Path]) -> bytes:
    return (small_channels["validation"] / "red" / "red000.jpg").read_bytes()


def picture(answer: dict[str, str]) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(answer["map"])))


def test_an_answer_has_the_features_that_the_head_reads_and_the_map_of_its_class(
    server: Server, red: bytes, trained_job: Path
) -> None:
    answer = server.invoke(red, Content_Type="image/jpeg", Accept=EVERYTHING).json()
    assert isinstance(answer, dict)
    expected = ["probabilities", "labels", "predicted_label", "features", "map", "box"]
    assert list(answer) == expected
    artifact = read_artifact(trained_job / "model")
    session = onnxruntime.InferenceSession(artifact.model_file)
    images = preprocess(red, artifact.preprocessing)[None]
    names = ["probabilities", "features", "class_activation_map"]
    probabilities, features, maps = session.run(names, {"images": images})
    assert answer["features"] == pytest.approx(features[0].tolist())
    weights = {
        tensor.name: numpy_helper.to_array(tensor)
        for tensor in onnx.load(artifact.model_file).graph.initializer
    }
    best = int(probabilities.argmax())
    of_class = weights["head.weight"][best]
    assert features[0] @ of_class == pytest.approx(maps[0].mean(), rel=1e-4)
    gray = picture(answer)
    assert gray.size == (64, 64) and gray.mode == "L"
    left, top, right, bottom = answer["box"]
    assert 0 <= left < right <= 1 and 0 <= top < bottom <= 1


@pytest.mark.parametrize(
    ("accept", "more"),
    [
        ("application/json;explain", ["map", "box"]),
        ("application/json;verbose;features=true", ["features"]),
        ("application/json;verbose;features=false", []),
        ("application/json;top_k=1;features", ["features"]),
        ("application/jsonlines;explain;features", ["features", "map", "box"]),
        ("application/json;verbose;score", ["score", "is_known"]),
        ("application/jsonlines;score;features", ["score", "is_known", "features"]),
    ],
)
def test_each_parameter_adds_its_own_fields(
    server: Server, red: bytes, accept: str, more: list[str]
) -> None:
    answer = server.invoke(red, Content_Type="image/jpeg", Accept=accept)
    assert list(json.loads(answer.body)) == ["probabilities", "labels", "predicted_label", *more]


def test_every_image_of_a_list_has_its_own_map_and_features(
    server: Server, red: bytes, small_channels: dict[str, Path]
) -> None:
    green = (small_channels["validation"] / "green" / "green000.jpg").read_bytes()
    images = [red, b"not an image", green]
    body = json.dumps([base64.b64encode(image).decode() for image in images]).encode()
    accept = {"Content_Type": "application/json", "Accept": EVERYTHING}
    first, failed, second = server.invoke(body, **accept).json()
    assert list(failed) == ["error"]
    alone = server.invoke(green, Content_Type="image/jpeg", Accept=EVERYTHING).json()
    assert isinstance(alone, dict) and second["map"] == alone["map"] != first["map"]
    assert second["features"] == pytest.approx(alone["features"], rel=1e-4)
    assert second["box"] == alone["box"]
    lines = server.invoke(
        body, Content_Type="application/json", Accept="application/jsonlines;explain"
    )
    assert ["map" in json.loads(line) for line in lines.body.splitlines()] == [True, False, True]


@pytest.mark.parametrize(
    ("accept", "reason"),
    [
        ("text/csv;explain", "explain: text/csv has no place for it"),
        ("application/json;explain=maybe", "explain='maybe': expected true or false"),
        ("application/json;verbose=false;features", "these need a verbose answer"),
    ],
)
def test_a_form_without_a_place_for_it_is_refused(
    server: Server, red: bytes, accept: str, reason: str
) -> None:
    answer = server.invoke(red, Content_Type="image/jpeg", Accept=accept)
    assert answer.status == 406 and reason in answer.json()["error"]  # type: ignore[call-overload]


def test_an_artifact_of_version_1_refuses_by_name_and_answers_as_ever(tmp_path: Path) -> None:
    archive = cases.GOLDEN / "artifacts" / "torch.tar.gz"
    body = sorted(cases.PICTURES.rglob("*.png"))[0].read_bytes()
    with running_server(archive) as old:
        answer = old.invoke(body, Content_Type="image/png", Accept="application/json;explain")
        assert answer.status == 406
        assert "explain: the model has format version 1" in answer.json()["error"]  # type: ignore[call-overload]
        assert old.invoke(body, Content_Type="image/png").status == 200


def test_a_model_of_a_multi_model_endpoint_answers_with_both(
    trained_job: Path, red: bytes, server: Server
) -> None:
    settings = {"SAGEMAKER_MULTI_MODEL": "true", "IMAGE_CLASSIFICATION_MODEL_MEMORY_MB": "100"}
    with running_server(Path("/nonexistent"), **settings) as several:
        assert load(several, "a", trained_job / "model").status == 200
        headers = {"Content_Type": "image/jpeg", "Accept": EVERYTHING}
        answer = several.send("POST", "/models/a/invoke", red, **headers)
        expected = server.invoke(red, **headers)
    assert answer.json() == expected.json()


def foreign() -> bytes:
    """White noise, which no training image is like."""
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    content = io.BytesIO()
    Image.fromarray(noise).save(content, "PNG")
    return content.getvalue()


def test_images_like_those_of_training_have_higher_scores_than_others(
    server: Server, small_channels: dict[str, Path]
) -> None:
    def score(image: bytes) -> tuple[float, bool]:
        accept = {"Content_Type": "application/octet-stream", "Accept": "application/json;score"}
        answer = server.invoke(image, **accept).json()
        assert isinstance(answer, dict)
        return answer["score"], answer["is_known"]

    known = [score(path.read_bytes()) for path in small_channels["validation"].rglob("*.jpg")]
    other, is_known = score(foreign())
    assert all(0 <= value <= 1 for value, _ in known)
    assert sum(is_one for _, is_one in known) >= len(known) - 2
    assert not is_known and other < min(value for value, _ in known)


def test_unknown_is_the_label_of_images_below_the_score_that_a_variable_sets(
    trained_job: Path, red: bytes
) -> None:
    headers = {"Content_Type": "application/octet-stream", "Accept": "application/json;verbose"}
    with running_server(
        trained_job / "model", IMAGE_CLASSIFICATION_UNKNOWN_BELOW="0.05"
    ) as careful:
        known, other = (careful.invoke(body, **headers).json() for body in (red, foreign()))
        assert isinstance(known, dict) and isinstance(other, dict)
        assert known["predicted_label"] == "red" and other["predicted_label"] == "unknown"
        assert list(other) == ["probabilities", "labels", "predicted_label"]
        plain = careful.invoke(foreign(), Content_Type="image/png", Accept="application/json")
        assert isinstance(plain.json(), list)


def test_a_server_that_is_to_answer_unknown_needs_a_model_with_a_score(
    trained_job: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "model"
    shutil.copytree(trained_job / "model", copy)
    (copy / INDEX_FILE).unlink()
    manifest = json.loads((copy / "manifest.json").read_text())
    del manifest["files"][INDEX_FILE]
    (copy / "manifest.json").write_text(json.dumps(manifest))
    ran = run_command(
        *("serve", "--model", str(copy), "--host", "127.0.0.1"),
        IMAGE_CLASSIFICATION_UNKNOWN_BELOW="0.05",
    )
    assert ran.returncode == 2
    assert "UNKNOWN_BELOW: the model has no feature index" in ran.stdout + ran.stderr
