"""Makes timm importable beside the CPU build of PyTorch, for the tests that use it."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from typing import Any

import pytest


@pytest.fixture(scope="session")
def timm() -> Iterator[Any]:
    """The timm library.

    timm imports torchvision, whose wheel on PyPI is linked with CUDA: on a CPU build its operators
    do not load and its import fails for want of their names. Declaring the two names it asks for
    is enough, because classifiers never call them.
    """
    for name in ("torch", "torchvision", "timm"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed: pip install timm==1.0.31 torchvision==0.28.0")
    import torch

    library = None
    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        library = torch.library.Library("torchvision", "DEF")
        for operator in ("nms", "qnms"):
            library.define(f"{operator}(Tensor dets, Tensor scores, float threshold) -> Tensor")
    import timm

    yield timm
    del library  # the names live as long as this object
