"""Counts the work of Python code, which a busy machine does not change."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest

Counter = Callable[[Callable[[], object]], int]


@pytest.fixture
def calls_of() -> Counter:
    """Counts calls of functions and their returns while `use()` runs; each takes about 0.1 µs."""

    def count(use: Callable[[], object]) -> int:
        events = 0

        def see(*_: object) -> None:
            nonlocal events
            events += 1

        before = sys.getprofile()
        sys.setprofile(see)
        try:
            use()
        finally:
            sys.setprofile(before)
        return events

    return count
