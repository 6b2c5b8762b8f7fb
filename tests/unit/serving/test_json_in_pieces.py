"""A large JSON body is read piece by piece into what the json module makes of it at once."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from image_classification.errors import RequestError
from image_classification.serving.codec import json_bodies
from image_classification.serving.codec.bodies import read_images

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=12
)


def at_once(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return "no JSON"


def in_pieces(body: bytes) -> Any:
    try:
        return json_bodies._piece_by_piece(body)
    except ValueError:
        return "no JSON"


@settings(deadline=None, max_examples=200)
@given(VALUES, st.sampled_from([None, 0, 3]), st.sampled_from(["utf-8", "utf-16", "utf-8-sig"]))
def test_values_are_those_of_the_json_module(value: Any, indent: int | None, code: str) -> None:
    body = f" {json.dumps(value, indent=indent, ensure_ascii=False)}\r\n\t".encode(code)
    assert in_pieces(body) == at_once(body) == value


@settings(deadline=None, max_examples=300)
@given(VALUES, st.data())
def test_damaged_texts_are_refused_as_the_json_module_refuses_them(
    value: Any, data: st.DataObject
) -> None:
    text = json.dumps(value)
    at = data.draw(st.integers(0, len(text)))
    instead = data.draw(st.sampled_from(["", ",", ":", "]", "}", "[", "{", '"', "1", " ", "\v"]))
    body = (text[:at] + instead + text[at + data.draw(st.integers(0, 2)) :]).encode()
    assert in_pieces(body) == at_once(body)


@pytest.mark.parametrize(
    ("body", "names"),
    [
        (b'["' + b"a" * 2_000_000 + b'" "b"]', "not JSON (Expecting ',' or ']': line 1"),
        (b'["' + b"a" * 2_000_000 + b'"] 1', "several JSON values"),
        (b"[" * 400_000 + b" " * 2**20, "expected JSON"),
    ],
)
def test_a_large_text_that_is_not_json_is_a_400(body: bytes, names: str) -> None:
    with pytest.raises(RequestError) as refused:
        read_images(body, "application/json")
    assert refused.value.status == 400 and names in str(refused.value)
