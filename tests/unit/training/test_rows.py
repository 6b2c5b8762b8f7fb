"""Predictions of many images and classes: in a file, with the numbers that memory gives."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from image_classification.labels.label_map import LabelMap
from image_classification.samples import Batch
from image_classification.training import evaluation
from image_classification.training.calibration import (
    at_temperature,
    calibrate,
    fit_temperature,
    reliability,
)
from image_classification.training.evaluation import (
    Outcomes,
    collect,
    confusions,
    metrics_of,
    per_class,
    predicted_classes,
    sigmoid,
    softmax,
)
from image_classification.training.output import write_predictions
from image_classification.training.results import Results
from tests.unit.training.test_report_pages import results  # noqa: F401

CLASSES, SAMPLES = 300, 200
NAMES = tuple(f"class {index}" for index in range(CLASSES))


def outcomes_of(is_multi_label: bool) -> Outcomes:
    """The outcomes of batches of 20, as a validation pass collects them."""
    random = np.random.default_rng(0)
    logits = random.normal(0, 2, (SAMPLES, CLASSES)).astype(np.float32)
    classes = logits.argmax(axis=1)
    classes[::3] = random.integers(0, CLASSES, len(classes[::3]))
    multi_hot = (random.random((SAMPLES, CLASSES)) < 0.02).astype(np.uint8)
    activation = sigmoid if is_multi_label else softmax

    def batch(start: int) -> Batch:
        which = slice(start, start + 20)
        keys = tuple(str(index) for index in range(SAMPLES))[which]
        images = np.full((20, 1, 1, 1), start, np.uint8)
        targets = multi_hot[which] if is_multi_label else classes[which]
        return Batch(images, targets, np.ones(20, np.float32), keys)

    def predict(images: np.ndarray) -> np.ndarray:
        start = int(images.flat[0])
        return activation(4 * logits[start : start + 20])

    return collect(map(batch, range(0, SAMPLES, 20)), predict)


@pytest.mark.parametrize("is_multi_label", [False, True])
def test_predictions_that_are_kept_in_a_file_give_the_numbers_of_those_in_memory(
    monkeypatch: pytest.MonkeyPatch, is_multi_label: bool
) -> None:
    whole = outcomes_of(is_multi_label)
    monkeypatch.setattr(evaluation, "MOST_BYTES", 20_000)
    monkeypatch.setattr(evaluation, "_PIECE_VALUES", 7 * CLASSES)
    mapped = outcomes_of(is_multi_label)
    assert isinstance(mapped.probabilities, np.memmap)
    assert not isinstance(whole.probabilities, np.memmap)
    assert np.array_equal(mapped.probabilities, whole.probabilities)
    k = None if is_multi_label else 5
    assert metrics_of(mapped, k) == pytest.approx(metrics_of(whole, k), rel=1e-6)
    assert confusions(mapped) == confusions(whole)
    assert per_class(mapped, NAMES) == per_class(whole, NAMES)
    fitted = [calibrate(outcomes) for outcomes in (mapped, whole)]
    assert fitted[0].loss_after == pytest.approx(fitted[1].loss_after, rel=1e-6)
    assert fitted[0].error_after == pytest.approx(fitted[1].error_after, rel=1e-6)
    if not is_multi_label:
        temperatures = [fit_temperature(x.targets, x.probabilities) for x in (mapped, whole)]
        assert temperatures[0] == temperatures[1] > 1
    scaled = [at_temperature(outcomes, 1.5) for outcomes in (mapped, whole)]
    assert np.array_equal(scaled[0].probabilities, scaled[1].probabilities)
    for one, other in zip(*(vars(reliability(x)).values() for x in (mapped, whole)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)


def test_a_disk_without_room_for_the_predictions_leaves_them_in_memory_with_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class SmallDisk(io.BytesIO):
        def write(self, content: memoryview) -> int:  # type: ignore[override]
            room = 100_000 - self.tell()
            if not room:
                raise OSError(28, "No space left on device")
            return super().write(content[:room])

        def fileno(self) -> int:
            raise io.UnsupportedOperation

    whole = outcomes_of(False)
    monkeypatch.setattr(evaluation, "MOST_BYTES", 20_000)
    monkeypatch.setattr(evaluation.tempfile, "TemporaryFile", lambda **_: SmallDisk())
    monkeypatch.setattr(
        evaluation.np,
        "fromfile",
        lambda file, dtype, count: np.frombuffer(file.read(), dtype, count),
    )
    kept = outcomes_of(False)
    assert np.array_equal(kept.probabilities, whole.probabilities)
    assert len(caplog.records) == 1
    assert "has no room for the predictions (No space left on device)" in caplog.text


def test_predictions_of_many_classes_are_the_most_probable_ones_and_that_of_the_label(
    tmp_path: Path,
    results: Results,  # noqa: F811
) -> None:
    outcomes = outcomes_of(False)
    inputs = replace(results.inputs, labels=LabelMap(NAMES))
    write_predictions(tmp_path / "out", replace(results, inputs=inputs, validation=outcomes))
    lines = [json.loads(line) for line in (tmp_path / "out").read_text("utf-8").splitlines()]
    assert len(lines) == SAMPLES
    assert set(lines[0]) == {"key", "label", "label_probability", "top_labels", "top_probabilities"}
    predicted = predicted_classes(outcomes.probabilities)
    for index, line in enumerate(lines):
        target = outcomes.targets[index]
        assert line["key"] == str(index) and line["label"] == NAMES[target]
        assert line["label_probability"] == float(outcomes.probabilities[index, target])
        assert line["top_labels"][0] == NAMES[predicted[index]]
        assert line["top_probabilities"] == sorted(outcomes.probabilities[index])[:-21:-1]


def test_predictions_of_few_classes_have_all_probabilities(
    tmp_path: Path,
    results: Results,  # noqa: F811
) -> None:
    write_predictions(tmp_path / "out", results)
    first = '{"key": "a", "label": "<script>alert(\'x\')</script>", "probabilities": ['
    text = (tmp_path / "out").read_text("utf-8")
    assert text.startswith(first) and text.endswith("]}\n") and text.count("\n") == 2
