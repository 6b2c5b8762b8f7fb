"""Accept headers as callers write them, and the bodies of both interfaces."""

import json

import numpy as np
import pytest

from image_classification.data.labels import LabelMap
from image_classification.errors import RequestError
from image_classification.serving import codec
from image_classification.serving.codec import Accept
from image_classification.serving.prediction import Prediction

PREDICTION = Prediction(np.array([0.25, 0.75], np.float32), LabelMap(("cat", "dog")))
VERBOSE = {"probabilities": [0.25, 0.75], "labels": ["cat", "dog"], "predicted_label": "dog"}


@pytest.mark.parametrize(
    ("header", "accept"),
    [
        (None, Accept("application/json")),
        ("", Accept("application/json")),
        ("*/*", Accept("application/json")),
        ("application/json", Accept("application/json")),
        ("application/json;verbose", Accept("application/json", True)),
        ("application/json; verbose", Accept("application/json", True)),
        ("Application/JSON;Verbose;n_predictions=5", Accept("application/json", True)),
        ("text/html, application/jsonlines;verbose", Accept("application/jsonlines", True)),
        ("application/json;q=0.5", Accept("application/json")),
        ("application/json;q=0, application/jsonlines", Accept("application/jsonlines")),
        ("*/*;q=0.1, application/jsonlines", Accept("application/jsonlines")),
    ],
)
def test_accept_is_understood_as_callers_write_it(header: str | None, accept: Accept) -> None:
    assert codec.parse_accept(header, "application/json") == accept


def test_the_default_accept_may_be_verbose() -> None:
    expected = Accept("application/json", True)
    for header in (None, "*/*"):
        assert codec.parse_accept(header, "application/json;verbose") == expected


@pytest.mark.parametrize("header", ["text/csv", "image/jpeg", ";verbose", "json"])
def test_an_accept_that_cannot_be_produced_is_406_and_lists_what_can(header: str) -> None:
    with pytest.raises(RequestError, match="application/jsonlines;verbose") as caught:
        codec.parse_accept(header, "application/json")
    assert caught.value.status == 406


@pytest.mark.parametrize("header", [None, "", "image/jpeg; charset=binary", "IMAGE/PNG"])
def test_image_content_types_are_accepted_with_parameters_and_in_any_case(
    header: str | None,
) -> None:
    assert codec.parse_content_type(header) in codec.IMAGE_CONTENT_TYPES


@pytest.mark.parametrize(
    ("interface", "accept", "expected"),
    [
        ("mxnet", "application/json", [0.25, 0.75]),
        ("tensorflow", "application/json", {"probabilities": [0.25, 0.75]}),
        ("mxnet", "application/json;verbose", VERBOSE),
        ("tensorflow", "application/json;verbose", VERBOSE),
        ("mxnet", "application/jsonlines", {"prediction": [0.25, 0.75]}),
        ("tensorflow", "application/jsonlines", {"probabilities": [0.25, 0.75]}),
        ("mxnet", "application/jsonlines;verbose", VERBOSE),
    ],
)
def test_each_interface_answers_as_its_built_in(
    interface: str, accept: str, expected: object
) -> None:
    parsed = codec.parse_accept(accept, "application/json")
    body, content_type = codec.encode([PREDICTION], parsed, interface)
    assert json.loads(body) == expected
    assert content_type == parsed.media_type
    assert body.count(b"\n") == (parsed.media_type == "application/jsonlines")


def test_the_most_probable_classes_come_in_falling_order() -> None:
    assert PREDICTION.top(5) == [("dog", 0.75), ("cat", 0.25)]
    assert PREDICTION.top(1) == [("dog", 0.75)]
