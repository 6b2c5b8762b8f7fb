"""Backends by name: list them, read a catalog, load an engine. Nothing is imported before its use.

In: the value of the `backend` hyperparameter. Out: plain data (`catalog`) or a module that builds
engines (`load`). The name of a folder here is the name of the backend and of the extra that
installs its framework; `base.py` has the protocol.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from image_classification.errors import AlgorithmError
from image_classification.images.preprocessing import Preprocessing
from image_classification.samples import Batch, FloatArray, UInt8Array

State = dict[str, npt.NDArray[np.generic]]

WEIGHT_PREFIX = "weight/"
OPTIMIZER_PREFIX = "optimizer/"
AVERAGE_PREFIX = "average/"
STEPS = OPTIMIZER_PREFIX + "steps"
"""Of a state: how many batches the engine has taken, int64 scalar."""


@dataclass(frozen=True)
class Backbone:
    """One row of a catalog.

    Attributes:
        name: the value of the `backbone` hyperparameter.
        input_size: side in pixels the backbone was designed for (or pretrained at).
        mean, std: normalization in units of 0–255, one value for all channels or three for RGB.
        resize: shorter side before the center crop that its published accuracy was measured with.
        interpolation: of that resize.
        dropout_rate: 0–1, before the head.
        weights_package: importable package that carries its ImageNet weights as a file, if any.
        weights_file: glob of that file inside the package.
        license: SPDX name of the weights' license.
        source: where architecture and weights come from.
        is_given: whether the channel `model` holds the backbone itself, and not weights for it.
    """

    name: str
    input_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: int
    interpolation: str = "bilinear"
    dropout_rate: float = 0.0
    weights_package: str | None = None
    weights_file: str | None = None
    license: str = "Apache-2.0"
    source: str = ""
    is_given: bool = False

    def normalization(self, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """(mean, std), one value per channel; a gray image takes the means of the RGB values."""
        return _per_channel(self.mean, channels), _per_channel(self.std, channels)


def _per_channel(values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    return values if len(values) == channels else (sum(values) / len(values),) * channels


@dataclass(frozen=True)
class ModelSpec:
    """What to build.

    Attributes:
        backbone: name in the backend's catalog.
        classes: width of the head, ≥ 1.
        input_shape: (channels, height, width), channels 1 or 3.
        mean, std: normalization inside the graph, units of 0–255, one value per channel.
        dropout_rate: 0–1, before the head.
        seed: of the initial weights.
        train_only_head: freeze every layer but the head (its BatchNorm statistics too).
        averages_weights: keep a moving average of all weights and statistics; `predict_step` and
            `export` then use it.
        precision: of training steps: "auto", "float32", "bfloat16" or "float16".
        compiles: whether training steps are compiled, where the framework can.
        multi_label: each class has a sigmoid and binary cross-entropy (mean over the classes)
            instead of all a softmax and cross-entropy; targets are then 0 or 1 for every class.
        positive_weights: with multi_label, the weight of a class's loss where it is present; ().
        folder: where the files of a backbone lie that `is_given`, while the engine is built.
    """

    backbone: str
    classes: int
    input_shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    dropout_rate: float = 0.0
    seed: int = 0
    train_only_head: bool = False
    averages_weights: bool = False
    precision: str = "auto"
    compiles: bool = False
    multi_label: bool = False
    positive_weights: tuple[float, ...] = ()
    folder: Path | None = None

    def check_images(self, images: UInt8Array) -> None:
        """AlgorithmError unless these are (N, H, W, C) of the input shape: a fault of the core."""
        channels, height, width = self.input_shape
        if images.shape[1:] != (height, width, channels):
            raise AlgorithmError(
                f"expected images (N, {height}, {width}, {channels}), received {images.shape}"
            )


@dataclass(frozen=True)
class OptimizerSpec:
    """Which optimizer, by the names and meanings of the built-ins; unused fields are ignored.

    `weight_decay` is added to the gradient (coupled) of convolution and dense weights only.
    `head_l2` is the factor of the head weights' squared sum, added to the loss.
    """

    name: str = "sgd"
    momentum: float = 0.9
    weight_decay: float = 1e-4
    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-8
    decay: float = 0.9
    initial_accumulator: float = 0.0
    head_l2: float = 0.0
    clip_gradient_norm: float = 0.0


@dataclass(frozen=True)
class World:
    """This process among those that train together.

    Attributes:
        rank, size: its number among all of them, and how many these are.
        threads: what the framework may use.
        addresses: `host:port` of every rank, where a framework may listen; all of them meet at the
            first. Empty where there is one rank.
        local_size: how many of them are on each host; ranks of a host follow one another.
    """

    rank: int = 0
    size: int = 1
    threads: int = 1
    addresses: tuple[str, ...] = ()
    local_size: int = 1


@dataclass(frozen=True)
class Update:
    """How a batch takes part in an update of the weights; by default it is the whole of one.

    Attributes:
        share: 0–1, factor of this batch's mean loss in the update's; the shares of an update's
            batches add to 1.
        is_last: whether the weights are updated after this batch.
        average_decay: 0–1: average = decay · average + (1 − decay) · weights, after the update.
    """

    share: float = 1.0
    is_last: bool = True
    average_decay: float = 0.0


WHOLE_UPDATE = Update()


class StepResult(Protocol):
    """The outcome of one step, possibly still on its way from the device."""

    def fetch(self) -> tuple[float, FloatArray]:
        """Wait for it: (mean loss over the batch's weights, logits float32 (N, classes)).

        This is a synchronization point with the device: call it when a log line is due.
        """
        ...


class Engine(Protocol):
    """A built model with its optimizer, on its device."""

    parameter_count: int
    trainable_parameter_count: int
    device: str

    def train_step(
        self, batch: Batch, learning_rate: float, update: Update = WHOLE_UPDATE
    ) -> StepResult:
        """Gradients of soft targets (N, classes) and weights (N,), and the update they are for.

        A batch without weight takes part with gradients of zero; where no batch of an update, on
        any rank, has a sample of weight, nothing changes. The state between the batches of one
        update is not part of `state`.

        Raises:
            MemoryError: the batch does not fit the device's memory; so does `predict_step`.
        """
        ...

    def predict_step(self, images: UInt8Array) -> FloatArray:
        """Logits, float32 (N, classes), of uint8 N·H·W·C images, in evaluation mode."""
        ...

    def all_reduce(self, values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Float64 (N,) values summed over the ranks of the world; returns when all have called."""
        ...

    def state(self) -> State:
        """Everything that resuming needs: `weight/<neutral name>` and `optimizer/<name>`.

        With averaged weights also `average/<neutral name>`.
        """
        ...

    def load_state(self, state: State) -> None:
        """The inverse of `state`; an absent part starts afresh, the average at the weights."""
        ...

    def export(self, path: Path, temperature: float = 1.0) -> None:
        """Write an ONNX file: input `images` uint8 N·H·W·C, output `probabilities` float32.

        The logits are divided by `temperature` (> 0) before the softmax.
        """
        ...

    def release(self) -> None:
        """Free the device."""
        ...


class Catalog(Protocol):
    """What `<backend>/catalog.py` offers: plain data, no framework."""

    BACKBONES: Mapping[str, Backbone]

    def find(self, name: str) -> Backbone:
        """The row of that name; BackendError with the nearest name when there is none."""
        ...

    def resnet_name(self, num_layers: int) -> str:
        """The backbone that the built-in's `num_layers` means; BackendError for another depth."""
        ...


class EngineModule(Protocol):
    """What `<backend>/engine` offers: it imports the framework."""

    def build(self, spec: ModelSpec, optimizer: OptimizerSpec, world: World) -> Engine:
        """A model with fresh weights and its optimizer, on this process's device."""
        ...

    def pretrained_state(self, backbone: Backbone, weights_dir: Path | None) -> State | None:
        """ImageNet weights found on this machine as `weight/<name>`, or None; never a download."""
        ...


class FormatWriter(Protocol):
    """What an engine offers besides, where the backend's `catalog.py` has FORMATS of its own."""

    def write_format(
        self, name: str, path: Path, temperature: float, preprocessing: Preprocessing
    ) -> None:
        """Write the model, whole or not at all; its logits are divided by `temperature` (> 0).

        Raises:
            BackendError: the backbone has no such form.
            UsageError: something is at `path` already.
        """
        ...


class Launcher(Protocol):
    """What `<backend>/ranks.py` offers, where a host's devices are a process each."""

    def device_count(self) -> int:
        """The devices of this machine that can train."""
        ...

    def launch(self, arguments: Sequence[str], environments: Sequence[Mapping[str, str]]) -> int:
        """Run `python <arguments>` once for each environment; the exit code of all."""
        ...
