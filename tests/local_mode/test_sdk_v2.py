"""SageMaker's SDK v2 in local mode on `file://` channels, from fit to delete_endpoint."""

from __future__ import annotations

import base64
import importlib.util
import json
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import pytest
from sagemaker.deserializers import JSONDeserializer
from sagemaker.estimator import Estimator
from sagemaker.serializers import IdentitySerializer

from tests.local_mode.conftest import Images
from tests.local_mode.jobs import (
    HYPERPARAMETERS,
    PARAMETER_LINES,
    best_accuracy,
    member_text,
    members,
)
from tests.local_mode.sdk_v2 import estimator, file_uris, fit, local_session

LABELS = ["blue", "green", "red"]


@dataclass
class Fitted:
    """A finished job: its estimator, log and archives."""

    estimator: Estimator
    log: str
    output: Path


@pytest.fixture(scope="module")
def fitted(
    tmp_path_factory: pytest.TempPathFactory,
    folders: dict[str, Path],
    train_image: str,
    free_port: int,
) -> Fitted:
    root = tmp_path_factory.mktemp("fitted")
    session = local_session(root / "root", free_port)
    job = estimator(session, train_image, f"file://{root}")
    return Fitted(job, fit(job, file_uris(folders)), root)


def test_the_sdks_environment_has_no_deep_learning_framework() -> None:
    for name in ("torch", "tensorflow", "mxnet", "image_classification"):
        assert importlib.util.find_spec(name) is None, f"{name} is installed beside the SDK"


def test_fit_trains_on_class_folders_with_hyperparameters_of_each_type(fitted: Fitted) -> None:
    for line in PARAMETER_LINES:
        assert line in fitted.log
    assert "Validation-accuracy=" in fitted.log
    assert fitted.estimator.model_data == f"file://{fitted.output}/model.tar.gz"
    assert {"manifest.json", "labels.json", "model.onnx"} <= members(fitted.output / "model.tar.gz")


def test_an_endpoint_with_the_serve_image_names_the_class_of_each_image(
    fitted: Fitted,
    serve_image: str,
    folders: dict[str, Path],
    labeled_images: Images,
    free_port: int,
) -> None:
    predictor = fitted.estimator.deploy(
        1,
        "local",
        image_uri=serve_image,
        serializer=IdentitySerializer("image/jpeg"),
        deserializer=JSONDeserializer(),
        wait=False,
    )
    try:
        for label, image in labeled_images(folders["validation"]):
            probabilities = predictor.predict(image)
            answer = predictor.predict(image, initial_args={"Accept": "application/json;verbose"})
            assert len(probabilities) == len(LABELS)
            assert LABELS[probabilities.index(max(probabilities))] == label
            assert answer["labels"] == LABELS and answer["predicted_label"] == label
            assert answer["probabilities"] == pytest.approx(probabilities)
    finally:
        predictor.delete_endpoint()
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(f"http://127.0.0.1:{free_port}/ping", timeout=5)


def test_a_transformer_predicts_each_file_in_a_folder(
    fitted: Fitted, folders: dict[str, Path], tmp_path: Path
) -> None:
    """With the train image, which can serve too; and without its default strategy, MultiRecord,
    under which local mode joins images as if they were text."""
    images = folders["validation"] / "red"
    transformer = fitted.estimator.transformer(
        1,
        "local",
        strategy="SingleRecord",
        accept="application/json;verbose",
        output_path=f"file://{tmp_path}",
    )
    transformer.transform(f"file://{images}", content_type="image/jpeg", logs=False)
    answers = {path.name: json.loads(path.read_text()) for path in tmp_path.glob("*.out")}
    assert set(answers) == {f"{path.name}.out" for path in images.iterdir()}
    assert {answer["predicted_label"] for answer in answers.values()} == {"red"}


@pytest.mark.parametrize(
    ("strategy", "split_type"), [(None, None), ("MultiRecord", "Line"), ("SingleRecord", "Line")]
)
def test_a_transformer_sends_several_images_per_request(
    fitted: Fitted,
    serve_image: str,
    folders: dict[str, Path],
    labeled_images: Images,
    tmp_path: Path,
    strategy: str | None,
    split_type: str | None,
) -> None:
    """JSON lines of base64, one of which is not an image, with the server's default strategy."""
    images = labeled_images(folders["validation"])
    (tmp_path / "input").mkdir()
    texts = [base64.b64encode(image).decode() for _, image in images]
    lines = [json.dumps({"image": text}) for text in (*texts, "bm8gaW1hZ2U=")]
    (tmp_path / "input" / "images.jsonl").write_text("".join(f"{line}\n" for line in lines))
    model = fitted.estimator.create_model(image_uri=serve_image)
    transformer = model.transformer(
        1,
        "local",
        strategy=strategy,
        assemble_with="Line",
        accept="application/jsonlines;verbose",
        output_path=f"file://{tmp_path}",
    )
    transformer.transform(
        f"file://{tmp_path / 'input'}",
        content_type="application/jsonlines",
        split_type=split_type,
        logs=False,
    )
    lines = (tmp_path / "images.jsonl.out").read_text().splitlines()
    said = [json.loads(line) for line in lines if line]  # AssembleWith=Line adds an empty one
    assert [answer.get("predicted_label") for answer in said] == [*(n for n, _ in images), None]
    assert list(said[-1]) == ["error"]


def test_a_transform_job_continues_after_a_file_that_is_not_an_image(
    fitted: Fitted, serve_image: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    (tmp_path / "input").mkdir()
    (tmp_path / "input" / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
    photo = next((folders["validation"] / "red").iterdir()).read_bytes()
    (tmp_path / "input" / "red.jpg").write_bytes(photo)
    model = fitted.estimator.create_model(image_uri=serve_image)
    transformer = model.transformer(
        1,
        "local",
        env={"IMAGE_CLASSIFICATION_BATCH_PLACEHOLDER": "true"},
        output_path=f"file://{tmp_path}",
    )
    transformer.transform(f"file://{tmp_path / 'input'}", content_type="image/jpeg", logs=False)
    answers = {path.name: list(json.loads(path.read_text())) for path in tmp_path.glob("*.out")}
    assert answers == {".DS_Store.out": ["error"], "red.jpg.out": ["prediction"]}


def test_a_job_starts_from_the_model_of_an_earlier_job(
    fitted: Fitted, folders: dict[str, Path], train_image: str, tmp_path: Path
) -> None:
    session = local_session(tmp_path / "root", 0)
    hyperparameters = HYPERPARAMETERS | {"epochs": 1, "learning_rate": 0.0}
    job = estimator(
        session,
        train_image,
        f"file://{tmp_path}",
        hyperparameters=hyperparameters,
        model_uri=f"file://{fitted.output}/model.tar.gz",
    )
    log = fit(job, file_uris(folders))
    assert "starting from its weights, head included" in log
    assert best_accuracy(log) == pytest.approx(best_accuracy(fitted.log), abs=0.07)


def test_values_in_json_quotes_equal_values_without(
    folders: dict[str, Path], train_image: str, tmp_path: Path
) -> None:
    """With a source_dir, the SDK writes every value as JSON and adds its own keys."""
    source = tmp_path / "source"
    source.mkdir()
    (source / "transfer_learning.py").write_text("")  # the name in jobs of the built-in
    session = local_session(tmp_path / "root", 0)
    job = estimator(
        session,
        train_image,
        f"file://{tmp_path}",
        source_dir=str(source),
        entry_point="transfer_learning.py",
    )
    log = fit(job, file_uris(folders))
    assert job.hyperparameters()["optimizer"] == '"adam"'
    for line in PARAMETER_LINES:
        assert line in log
    assert "manifest.json" in members(tmp_path / "model.tar.gz")


def test_a_users_own_script_runs_in_the_image(
    folders: dict[str, Path], train_image: str, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "mine.py").write_text(
        "import os, sys\n"
        "print('OWN SCRIPT', sys.argv[1:], sorted(os.listdir(os.environ['SM_CHANNEL_TRAIN'])))\n"
        "open(os.path.join(os.environ['SM_MODEL_DIR'], 'mine.txt'), 'w').write('trained')\n"
    )
    job = estimator(
        local_session(tmp_path / "root", 0),
        train_image,
        f"file://{tmp_path}",
        source_dir=str(source),
        entry_point="mine.py",
        hyperparameters={"epochs": 3},
    )
    log = fit(job, file_uris(folders))
    assert "OWN SCRIPT ['--epochs', '3']" in log
    assert members(tmp_path / "model.tar.gz") == {"mine.txt"}


def test_two_instances_write_one_model(
    folders: dict[str, Path], train_image: str, tmp_path: Path
) -> None:
    session = local_session(tmp_path / "root", 0)
    job = estimator(session, train_image, f"file://{tmp_path}", instance_count=2)
    log = fit(job, file_uris(folders))
    assert best_accuracy(log) > 0.9
    assert {"manifest.json", "model.onnx"} <= members(tmp_path / "model.tar.gz")


def test_the_message_of_a_failing_job_is_in_the_log_and_in_the_failure_file(
    folders: dict[str, Path],
    train_image: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    session = local_session(tmp_path / "root", 0)
    wrong = HYPERPARAMETERS | {"optimizer": "adamm"}
    job = estimator(session, train_image, f"file://{tmp_path}", hyperparameters=wrong)
    with pytest.raises(RuntimeError, match="exited with code: 2"):
        job.fit(file_uris(folders))
    sentence = member_text(tmp_path / "output.tar.gz", "failure").splitlines()[0]
    assert sentence.startswith("ClientError: ")
    assert "optimizer" in sentence and "'adamm'" in sentence
    assert sentence in capsys.readouterr().out
    assert not members(tmp_path / "model.tar.gz")
