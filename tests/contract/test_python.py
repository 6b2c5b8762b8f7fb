"""The Python interface on real, tiny jobs: train, load, predict, evaluate, export, serve."""

from __future__ import annotations

import http.client
import io
import json
import socket
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import image_classification as ic
from tests.conftest import ClassFolders
from tests.contract import jobs
from tests.contract.jobs import run_command

SETTINGS: dict[str, Any] = {
    "preset": None,
    "backbone": "resnet20",
    "use_pretrained_model": False,
    "train_only_top_layer": False,
    "image_shape": "3,32,32",
    "resize_mode": "crop",
    "batch_size": 8,
    "epochs": 3,
    "learning_rate": 0.01,
    "augmentation": False,
}
"""A job of the tensorflow interface that learns three colors in seconds."""


@pytest.fixture(scope="module")
def flowers(tmp_path_factory: pytest.TempPathFactory, write_class_folders: ClassFolders) -> Path:
    return write_class_folders(tmp_path_factory.mktemp("data") / "flowers")


@pytest.fixture(scope="module")
def model(flowers: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(jobs.BACKEND_VARIABLE, jobs.BACKEND)
        return ic.train(flowers, output=tmp_path_factory.mktemp("runs") / "a", **SETTINGS)


def test_importing_the_package_loads_no_framework_and_no_other_module() -> None:
    code = (
        "import sys; before = set(sys.modules); import image_classification as ic\n"
        "names = dir(ic); new = set(sys.modules) - before\n"
        "print([m for m in new if m.split('.')[0] in ('image_classification', 'numpy', 'PIL')])\n"
        "ic.train, ic.load, ic.Model, ic.errors.UserError\n"
        "frameworks = ('torch', 'tensorflow', 'keras', 'mxnet', 'onnx', 'onnxruntime', 'flask')\n"
        "print([m for m in frameworks if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["['image_classification']", "[]"]


def test_every_public_name_exists_and_is_what_type_checkers_see() -> None:
    stub = Path(ic.__file__).with_suffix(".pyi").read_text()
    for name in ic.__all__:
        assert getattr(ic, name) is not None
        assert f" as {name}\n" in stub or f"{name}:" in stub, name
    with pytest.raises(AttributeError, match="has no attribute 'no_such_name'"):
        ic.no_such_name  # type: ignore[attr-defined]  # noqa: B018


def test_a_trained_model_is_the_one_that_is_loaded(model: ic.Model) -> None:
    loaded = ic.load(model.path)
    assert loaded.labels == model.labels == ("blue", "green", "red")
    assert model.report == model.path / "report.html" and model.report.is_file()
    assert loaded.metrics["validation"] == model.metrics["validation"]
    assert loaded.metrics["validation_samples"] == 6  # two of each class are held out
    assert not (model.path / "checkpoints").exists()
    assert "resnet20, 3 classes, validation accuracy" in repr(model)


def test_predictions_are_those_of_the_command_within_1e_6(model: ic.Model, flowers: Path) -> None:
    found = model.predict(flowers)
    done = run_command("predict", "--model", model.path, flowers)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(found) == len(lines) == 36
    for prediction, line in zip(found, lines, strict=True):
        assert prediction.source == line["image"] and prediction.label == line["predicted_label"]
        said = dict(zip(line["labels"], line["probabilities"], strict=True))
        expected = [said[name] for name in prediction.labels]
        assert np.abs(prediction.probabilities - expected).max() < 1e-6


def test_a_path_bytes_a_picture_and_an_array_of_one_image_get_one_answer(
    model: ic.Model, flowers: Path, tmp_path: Path
) -> None:
    path = tmp_path / "x.png"  # decoders of JPEG may differ, those of PNG may not
    with Image.open(flowers / "red" / "red000.jpg") as picture:
        picture.save(path)
    with Image.open(path) as picture:
        pixels = np.asarray(picture)
        forms = [path, str(path), path.read_bytes(), picture, pixels]
        answers = [model.predict(form) for form in forms] + model.predict(forms)
    assert len(answers) == 10
    for answer in answers:
        assert (answer.probabilities == answers[0].probabilities).all()
    answer = answers[0]
    assert answer.probabilities.dtype == np.float32 and answer.probabilities.shape == (3,)
    assert [name for name, _ in answer.top(2)] == [answer.label, answer.top(3)[1][0]]
    assert answer.top(3)[0] == (answer.label, answer.probability)
    assert answer.probability == float(max(answer.probabilities))
    assert sum(probability for _, probability in answer.top(3)) == pytest.approx(1, abs=1e-6)


def test_a_picture_is_turned_as_its_file_says_and_any_mode_is_read(
    model: ic.Model, tmp_path: Path
) -> None:
    pixels = np.zeros((40, 40, 3), np.uint8)
    pixels[:20] = (250, 20, 20)
    exif = Image.Exif()
    exif[0x0112] = 6
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG", exif=exif)
    with Image.open(io.BytesIO(content.getvalue())) as picture:
        assert (
            model.predict(picture).probabilities == model.predict(content.getvalue()).probabilities
        ).all()
    with Image.open(io.BytesIO(content.getvalue())) as picture:
        picture.info["exif"] = b"Exif\0\0MM\0*\0\0\0\x08\xff\xff"  # an entry that is cut off
        assert model.predict(picture).label in model.labels
    for mode in ("L", "CMYK", "RGBA", "P", "YCbCr"):
        assert model.predict(Image.fromarray(pixels).convert(mode)).label in model.labels


def test_an_unusable_image_is_an_error_alone_and_a_named_gap_among_others(
    model: ic.Model, flowers: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good, bad = flowers / "red" / "red000.jpg", tmp_path / "bad.jpg"
    bad.write_bytes(b"\xff\xd8\xff\xe0 cut off")
    with pytest.raises(ic.errors.ImageError, match=r"bad\.jpg: the image cannot be used"):
        model.predict(bad)
    with pytest.raises(ic.errors.DataError, match=r"gone\.jpg: the file cannot be read"):
        model.predict(tmp_path / "gone.jpg")
    first, second, third = model.predict([good, bad, tmp_path / "gone.jpg"])
    assert first.error == "" and "cannot be used" in second.error and "read" in third.error
    assert "2 of 3 images could not be used" in caplog.text
    with pytest.raises(ic.errors.ImageError, match=r"bad\.jpg"):
        second.label  # noqa: B018
    assert "cannot be used" in second._repr_html_() and "bad.jpg" in repr(second)
    with Image.open(io.BytesIO(good.read_bytes()[:700])) as cut:
        with pytest.raises(ic.errors.ImageError, match="Pillow cannot read"):
            model.predict(cut)


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (np.zeros((4, 4)), r"uint8 of shape \(height, width, 3\).*got float64 of shape \(4, 4\)"),
        (np.zeros((2, 4, 4, 3), np.uint8), "got uint8 of shape"),
        (np.zeros((0, 4, 3), np.uint8), "got uint8 of shape"),
        (7, "got int"),
        (None, "got NoneType"),
    ],
)
def test_what_is_no_image_is_refused_with_what_was_expected(
    model: ic.Model, image: Any, said: str
) -> None:
    with pytest.raises(ic.errors.UsageError, match=said):
        model.predict(image)


def test_an_empty_folder_and_a_folder_in_a_list_are_refused(
    model: ic.Model, flowers: Path, tmp_path: Path
) -> None:
    with pytest.raises(ic.errors.DataError, match="expected images in this folder, found none"):
        model.predict(tmp_path)
    with pytest.raises(ic.errors.UsageError, match="predict the folder alone"):
        model.predict([flowers])
    assert model.predict([]) == []


def test_an_evaluation_has_the_numbers_of_the_command(model: ic.Model, flowers: Path) -> None:
    found = model.evaluate(flowers, top_k=2)
    done = run_command(
        "evaluate", "--model", model.path, "--data", flowers, "--top-k", "2", "--json"
    )
    said = json.loads(done.stdout)
    assert {name: said[name] for name in ("samples", "metrics", "skipped")} == {
        "samples": found.samples,
        "metrics": found.metrics,
        "skipped": found.skipped,
    }
    assert said["macro_f1"] == found.macro_f1 and tuple(said["accuracy_interval"]) == found.interval
    assert [row["f1"] for row in said["per_class"]] == [score.f1 for score in found.per_class]
    assert sum(count for _, _, count in said["confusions"]) == len(found.errors)
    assert found.accuracy == found.metrics["accuracy"] == found.confusion.trace() / 36
    assert found.confusion.sum(axis=1).tolist() == [12, 12, 12]
    assert [score.label for score in found.per_class] == list(model.labels)
    for index, score in enumerate(found.per_class):
        assert score.samples == 12 and score.recall == found.confusion[index, index] / 12
    assert len(found.errors) == 36 - found.confusion.trace()
    confidences = [mistake.probability for mistake in found.errors]
    assert confidences == sorted(confidences, reverse=True)
    for mistake in found.errors:
        answer = model.predict(flowers / mistake.source)
        assert mistake.label == Path(mistake.source).parent.name != mistake.predicted
        assert answer.label == mistake.predicted and answer.probability == mistake.probability


def test_an_archive_is_a_model_and_the_onnx_graph_is_exported(
    model: ic.Model, flowers: Path, tmp_path: Path
) -> None:
    archive = tmp_path / "model.tar.gz"
    with tarfile.open(archive, "w:gz") as file:
        file.add(model.path, ".")
    loaded = ic.load(archive)
    image = flowers / "red" / "red000.jpg"
    assert (loaded.predict(image).probabilities == model.predict(image).probabilities).all()
    assert loaded.export("onnx", tmp_path / "new" / "m.onnx") == tmp_path / "new" / "m.onnx"
    content = (tmp_path / "new" / "m.onnx").read_bytes()
    assert content == (model.path / "model.onnx").read_bytes()
    with pytest.raises(ic.errors.UsageError, match="exists"):
        loaded.export("onnx", tmp_path / "new" / "m.onnx")
    with pytest.raises(ic.errors.BackendError):
        loaded.export("paper", tmp_path / "paper")
    copied = tmp_path / "copied.onnx"
    done = run_command("export", "--model", archive, "--format", "onnx", "--output", copied)
    assert (done.returncode, done.stdout) == (0, f"{copied}\n") and copied.read_bytes() == content
    folder = loaded.report.parent
    del loaded
    assert not folder.exists()


def test_a_served_model_gives_the_same_answer_and_stops(model: ic.Model, flowers: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    image = flowers / "red" / "red000.jpg"
    with model.serve(port) as server:
        assert server.url == f"http://127.0.0.1:{port}"
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        headers = {"Content-Type": "image/jpeg", "Accept": "application/json;verbose"}
        connection.request("POST", "/invocations", image.read_bytes(), headers)
        answer = json.loads(connection.getresponse().read())
        connection.close()
        assert answer["predicted_label"] == model.predict(image).label
        with pytest.raises(ic.UserError, match=f"cannot listen on 127.0.0.1, port {port}"):
            model.serve(port)
    with pytest.raises(OSError):
        http.client.HTTPConnection("127.0.0.1", port, timeout=5).request("GET", "/ping")
    with pytest.raises(ic.errors.UsageError, match="expected 1 to 65535"):
        model.serve(0)


def test_mistakes_are_the_same_sentences_in_python_and_in_the_terminal(
    model: ic.Model, flowers: Path, tmp_path: Path
) -> None:
    before = model.path.stat().st_mtime_ns
    cases: list[tuple[dict[str, Any], list[str | Path], type[Exception]]] = [
        ({"output": model.path}, ["--output", model.path], ic.errors.UsageError),
        ({"epoch": 3}, ["--set", "epoch=3", "--output", tmp_path / "o"], ic.UserError),
    ]
    for settings, words, kind in cases:
        with pytest.raises(kind) as caught:
            ic.train(flowers, **{"output": tmp_path / "o", **settings})
        done = run_command("train", flowers, *words)
        assert done.returncode == 2
        assert done.stderr.splitlines()[-1] == f"ClientError: {caught.value}"
    assert model.path.stat().st_mtime_ns == before and not (tmp_path / "o").exists()
    with pytest.raises(ic.errors.ArtifactError, match="expected an artifact"):
        ic.load(flowers)
