"""Environment variables: the accepted values and the refused ones."""

from __future__ import annotations

import pytest

from image_classification.contract.environment import MAX_PIXELS, METRICS, PAGE, Variable
from image_classification.errors import UserError
from image_classification.images.decode import DEFAULT_MAX_PIXELS


@pytest.mark.parametrize("text", ["true", "1", "yes", "on", " TRUE ", "On"])
def test_these_words_turn_a_switch_on(text: str) -> None:
    assert METRICS.read_switch({METRICS.name: text})


@pytest.mark.parametrize("text", ["false", "0", "no", "off", " False "])
def test_these_words_turn_a_switch_off(text: str) -> None:
    assert not PAGE.read_switch({PAGE.name: text})


@pytest.mark.parametrize(("variable", "default"), [(METRICS, False), (PAGE, True)])
@pytest.mark.parametrize("text", [None, "", " "])
def test_a_switch_that_is_unset_or_empty_is_its_default(
    variable: Variable, default: bool, text: str | None
) -> None:
    environ = {} if text is None else {variable.name: text}
    assert variable.read_switch(environ) is default


@pytest.mark.parametrize("text", ["enabled", "falsch", "2", "y", "true,"])
def test_the_error_of_a_misspelled_switch_lists_the_accepted_words(text: str) -> None:
    with pytest.raises(UserError, match=rf"{PAGE.name} must be .*true.*off.*got '{text}'"):
        PAGE.read_switch({PAGE.name: text})


def test_the_default_size_limit_of_images_is_that_of_the_decoder() -> None:
    assert MAX_PIXELS.read_integer(1, {}) == DEFAULT_MAX_PIXELS
