# mypy: allow-subclassing-any
"""The classifier as PyTorch modules: normalization, a backbone and the head.

In: uint8 images (N, H, W, C). Out: logits, float32 (N, classes). Parameters have their neutral
names and layouts (`networks`), so state dictionaries are exchanged as they are.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from image_classification.backends import base, networks
from image_classification.backends.networks import layers
from image_classification.backends.state import initial_tensor
from image_classification.backends.torch import timm_models
from image_classification.errors import BackendError

HEADERS = Path(torch.__file__).with_name("include")
"""What PyTorch compiles with; our images leave it out."""

_NOT_SAVED = "num_batches_tracked"  # PyTorch's own counter; no other backend has it


class Classifier(nn.Module, ABC):
    """The network that is trained, evaluated and exported; a subclass adds the backbone."""

    def __init__(self, width: int, spec: base.ModelSpec) -> None:
        super().__init__()
        self.register_buffer("mean", _per_channel(spec.mean), persistent=False)
        self.register_buffer("std", _per_channel(spec.std), persistent=False)
        self.head = nn.Linear(width, spec.classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits (N, classes) of uint8 images (N, H, W, C)."""
        return self.head(self.features(images))

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """Return the input of the head, (N, width), of uint8 images (N, H, W, C)."""
        return self.backbone((images.permute(0, 3, 1, 2).float() - self.mean) / self.std)

    @abstractmethod
    def backbone(self, x: torch.Tensor) -> torch.Tensor:
        """Return features (N, width) of normalized float32 (N, C, H, W)."""

    def tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield the parameters and running statistics with their neutral names."""
        for name, tensor in self.state_dict(keep_vars=True).items():
            if not name.endswith(_NOT_SAVED):
                yield name, tensor.detach()

    def arrays(self) -> base.State:
        """Return copies of all tensors on the host by neutral name."""
        return {name: np.array(t.cpu().numpy(), order="C") for name, t in self.tensors()}


def _per_channel(values: Sequence[float]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32).reshape(1, -1, 1, 1)


class Convolution(nn.Conv2d):
    """A convolution with a padding of its own on each side of the image."""

    def __init__(self, layer: layers.Convolution) -> None:
        (top, bottom), (left, right) = layer.padding
        is_even = top == bottom and left == right  # then PyTorch pads without a copy
        super().__init__(
            layer.width_in,
            layer.width,
            layer.kernel,
            layer.stride,
            (top, left) if is_even else 0,
            groups=layer.groups,
            bias=layer.has_bias,
        )
        self.uneven_padding = None if is_even else (left, right, top, bottom)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.uneven_padding is not None:
            x = functional.pad(x, self.uneven_padding)
        return super().forward(x)


class Norm(nn.Module):
    """BatchNorm whose running variance averages biased variances, as in other frameworks."""

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
        # A copy: autograd keeps it, and rejects a buffer that changes later.
        variance = self.running_var.clone() if self.training else self.running_var
        y = functional.batch_norm(
            x,
            self.running_mean,
            variance,
            self.weight,
            self.bias,
            self.training,
            1.0 - self.momentum,  # PyTorch's momentum is the weight of the new value
            self.epsilon,
        )
        if self.training:  # PyTorch has added n / (n − 1) times the batch's variance
            share = x.shape[1] / x.numel()
            self.running_var.mul_(self.momentum * share).add_(variance, alpha=1.0 - share)
        return y


@dataclass(frozen=True)
class _Operation:
    """One operation, the values it reads, the value it writes, and the values to free after it."""

    function: Callable[..., torch.Tensor]
    inputs: tuple[str, ...]
    output: str
    freed: tuple[str, ...]


class SharedClassifier(Classifier):
    """A classifier of a shared backbone (`networks`); its modules have the layers' names."""

    def __init__(self, spec: base.ModelSpec) -> None:
        network = networks.network(spec.backbone, spec.input_shape)
        super().__init__(network.width, spec)
        self._operations = []
        for layer, freed in zip(network.layers, network.last_uses(), strict=True):
            function = _function(layer, is_only_reader=layer.inputs[0] in freed)
            if isinstance(function, nn.Module):
                _add_module(self, layer.name, function)
            self._operations.append(_Operation(function, layer.inputs, layer.name, freed))

    def backbone(self, x: torch.Tensor) -> torch.Tensor:
        values = {layers.INPUT: x}
        for operation in self._operations:
            x = operation.function(*[values[name] for name in operation.inputs])
            values[operation.output] = x
            for name in operation.freed:
                del values[name]
        return x


def _function(layer: layers.Layer, is_only_reader: bool) -> Callable[..., Any]:
    """Return the module of a layer with weights, a function for any other.

    An activation overwrites its input if nothing else reads it. That input is a BatchNorm's output,
    which the BatchNorm's gradient does not need.
    """
    if isinstance(layer, layers.Convolution):
        return Convolution(layer)
    if isinstance(layer, layers.Norm):
        return Norm(layer)
    if isinstance(layer, layers.Activation):
        if layer.ceiling is None:
            return partial(functional.relu, inplace=is_only_reader)
        bounds = {"min_val": 0.0, "max_val": layer.ceiling}
        return partial(functional.hardtanh, **bounds, inplace=is_only_reader)
    if isinstance(layer, layers.MaxPool):
        (top, _), (left, _) = layer.padding
        sizes = {"kernel_size": layer.kernel, "stride": layer.stride, "padding": (top, left)}
        return partial(functional.max_pool2d, **sizes)
    if isinstance(layer, layers.Mean):
        return partial(torch.mean, dim=(2, 3), keepdim=layer.keeps_sides)
    return _FUNCTIONS[type(layer)]


_FUNCTIONS: dict[type[layers.Layer], Callable[..., Any]] = {
    layers.Add: torch.add,
    layers.Scale: torch.mul,
    layers.Sigmoid: torch.sigmoid,
    layers.Swish: functional.silu,
}


def _add_module(root: nn.Module, name: str, module: nn.Module) -> None:
    """Add `module` as `root.<name>`; a dot in the name is a module that only contains others."""
    *folders, last = name.split(".")
    for folder in folders:
        if not hasattr(root, folder):
            root.add_module(folder, nn.Module())
        root = getattr(root, folder)
    root.add_module(last, module)


class TimmClassifier(Classifier):
    """A classifier of a backbone `timm/<name>`."""

    def __init__(self, spec: base.ModelSpec) -> None:
        trunk, width = _trunk(spec)
        super().__init__(width, spec)
        self.trunk = trunk

    def backbone(self, x: torch.Tensor) -> torch.Tensor:
        return self.trunk(x)


def _trunk(spec: base.ModelSpec) -> tuple[nn.Module, int]:
    name = spec.backbone.removeprefix(timm_models.PREFIX)
    channels, height, width = spec.input_shape
    timm = timm_models.load(spec.backbone)
    try:
        trunk = timm.create_model(name, pretrained=False, num_classes=0, in_chans=channels)
        with torch.inference_mode():
            features = trunk.eval()(torch.zeros(1, channels, height, width))
    except (RuntimeError, ValueError, TypeError, AssertionError) as error:
        raise BackendError(
            f"timm cannot build {name!r} for input {channels},{height},{width}: {error}"
        ) from error
    return trunk, features.shape[1]


def build(spec: base.ModelSpec) -> Classifier:
    """Return a classifier on the CPU with weights drawn from the seed of `spec`.

    Raises:
        BackendError: timm cannot be imported, or it cannot build the model for this input.
    """
    with torch.random.fork_rng(devices=[]):  # new layers draw from the global generator
        torch.random.default_generator.manual_seed(spec.seed)
        is_timm = spec.backbone.startswith(timm_models.PREFIX)
        model = TimmClassifier(spec) if is_timm else SharedClassifier(spec)
    for name, tensor in model.tensors():
        if not name.startswith("trunk."):  # timm has drawn those
            tensor.copy_(torch.from_numpy(initial_tensor(name, tuple(tensor.shape), spec.seed)))
    if spec.train_only_head:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name.startswith("head."))
    model.to(memory_format=torch.channels_last)  # on CPUs 4–17% less time per step
    return model


def load_weights(classifier: Classifier, arrays: base.State) -> None:
    """Copy checked arrays into the tensors of their neutral names."""
    tensors = dict(classifier.tensors())
    for name, array in arrays.items():
        tensors[name].copy_(torch.from_numpy(np.array(array)))


class AveragedModel:
    """A model and its moving average, a second model for predictions and export."""

    def __init__(self, newest: Classifier) -> None:
        self.model = copy.deepcopy(newest)
        self._newest = [tensor for _, tensor in newest.tensors()]
        self._averages = [tensor for _, tensor in self.model.tensors()]

    def update(self, decay: float) -> None:
        """Set average = decay · average + (1 − decay) · weights; decay 0 copies the weights."""
        torch._foreach_lerp_(self._averages, self._newest, 1.0 - decay)  # one operator for all

    def load(self, arrays: base.State) -> None:
        """Start the average at the model's weights, with these arrays in their place."""
        self.update(0.0)
        load_weights(self.model, arrays)


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return `function`, which PyTorch compiles at its first call.

    Raises:
        BackendError: this PyTorch cannot compile. When called: the machine has no compiler, or the
            compiler cannot translate the function.
    """
    if not HEADERS.is_dir():
        raise BackendError(
            "compile=on: this image cannot compile, because it contains neither a compiler nor "
            "PyTorch's header files: set compile=off, or train without an image, in an environment "
            "with a C++ compiler"
        )
    faster = torch.compile(function)

    def call(*arguments: Any) -> Any:
        try:
            return faster(*arguments)
        except torch._dynamo.exc.TorchDynamoException as error:
            reason = " ".join(str(error).strip().splitlines())[:300]
            raise BackendError(
                f"compile=on: PyTorch could not compile the network ({reason}); "
                "install a C++ compiler, or set compile=off"
            ) from error

    return call
