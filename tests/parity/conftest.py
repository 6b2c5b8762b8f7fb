"""Every installed backend against the reference, which computes in float64 by the formulas."""

from __future__ import annotations

import pytest

from image_classification import backends
from image_classification.errors import BackendError

SUBJECTS = [name for name in backends.names() if name != "reference"]


@pytest.fixture(scope="session", params=SUBJECTS)
def subject(request: pytest.FixtureRequest) -> str:
    """The name of a backend whose framework is installed here."""
    name = str(request.param)
    for needed in (name, "reference"):
        try:
            backends.load(needed)
        except BackendError as error:
            pytest.skip(str(error))
    return name
