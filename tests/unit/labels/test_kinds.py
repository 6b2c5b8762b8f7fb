"""What labels mean is found in their numbers alone."""

from __future__ import annotations

import math

import pytest

from image_classification.labels.kinds import LabelKind, classes_of, kind_of

BOX = (0.1, 0.2, 0.5, 0.6)


@pytest.mark.parametrize(
    ("rows", "kind"),
    [
        ([], "class"),
        ([(3.0,), (0.0,)], "class"),
        ([(1.0, 0.0), (0.0, 0.0)], "multi-hot"),
        ([(1.0, 0.0), (0.0, 1.0, 1.0)], "numbers"),
        ([(1.0, 0.0), (2.0,)], "numbers"),
        ([(2.0, 5.0, 1.0, *BOX)], "detection"),
        ([(4.0, 5.0, 640.0, 480.0, 1.0, *BOX), (4.0, 5.0, 9.0, 9.0)], "detection"),
        ([(2.0, 6.0, 1.0, *BOX, 0.0, 3.0, *BOX, 1.0)], "detection"),
        ([(2.0, 5.0, 1.0, *BOX), (1.0, 0.0)], "numbers"),
        ([(2.0, 5.0, 1.0, *BOX[:3])], "numbers"),
        ([(2.0, 4.0, 1.0, 2.0, 3.0, 4.0)], "numbers"),
        ([(math.nan, 5.0), (1.0, math.inf)], "numbers"),
        ([(13.0, 25.0)], "numbers"),
    ],
)
def test_the_numbers_of_a_label_show_what_they_mean(
    rows: list[tuple[float, ...]], kind: str
) -> None:
    assert kind_of(rows) is LabelKind(kind)


def test_every_class_of_an_image_is_found_and_padding_is_none() -> None:
    assert classes_of((0.0, 1.0, 1.0), LabelKind.MULTI_HOT) == [1.0, 2.0]
    padded = (2.0, 5.0, 3.0, *BOX, 3.0, *BOX, -1.0, *[-1.0] * 4)
    assert classes_of(padded, LabelKind.DETECTION) == [3.0, 3.0]
    assert classes_of((4.0,), LabelKind.CLASS) == [4.0]
    assert classes_of((0.5, 0.7), LabelKind.NUMBERS) == []
