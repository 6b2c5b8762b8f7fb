# mypy: allow-subclassing-any
"""The shared backbones in PyTorch: each layer of a `Network` becomes an operation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from image_classification.backends import networks
from image_classification.backends.base import ModelSpec
from image_classification.backends.networks import layers
from image_classification.backends.torch.model.classifier import Classifier


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
        """Features (N, width) of normalised float32 (N, C, H, W)."""
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
