# mypy: allow-subclassing-any
"""What every classifier has, whatever its backbone: normalisation, head, neutral names."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

import torch
from torch import nn

from image_classification.backends.base import ModelSpec

_NOT_SAVED = "num_batches_tracked"  # PyTorch's own counter; no other backend has it


class Classifier(nn.Module, ABC):
    """The network that is trained, evaluated and exported; a subclass adds the backbone.

    Args:
        width: number of features.
        spec: classes, mean and std (units of 0–255).
    """

    def __init__(self, width: int, spec: ModelSpec) -> None:
        super().__init__()
        self.register_buffer("mean", _per_channel(spec.mean), persistent=False)
        self.register_buffer("std", _per_channel(spec.std), persistent=False)
        self.head = nn.Linear(width, spec.classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits (N, classes) of uint8 images (N, H, W, C)."""
        return self.head(self.features(images))

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """What the head sees: float32 (N, width) of uint8 images (N, H, W, C)."""
        return self.backbone((images.permute(0, 3, 1, 2).float() - self.mean) / self.std)

    @abstractmethod
    def backbone(self, x: torch.Tensor) -> torch.Tensor:
        """Features (N, width) of normalised float32 (N, C, H, W)."""

    def freeze_all_but_head(self) -> None:
        """Only the head learns from now on; BatchNorms keep their statistics."""
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(name.startswith("head."))

    def tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Parameters and running statistics by neutral name: what is saved, exchanged, restored."""
        for name, tensor in self.state_dict(keep_vars=True).items():
            if not name.endswith(_NOT_SAVED):
                yield name, tensor.detach()


def _per_channel(values: Sequence[float]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32).reshape(1, -1, 1, 1)
