"""The report escapes what comes from the data, and the model card describes the model."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from image_classification.contract.interface import INTERFACES
from image_classification.labels.label_map import LabelMap
from image_classification.loading.bad_samples import BadSamples
from image_classification.training.calibration import calibrate, reliability
from image_classification.training.checkpoint import EpochRecord, History
from image_classification.training.evaluation import Outcomes
from image_classification.training.inputs import Inputs
from image_classification.training.output import manifest_of
from image_classification.training.report.pages import model_card, report_page
from image_classification.training.results import LabelReview, Mistake, Results, Suspect
from image_classification.training.settings import settings_of
from tests.unit.training.test_loop import Colors

HOSTILE = "<script>alert('x')</script>"


@pytest.fixture
def results() -> Results:
    values = INTERFACES["mxnet"].parse({"num_layers": "20", "image_shape": "3,32,32"})
    source = Colors()
    outcomes = Outcomes(
        ("a", HOSTILE), np.array([0, 1]), np.array([[0.9, 0.1], [0.6, 0.4]], np.float32)
    )
    metrics = {"loss": 0.5, "accuracy": 0.5}
    return Results(
        interface="mxnet",
        settings=settings_of(values),
        inputs=Inputs(source, source, None, LabelMap((HOSTILE, "dog"))),
        history=History([EpochRecord(0, metrics, metrics, 2.0, 50.0, 0.1, 0.1)]),
        validation=outcomes,
        test=None,
        calibration=calibrate(outcomes),
        reliability=(reliability(outcomes), reliability(outcomes)),
        mistakes=[Mistake(HOSTILE, 1, 0, 0.6, 0.4, None)],
        bad_samples=BadSamples(),
        last_weights=None,
        started_from="random weights",
        hyperparameters=[("labels", HOSTILE, "labels"), ("epochs", "1", "default")],
        label_review=LabelReview(
            ("train",), 9, 0.05, [Suspect("train", 0, HOSTILE, 0, 1, 0.9)], (), 0.8, left_out=[0]
        ),
    )


def test_names_from_the_data_cannot_add_markup_to_the_report(results: Results) -> None:
    page = report_page(results, manifest_of(results))
    assert "<script" not in page
    assert page.count("&lt;script&gt;") >= 9, (
        "title, matrix, classes, mistakes, chart, values, suspects twice, classes not judged"
    )
    assert "Not judged, because of too few images: &lt;script&gt;" in page


def test_the_model_card_is_markdown_with_names_that_are_no_markup(results: Results) -> None:
    card = model_card(results, manifest_of(results), results.settings.preprocessing)
    assert card.startswith("---\npipeline_tag: image-classification\n")
    assert "| Accuracy | 0.5000 |\n" in card
    assert "| &lt;script&gt;alert('x')&lt;/script&gt; | 1 | 100.0% | 50.0% |\n" in card
    assert "\n\n\n" not in card


def test_an_empty_hyperparameter_list_leaves_no_line_in_the_card(results: Results) -> None:
    bare = replace(results, hyperparameters=())
    assert "Hyperparameters given" not in model_card(
        bare, manifest_of(bare), bare.settings.preprocessing
    )


def test_a_rarest_class_is_named_only_if_classes_differ_in_size(
    results: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    def card(*counts: int) -> str:
        monkeypatch.setattr(type(results.inputs), "class_counts", {"train": list(counts)})
        return model_card(results, manifest_of(results), results.settings.preprocessing)

    classes = len(results.inputs.labels.names)
    assert "rarest class" not in card(*[104] * classes)
    assert "only 3 images of its rarest class" in card(3, *[104] * (classes - 1))
