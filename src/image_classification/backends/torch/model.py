# mypy: allow-subclassing-any
"""A classifier: normalization, a backbone and the head, in one module.

In: uint8 images (N, H, W, C). Out: logits, float32 (N, classes). Parameters have neutral names
(`stem.conv.weight`, `stage2.block1.conv1.weight`, `head.bias`): convolutions are (out, in, height,
width), dense layers (out, in), whatever the backend.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from image_classification.backends import import_errors, networks
from image_classification.backends.base import ModelSpec, State
from image_classification.backends.networks import layers
from image_classification.backends.state import initial_tensor
from image_classification.errors import BackendError

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
        """Features (N, width) of normalized float32 (N, C, H, W)."""

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


class Convolution(nn.Conv2d):
    """A convolution that pads each side of the image by a number of its own."""

    def __init__(self, layer: layers.Convolution) -> None:
        (top, bottom), (left, right) = layer.padding
        is_even = top == bottom and left == right  # then the convolution pads without a copy
        super().__init__(
            layer.width_in,
            layer.width,
            layer.kernel,
            layer.stride,
            (top, left) if is_even else 0,
            groups=layer.groups,
            bias=False,
        )
        self.uneven_padding = None if is_even else (left, right, top, bottom)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) to (N, C', H', W')."""
        if self.uneven_padding is not None:
            x = functional.pad(x, self.uneven_padding)
        return super().forward(x)


class Norm(nn.Module):
    """BatchNorm whose running variance is the mean of the biased ones, as in other frameworks."""

    def __init__(self, layer: layers.Norm) -> None:
        super().__init__()
        self.epsilon, self.momentum = layer.epsilon, layer.momentum
        ones = torch.ones(layer.width)
        if layer.learns_scale:
            self.weight = nn.Parameter(ones.clone())
        else:
            self.register_buffer("weight", ones.clone(), persistent=False)
        self.bias = nn.Parameter(torch.zeros(layer.width))
        self.register_buffer("running_mean", torch.zeros(layer.width))
        self.register_buffer("running_var", ones)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) to the same shape; the statistics move when training."""
        # A copy, because autograd keeps it: a buffer that changes later would be an error.
        variance = self.running_var.clone() if self.training else self.running_var
        y = functional.batch_norm(
            x,
            self.running_mean,
            variance,
            self.weight,
            self.bias,
            self.training,
            1.0 - self.momentum,  # PyTorch weighs the new value
            self.epsilon,
        )
        if self.training:  # PyTorch added n / (n − 1) of the batch's variance
            share = x.shape[1] / x.numel()
            self.running_var.mul_(self.momentum * share).add_(variance, alpha=1.0 - share)
        return y


@dataclass(frozen=True)
class _Step:
    """One operation, the values it reads, the one it makes, and those to free after it."""

    operation: Callable[..., torch.Tensor]
    inputs: tuple[str, ...]
    output: str
    freed: tuple[str, ...]


class SharedClassifier(Classifier):
    """A classifier of a shared backbone; its modules have the layers' names.

    Args:
        spec: of the model; its backbone is one of `networks`.
    """

    def __init__(self, spec: ModelSpec) -> None:
        network = networks.network(spec.backbone, spec.input_shape)
        super().__init__(network.width, spec)
        self._steps = []
        for layer, freed in zip(network.layers, network.last_uses(), strict=True):
            operation = _operation(layer, is_alone=layer.inputs[0] in freed)
            if isinstance(operation, nn.Module):
                _place(self, layer.name, operation)
            self._steps.append(_Step(operation, layer.inputs, layer.name, freed))

    def backbone(self, x: torch.Tensor) -> torch.Tensor:
        """Features (N, width) of normalized float32 (N, C, H, W)."""
        values = {networks.INPUT: x}
        for step in self._steps:
            x = step.operation(*[values[name] for name in step.inputs])
            values[step.output] = x
            for name in step.freed:
                del values[name]
        return x


def _operation(layer: layers.Layer, is_alone: bool) -> Callable[..., Any]:
    """The module of a layer with weights, a function for any other.

    `is_alone` says that nobody else reads the input: an activation then overwrites it. It is a
    BatchNorm's output, which the BatchNorm's gradient does not need.
    """
    if isinstance(layer, layers.Convolution):
        return Convolution(layer)
    if isinstance(layer, layers.Norm):
        return Norm(layer)
    if isinstance(layer, layers.Activation):
        if layer.ceiling is None:
            return partial(functional.relu, inplace=is_alone)
        return partial(functional.hardtanh, min_val=0.0, max_val=layer.ceiling, inplace=is_alone)
    if isinstance(layer, layers.MaxPool):
        (top, _), (left, _) = layer.padding
        return partial(
            functional.max_pool2d,
            kernel_size=layer.kernel,
            stride=layer.stride,
            padding=(top, left),
        )
    if isinstance(layer, layers.Add):
        return partial(torch.add)
    return partial(torch.mean, dim=(2, 3))


def _place(root: nn.Module, name: str, module: nn.Module) -> None:
    """Make `module` reachable as `root.<name>`, through modules that only hold others."""
    *folders, last = name.split(".")
    for folder in folders:
        if not hasattr(root, folder):
            root.add_module(folder, nn.Module())
        root = getattr(root, folder)
    root.add_module(last, module)


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
        """Features (N, width) of normalized float32 (N, C, H, W)."""
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


def build(spec: ModelSpec) -> Classifier:
    """The classifier of a specification, on the CPU, with weights drawn from its seed.

    Raises:
        BackendError: timm cannot be imported, or it cannot build that model for that input.
    """
    with torch.random.fork_rng(devices=[]):  # layers draw from the global generator when made
        torch.random.default_generator.manual_seed(spec.seed)
        is_timm = spec.backbone.startswith(PREFIX)
        model = TimmClassifier(spec) if is_timm else SharedClassifier(spec)
    for name, tensor in model.tensors():
        if not name.startswith("trunk."):  # timm draws its own
            tensor.copy_(torch.from_numpy(initial_tensor(name, tuple(tensor.shape), spec.seed)))
    if spec.train_only_head:
        model.freeze_all_but_head()
    model.to(memory_format=torch.channels_last)  # on CPUs 4–17 % less time a step
    return model


def load_weights(classifier: Classifier, arrays: State) -> None:
    """Copy arrays, by neutral name and checked already, into a model."""
    tensors = dict(classifier.tensors())
    for name, array in arrays.items():
        tensors[name].copy_(torch.from_numpy(np.array(array)))
