# mypy: allow-subclassing-any
"""A classifier: normalisation, the parts of a backbone and the head, in one module.

In: uint8 images (N, H, W, C). Out: logits, float32 (N, classes). Parameters have neutral names
(`stem.conv.weight`, `stage2.block1.conv1.weight`, `head.bias`): convolutions are (out, in, height,
width), dense layers (out, in), whatever the backend. A timm backbone is one part called `trunk`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import nn

from image_classification.backends.base import ModelSpec, State
from image_classification.backends.initial_weights import initial_tensor
from image_classification.backends.torch.model import efficientnet_lite, resnet
from image_classification.backends.weights_check import checked_weights
from image_classification.errors import BackendError

_TIMM_PREFIX = "timm/"
_NOT_SAVED = "num_batches_tracked"  # PyTorch's own counter; no other backend has it


class Classifier(nn.Module):
    """The network that is trained, evaluated and exported.

    Args:
        parts: modules from normalised float32 (N, C, H, W) to features (N, width), in order.
        width: number of features.
        spec: classes, mean and std (units of 0–255).
    """

    def __init__(self, parts: dict[str, nn.Module], width: int, spec: ModelSpec) -> None:
        super().__init__()
        self.register_buffer("mean", _per_channel(spec.mean), persistent=False)
        self.register_buffer("std", _per_channel(spec.std), persistent=False)
        self.part_names = tuple(parts)
        for name, part in parts.items():
            self.add_module(name, part)
        self.head = nn.Linear(width, spec.classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits (N, classes) of uint8 images (N, H, W, C)."""
        return self.head(self.features(images))

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """What the head sees: float32 (N, width) of uint8 images (N, H, W, C)."""
        x = (images.permute(0, 3, 1, 2).float() - self.mean) / self.std
        for name in self.part_names:
            x = getattr(self, name)(x)
        return x

    def freeze_all_but_head(self) -> None:
        """Only the head learns from now on; BatchNorms keep their statistics."""
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(name.startswith("head."))

    def tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Parameters and running statistics by neutral name: what is saved, exchanged, restored."""
        for name, tensor in self.state_dict(keep_vars=True).items():
            if not name.endswith(_NOT_SAVED):
                yield name, tensor.detach()


def build(spec: ModelSpec) -> Classifier:
    """The classifier of a specification, on the CPU, with weights drawn from its seed.

    Raises:
        BackendError: timm cannot be imported, or it cannot build that model for that input.
    """
    channels, height, _ = spec.input_shape
    with torch.random.fork_rng(devices=[]):  # layers draw from the global generator when made
        torch.random.default_generator.manual_seed(spec.seed)
        if spec.backbone.startswith(_TIMM_PREFIX):
            parts, width = _timm_parts(spec)
        elif spec.backbone in resnet.PLANS:
            parts, width = resnet.parts(spec.backbone, channels, height)
        else:
            parts, width = efficientnet_lite.parts(spec.backbone, spec.input_shape)
        model = Classifier(parts, width, spec)
    for name, tensor in model.tensors():
        if not name.startswith("trunk."):  # timm draws its own
            tensor.copy_(torch.from_numpy(initial_tensor(name, tuple(tensor.shape), spec.seed)))
    if spec.train_only_head:
        model.freeze_all_but_head()
    model.to(memory_format=torch.channels_last)  # on CPUs 4–17 % less time a step
    return model


def load_weights(classifier: Classifier, state: State, backbone: str) -> None:
    """Copy `weight/<name>` arrays into a model; see `checked_weights` for the head and errors.

    Raises:
        ArtifactError: a tensor of the backbone is missing, unknown, or of another shape; then
            nothing was changed.
    """
    tensors = dict(classifier.tensors())
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    for name, array in checked_weights(state, shapes, backbone).items():
        tensors[name].copy_(torch.from_numpy(np.array(array)))


def _timm_parts(spec: ModelSpec) -> tuple[dict[str, nn.Module], int]:
    name = spec.backbone.removeprefix(_TIMM_PREFIX)
    channels, height, width = spec.input_shape
    try:
        import timm
    except (ImportError, RuntimeError, OSError) as error:  # torchvision of another PyTorch build
        raise BackendError(
            f"backbone {spec.backbone!r} needs timm, which could not be imported ({error}); "
            "install it with the torchvision that belongs to this PyTorch build: "
            "pip install 'sagemaker-image-classification[timm]'"
        ) from error
    try:
        trunk = timm.create_model(name, pretrained=False, num_classes=0, in_chans=channels)
        with torch.inference_mode():
            features = trunk.eval()(torch.zeros(1, channels, height, width))
    except (RuntimeError, ValueError, TypeError, AssertionError) as error:
        raise BackendError(
            f"timm cannot build {name!r} for input {channels},{height},{width}: {error}"
        ) from error
    return {"trunk": trunk}, features.shape[1]


def _per_channel(values: Sequence[float]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32).reshape(1, -1, 1, 1)
