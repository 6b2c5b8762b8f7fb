"""Accept headers as clients write them, and the answers of both interfaces."""

from __future__ import annotations

import csv
import io
import json
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from image_classification.contract.interface import INTERFACES, answer_form
from image_classification.errors import RequestError
from image_classification.labels.label_map import LabelMap
from image_classification.serving.codec.accept import Accept, parse_accept
from image_classification.serving.codec.answers import Failure, Prediction, Result, encode

PREDICTION = Prediction(np.array([0.25, 0.75], np.float32), LabelMap(("cat", "dog")))
VERBOSE = {"probabilities": [0.25, 0.75], "labels": ["cat", "dog"], "predicted_label": "dog"}
JSON, LINES, CSV = "application/json", "application/jsonlines", "text/csv"


def answer(
    accept: str, results: list[Result], interface: str = "mxnet", is_list: bool = False
) -> bytes:
    body, content_type = encode(
        results, is_list, parse_accept(accept, JSON), INTERFACES[interface].answers
    )
    assert content_type == parse_accept(accept, JSON).media_type
    return body


@pytest.mark.parametrize(
    ("header", "accept"),
    [
        (None, Accept(JSON)),
        ("", Accept(JSON)),
        (" , ", Accept(JSON)),
        ("*/*", Accept(JSON)),
        ("application/json", Accept(JSON)),
        ("application/json;verbose", Accept(JSON, True)),
        ("application/json; verbose", Accept(JSON, True)),
        ("Application/JSON;Verbose;n_predictions=5", Accept(JSON, True)),
        ("text/html, application/jsonlines;verbose", Accept(LINES, True)),
        ("application/json;q=0.5", Accept(JSON)),
        ("application/json;q=0, application/jsonlines", Accept(LINES)),
        ("*/*;q=0.1, application/jsonlines", Accept(LINES)),
        ("text/csv;q=0.5, application/json;q=0.9", Accept(JSON)),
        ("*/*, application/json;q=0", Accept(LINES)),
        ("text/*", Accept(CSV)),
        ("text/html, */*;q=0.8", Accept(JSON)),
        ("application/json;verbose;top_k=5", Accept(JSON, True, 5)),
        ('application/json; top_k="2"', Accept(JSON, True, 2)),
        ("text/csv;threshold=0.25", Accept(CSV, True, None, 0.25)),
        ("application/json;verbose=true", Accept(JSON, True)),
        ("application/json;verbose=1", Accept(JSON, True)),
        ("application/json;verbose=false", Accept(JSON)),
        ("application/json;verbose=0;q=0.5", Accept(JSON)),
        ("application/json;charset=utf-8", Accept(JSON)),
        ("text/csv;q=x, application/json;q=0.1", Accept(JSON)),
        ("application/x-jsonlines", Accept(LINES, asked="application/x-jsonlines")),
        ("application/x-ndjson;verbose", Accept(LINES, True, asked="application/x-ndjson")),
    ],
)
def test_accept_is_parsed_as_clients_write_it(header: str | None, accept: Accept) -> None:
    assert parse_accept(header, JSON) == accept


def test_the_default_accept_may_be_verbose() -> None:
    for header in (None, "*/*", "application/*"):
        assert parse_accept(header, "application/json;verbose") == Accept(JSON, True)
    assert parse_accept("text/*", "application/json;verbose") == Accept(CSV)


@pytest.mark.parametrize(
    "header",
    ["text/html", "image/jpeg", ";verbose", "json", "application/json;q=0", "text/csv;q=x"],
)
def test_an_accept_that_cannot_be_produced_is_406_and_lists_what_can(header: str) -> None:
    with pytest.raises(RequestError, match="application/jsonlines;verbose") as caught:
        parse_accept(header, JSON)
    assert caught.value.status == 406


@pytest.mark.parametrize(
    "parameter",
    [
        *("top_k=0", "top_k=x", "top_k=", "threshold=2", "threshold=nan", "top_k=" + "9" * 5000),
        *("threshold=inf", "threshold=1e9", "threshold=0_5", "verbose=maybe", "verbose=2"),
        *("top_k=1;top_k=2", "verbose=false;top_k=2", "top-k=2", "topk=2"),
    ],
)
def test_an_impossible_parameter_is_406_and_named(parameter: str) -> None:
    with pytest.raises(RequestError, match=re.split("[=;]", parameter)[0]) as caught:
        parse_accept(f"application/json;{parameter}", JSON)
    assert caught.value.status == 406


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
    body = answer(accept, [PREDICTION], interface)
    assert json.loads(body) == expected
    assert body.count(b"\n") == accept.startswith(LINES)


@pytest.mark.parametrize("interface", ["mxnet", "tensorflow"])
@pytest.mark.parametrize("verbose", ["", ";verbose"])
def test_several_images_are_an_array_of_what_each_alone_would_get(
    interface: str, verbose: str
) -> None:
    alone = json.loads(answer(JSON + verbose, [PREDICTION], interface))
    results = [PREDICTION, Failure("no image"), PREDICTION]
    both = json.loads(answer(JSON + verbose, results, interface, is_list=True))
    assert both == [alone, {"error": "no image"}, alone]
    lines = answer(LINES + verbose, results, interface, is_list=True).splitlines()
    assert json.loads(lines[1]) == {"error": "no image"} and len(lines) == 3


def test_a_single_sigmoid_is_the_probability_of_the_positive_class() -> None:
    manifest = {"interface": "tensorflow", "classes": 2, "binary_answer": "sigmoid"}
    labels = LabelMap(("cat", "dog"))
    for row, label in (([0.25, 0.75], "dog"), ([1.0, 0.0], "cat")):
        result = Prediction(np.array(row, np.float32), labels)

        def body(accept: str, result: Prediction = result) -> str:
            wanted = parse_accept(accept, JSON)
            return encode([result], False, wanted, answer_form(manifest))[0].decode()

        assert body("application/json") == f'{{"probabilities": [{row[1]}]}}'
        assert body("application/jsonlines") == f'{{"probabilities": [{row[1]}]}}\n'
        assert body("text/csv") == f"{row[1]}\n"
        verbose = {"probabilities": [row[1]], "labels": ["cat", "dog"], "predicted_label": label}
        assert json.loads(body("application/json;verbose")) == verbose
    assert (
        answer_form({"interface": "tensorflow", "classes": 2}) == INTERFACES["tensorflow"].answers
    )
    assert answer_form(manifest | {"classes": 3}) == INTERFACES["tensorflow"].answers


def test_json_lines_are_answered_under_the_name_that_the_client_asked_for() -> None:
    for name in ("application/x-jsonlines", "application/x-ndjson", LINES):
        for header, default in ((name, JSON), ("*/*", name), (None, name)):
            wanted = parse_accept(header, default)
            body, kind = encode([PREDICTION], False, wanted, INTERFACES["mxnet"].answers)
            assert kind == name and json.loads(body) == {"prediction": [0.25, 0.75]}


def test_a_list_of_one_image_is_a_list() -> None:
    assert json.loads(answer(JSON, [PREDICTION], is_list=True)) == [[0.25, 0.75]]


def test_csv_has_a_row_for_each_image() -> None:
    results = [PREDICTION, Failure('it says "no",\nreally')]
    rows = list(csv.reader(io.StringIO(answer(CSV, results, is_list=True).decode())))
    assert rows == [["0.25", "0.75"], ['error: it says "no",\nreally']]
    rows = list(csv.reader(io.StringIO(answer(CSV + ";top_k=1", results[:1]).decode())))
    assert rows == [["dog", "0.75"]]


def test_a_selection_is_in_falling_order_and_keeps_the_predicted_label() -> None:
    expected = {"probabilities": [0.75], "labels": ["dog"], "predicted_label": "dog"}
    assert json.loads(answer(JSON + ";top_k=1", [PREDICTION])) == expected
    assert json.loads(answer(JSON + ";threshold=0.5", [PREDICTION])) == expected
    nothing = json.loads(answer(JSON + ";threshold=0.9", [PREDICTION]))
    assert nothing == {"probabilities": [], "labels": [], "predicted_label": "dog"}


def test_a_threshold_decides_the_labels_of_a_multi_label_answer() -> None:
    prediction = Prediction(PREDICTION.probabilities, PREDICTION.labels, is_multi_label=True)
    said = json.loads(answer(JSON + ";threshold=0.2", [prediction]))
    assert said["predicted_labels"] == ["cat", "dog"]
    assert json.loads(answer(JSON + ";verbose", [prediction]))["predicted_labels"] == ["dog"]


@settings(deadline=None)
@given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=50))
def test_every_probability_is_read_back_as_the_float32_and_as_a_fraction(row: list[float]) -> None:
    labels = LabelMap(tuple(map(str, range(len(row)))))
    prediction = Prediction(np.array(row, np.float32), labels)
    for accept in (JSON, JSON + ";verbose", LINES, JSON + ";top_k=50"):
        said = json.loads(answer(accept, [prediction]))
        said = said if isinstance(said, list) else next(iter(said.values()))
        assert all(isinstance(value, float) for value in said)
        expected = sorted(row, reverse=True) if "top_k" in accept else row
        assert np.array_equal(np.array(said, np.float32), np.array(expected, np.float32))
    cells = next(csv.reader([answer(CSV, [prediction]).decode()]))
    assert np.array_equal(np.array(cells, np.float32), prediction.probabilities)


@pytest.mark.parametrize("row", [[0.1, 0.7, 0.2], [1.0, 0.0, 1.2345678e-9]])
@pytest.mark.parametrize("parameters", ["", ";verbose", ";top_k=3", ";threshold=0"])
@pytest.mark.parametrize("media_type", [JSON, LINES, CSV])
@pytest.mark.parametrize("is_multi_label", [False, True])
def test_every_answer_writes_a_probability_with_the_same_nine_digits(
    row: list[float], parameters: str, media_type: str, is_multi_label: bool
) -> None:
    probabilities = np.array(row, np.float32)
    prediction = Prediction(probabilities, LabelMap(("a", "b", "c")), is_multi_label)
    text = answer(media_type + parameters, [prediction]).decode()
    written = sorted(re.findall(r"\d\.?\d*(?:e-\d+)?", text), key=float)
    assert written == [repr(float(f"{value:.9g}")) for value in sorted(probabilities.tolist())]


def test_probabilities_that_are_not_numbers_are_an_error_and_never_an_answer() -> None:
    broken = Prediction(np.array([np.nan, 1.0], np.float32), PREDICTION.labels)
    for accept in (JSON, JSON + ";verbose", LINES, CSV, JSON + ";top_k=1", CSV + ";verbose"):
        with pytest.raises(RequestError, match="finite") as caught:
            answer(accept, [broken])
        assert caught.value.status == 500
    lines = answer(LINES, [PREDICTION, broken], is_list=True).splitlines()
    assert list(json.loads(lines[0])) == ["prediction"] and b"finite" in lines[1]


def test_the_environments_selection_holds_for_verbose_answers_without_one() -> None:
    for header, expected in [
        ("application/json", Accept(JSON)),
        ("application/json;verbose", Accept(JSON, True, 3, 0.1)),
        ("application/json;top_k=7", Accept(JSON, True, 7)),
    ]:
        assert parse_accept(header, JSON, top_k=3, threshold=0.1) == expected


def test_the_most_probable_classes_are_in_falling_order() -> None:
    assert PREDICTION.top(5) == [("dog", 0.75), ("cat", 0.25)]
    assert PREDICTION.top(1) == [("dog", 0.75)]
