"""Pages escape what they show, and name what they lack."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from jinja2 import UndefinedError

from image_classification import pages
from image_classification.pages.charts import class_bars

Page = Callable[..., str]


@pytest.fixture
def page() -> Page:
    """Render a template given as text, with the layout and the macros of the product."""
    environment = pages._environment()

    def render(body: str, **values: object) -> str:
        text = '{% extends "layout.html" %}{% from "macros.html" import picture, table %}'
        text += "{% block title %}T{% endblock %}{% block body %}" + body + "{% endblock %}"
        return environment.from_string(text).render(values)

    return render


def test_every_value_is_escaped(page: Page) -> None:
    text = page("{{ name }}{{ table([name], [[name]]) }}", name="<script>&")
    assert text.count("&lt;script&gt;&amp;") == 3 and "<script>" not in text


def test_names_in_markdown_are_no_markup() -> None:
    filters = pages._environment().filters
    assert filters["markdown"]("<b>a|b</b> & *x* [y](z) `c`\n_d_") == (
        r"&lt;b&gt;a\|b&lt;/b&gt; &amp; \*x\* \[y\](z) \`c\` \_d\_"
    )
    assert filters["code_span"]("a=<b>") == "`a=<b>`"
    assert filters["code_span"]("a=`b``") == "``` a=`b`` ```"


def test_a_missing_value_is_an_error(page: Page) -> None:
    with pytest.raises(UndefinedError, match="name"):
        page("{{ name }}")


def test_bytes_of_a_name_that_are_not_utf_8_are_shown(page: Page) -> None:
    assert "red/\\xe9ü.jpg" in page("{{ name }}", name="red/\udce9ü.jpg")


def test_columns_of_numbers_are_aligned_to_the_right(page: Page) -> None:
    text = page("{{ table(['A', 'B', 'C'], [['x', 1, '5%'], [2, 3, '–']]) }}")
    assert '<th class="text">A</th><th class="">B</th><th class="">C</th>' in text
    assert '<td class="text">2</td><td class="">3</td><td class="">–</td>' in text


def test_a_picture_has_a_caption_with_or_without_a_preview(page: Page) -> None:
    text = page("{% call picture(uri) %}<b>{{ name }}</b>{% endcall %}", uri="data:x", name="a&b")
    assert '<img src="data:x" alt="">' in text and "<b>a&amp;b</b>" in text
    assert "no preview" in page("{% call picture(none) %}a{% endcall %}")


def test_the_style_is_in_the_page(page: Page) -> None:
    assert "max-width: 60rem" in page("")


def test_the_bars_of_many_classes_are_cut_to_the_largest_and_smallest() -> None:
    names = [f"<class {i}>" for i in range(100)]
    chart = class_bars(names, {"train": range(100), "validation": [1] * 100})
    assert chart.count('text-anchor="end"') == 60
    assert "30 largest and smallest of 100 classes" in chart
    assert "&lt;class 99&gt;" in chart and "&lt;class 50&gt;" not in chart
    assert "<title>train: 99</title>" in chart and "<title>validation: 1</title>" in chart
