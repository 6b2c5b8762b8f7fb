"""The timm library, for the tests that use it."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest


@pytest.fixture(scope="session")
def timm() -> Any:
    """The timm library, imported as the product does it, also beside a CPU build of PyTorch."""
    for name in ("torch", "torchvision", "timm"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed: pip install timm==1.0.31 torchvision==0.28.0")
    from image_classification.backends.torch import timm_models

    return timm_models.load("timm/resnet18")
