# mypy: allow-subclassing-any
"""Backbones of the timm library: one module called `trunk`, with timm's names behind it."""

from __future__ import annotations

import torch
from torch import nn

from image_classification.backends import import_errors
from image_classification.backends.base import ModelSpec
from image_classification.backends.torch.model.classifier import Classifier
from image_classification.errors import BackendError

PREFIX = "timm/"


class TimmClassifier(Classifier):
    """A classifier of a backbone named `timm/<name>`.

    Raises:
        BackendError: timm cannot be imported, or it cannot build that model for that input.
    """

    def __init__(self, spec: ModelSpec) -> None:
        trunk, width = _trunk(spec)
        super().__init__(width, spec)
        self.trunk = trunk

    def backbone(self, x: torch.Tensor) -> torch.Tensor:
        """Features (N, width) of normalised float32 (N, C, H, W)."""
        return self.trunk(x)


def _trunk(spec: ModelSpec) -> tuple[nn.Module, int]:
    name = spec.backbone.removeprefix(PREFIX)
    channels, height, width = spec.input_shape
    beside = "the torchvision that belongs to this PyTorch build"
    with import_errors(f"backbone {spec.backbone!r} needs timm", "timm", beside):
        import timm
    try:
        trunk = timm.create_model(name, pretrained=False, num_classes=0, in_chans=channels)
        with torch.inference_mode():
            features = trunk.eval()(torch.zeros(1, channels, height, width))
    except (RuntimeError, ValueError, TypeError, AssertionError) as error:
        raise BackendError(
            f"timm cannot build {name!r} for input {channels},{height},{width}: {error}"
        ) from error
    return trunk, features.shape[1]
