"""Pages escape what they show, and name what they lack."""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Callable

import pytest
from jinja2 import UndefinedError

from image_classification import pages
from image_classification.pages.axes import number_text, ticks, whole_ticks
from image_classification.pages.charts import class_bars, histogram, line_chart

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


def test_control_characters_are_escaped_as_a_terminal_may_show_the_page(page: Page) -> None:
    for body in ("{{ name }}", "{{ name | markdown }}", "{{ name | code_span }}"):
        text = page(body, name="\x1b[31mred\x00\x07\x9b ü\tb")
        assert "\\x1b" in text and "\\x00\\x07\\x9b ü\tb" in text
        assert not any(sign in text for sign in "\x1b\x00\x07\x9b")


def test_columns_of_numbers_are_aligned_to_the_right(page: Page) -> None:
    text = page("{{ table(['A', 'B', 'C'], [['x', 1, '5%'], [2, 3, '–']]) }}")
    assert '<th class="text">A</th><th class="">B</th><th class="">C</th>' in text
    assert '<td class="text">2</td><td class="">3</td><td class="">–</td>' in text


def test_a_picture_has_a_caption_with_or_without_a_preview(page: Page) -> None:
    body = "{% call picture(uri, name) %}<b>{{ name }}</b>{% endcall %}"
    text = page(body, uri="data:x", name='a&"b')
    assert '<img src="data:x" alt="a&amp;&#34;b">' in text and "<b>a&amp;&#34;b</b>" in text
    assert "no preview" in page("{% call picture(none, '') %}a{% endcall %}")


def test_the_style_is_in_the_page(page: Page) -> None:
    assert "max-width: 68rem" in page("")


def test_the_bars_of_many_classes_are_cut_to_the_largest_and_smallest() -> None:
    names = [f"<class {i}>" for i in range(100)]
    chart = class_bars(names, {"train": range(100), "validation": [1] * 100})
    assert chart.count('<th scope="row">') == 60
    assert "30 largest and smallest of 100 classes" in chart
    assert "&lt;class 99&gt;" in chart and "&lt;class 50&gt;" not in chart
    assert 'title="train: 99"' in chart and 'title="validation: 1"' in chart


def test_ticks_are_few_round_numbers_that_enclose_the_values() -> None:
    generator = random.Random(0)
    for _ in range(2000):
        low = generator.uniform(0, 10) * 10 ** generator.randint(-6, 6)
        high = low + generator.choice([0, 1]) * low * 10 ** generator.uniform(-3, 3)
        found = ticks(low, high)
        step = found[1] - found[0]
        assert 2 <= len(found) <= 7 and found[0] <= low + 1e-9 * step
        assert found[-1] >= high - 1e-6 * step
        assert f"{step:.1e}"[:3] in {"1.0", "2.0", "2.5", "5.0"}, (low, high, found)
        assert abs(found[0] / step - round(found[0] / step)) < 1e-4
    for most in range(1, 300):
        whole = whole_ticks(most)
        assert whole[0] == 0 and whole[-1] >= most and 2 <= len(whole) <= 6
        assert len({b - a for a, b in itertools.pairwise(whole)}) == 1


def test_the_axes_of_a_chart_have_round_ticks_and_shares_end_at_100_percent() -> None:
    loss = line_chart("Loss", {"training": [1.0376, 0.541, 0.4737], "validation": [0.9] * 3})
    assert texts(loss) == ["0.4", "0.6", "0.8", "1", "1.2", "1", "2", "3", "epoch"]
    accuracy = line_chart("Accuracy", {"training": [0.913, 0.988]}, is_share=True)
    assert texts(accuracy) == ["90%", "92%", "94%", "96%", "98%", "100%", "1", "2", "epoch"]
    perfect = line_chart("Accuracy", {"training": [1.0]}, is_share=True)
    assert texts(perfect)[-3] == "100%" and len(texts(perfect)) > 3
    assert texts(histogram("Sizes", [3, 1], ["0", "5", "10"]))[:4] == ["0", "1", "2", "3"]
    assert [number_text(value) for value in (0.00025, 1e-7, 1500, 0)] == [
        *("0.00025", "1e-7", "1,500", "0")
    ]


def texts(chart: str) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]*)</text>", chart)


def test_charts_have_no_color_of_their_own_so_they_follow_the_page() -> None:
    chart = line_chart("Loss", {"training": [1.0, 0.5], "validation": [1.0, 0.6]}, best=2)
    chart += class_bars(["a"], {"train": [1], "test": [2]}) + histogram("Sizes", [3], ["0", "1"])
    assert "fill=" not in chart and "stroke=" not in chart and "#" not in chart
