"""The report escapes what comes from the data, and the model card describes the model."""

from __future__ import annotations

import re
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
from image_classification.training.results import Augmented, LabelReview, Results, Suspect
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
        augmented=[Augmented(HOSTILE, "data:,")],
        is_stopped=False,
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


def many(classes: int, samples: int, *, is_multi_label: bool = False) -> Outcomes:
    """Outcomes of a model that is right in about half of the cases."""
    generator = np.random.default_rng(1)
    targets = generator.integers(0, classes, samples)
    rows = 0.5 * generator.random((samples, classes), np.float32)
    rows[np.arange(samples), targets] += 0.4
    keys = tuple(f"sample{i}" for i in range(samples))
    if is_multi_label:
        return Outcomes(keys, np.eye(classes, dtype=np.uint8)[targets], rows)
    return Outcomes(keys, targets, rows / rows.sum(axis=1, keepdims=True))


def page_of(results: Results, outcomes: Outcomes) -> str:
    names = tuple(f"class {i}" for i in range(outcomes.probabilities.shape[1]))
    found = (reliability(outcomes, 10), reliability(outcomes, 10))
    inputs = replace(results.inputs, labels=LabelMap(names))
    own = replace(results, validation=outcomes, inputs=inputs, reliability=found)
    return report_page(replace(own, label_review=None), manifest_of(own))


def test_a_cell_of_the_confusion_matrix_opens_its_images(results: Results) -> None:
    page = page_of(results, many(4, 200))
    links = re.findall(r'href="#(cell-[^"]+)"', page)
    anchors = re.findall(r'id="(cell-[^"]+)"', page)
    assert len(anchors) == len(set(anchors)) >= 8 and set(links) == set(anchors)
    assert all(f'href="#{name}"' in page for name in ("cell-0-0", "cell-1-2"))
    assert re.search(r"<h3>class 1 predicted as class 2 <small>\d+ image", page)


def test_every_link_within_the_page_has_its_anchor(results: Results) -> None:
    for outcomes in (many(3, 60), many(3, 60, is_multi_label=True), many(40, 200)):
        page = page_of(results, outcomes)
        ids = set(re.findall(r' id="([^"]+)"', page))
        assert set(re.findall(r'href="#([^"]+)"', page)) <= ids


@pytest.mark.parametrize("is_multi_label", [False, True])
def test_a_thousand_classes_and_many_samples_leave_the_page_below_its_limit(
    results: Results, monkeypatch: pytest.MonkeyPatch, is_multi_label: bool
) -> None:
    monkeypatch.setattr(
        "image_classification.training.report.sections.thumbnail",
        lambda _, side=128: "data:image/jpeg;base64," + "A" * (side * side // 3),  # a large one
    )
    source = results.inputs.validation
    source.class_indices = np.zeros(2000, np.int64)
    monkeypatch.setattr(type(source), "__len__", lambda _: 2000)
    page = page_of(results, many(1000, 2000, is_multi_label=is_multi_label))
    assert len(page) < 2_500_000
    assert "cell-0-0" not in page and page.count('<th scope="row">') == 1000 + 60
    assert "Each class: the 30 with the lowest average precision" in page


def test_a_job_with_several_labels_shows_its_wrong_decisions_and_thresholds(
    results: Results,
) -> None:
    page = page_of(results, many(6, 50, is_multi_label=True))
    assert 'id="confusion"' not in page and "Borderline" not in page
    assert "of images with all labels right" in page
    assert re.search(r"<b>(not )?class \d</b> \d+\.\d%<br>labeled class \d<br>", page)
    assert "<tr><td>90%</td>" in page and "Precision and recall" in page


def test_a_stopped_job_writes_its_page_without_the_pictures_of_the_confusions(
    results: Results,
) -> None:
    page = page_of(replace(results, is_stopped=True), many(3, 60))
    assert "cell-" not in page and "Select a number" not in page


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
