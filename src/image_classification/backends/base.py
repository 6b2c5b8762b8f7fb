"""The protocol of a backend: what its modules and its engine offer, and the values they exchange.

A backend is a folder with the same files as the others: `__init__` (`Framework`), `catalog`
(`Catalog`), `engine` (`EngineModule`, `Engine`), `model`, `optimizer`, `export`, and `ranks`
(`Launcher`) if a host's devices train in a process each. Images are uint8 (N, H, W, C); tensors
have neutral names and layouts (`networks`), the same in every backend.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from image_classification.images.preprocessing import Preprocessing
from image_classification.samples import Array, Batch, Float64Array, FloatArray, UInt8Array

State = dict[str, Array]

WEIGHT_PREFIX = "weight/"
OPTIMIZER_PREFIX = "optimizer/"
AVERAGE_PREFIX = "average/"
STEPS = OPTIMIZER_PREFIX + "steps"
"""Key of a state: the number of batches that the engine has trained on, int64 scalar."""
LOSS_SCALE = OPTIMIZER_PREFIX + "loss_scale"
LOSS_SCALE_AGE = OPTIMIZER_PREFIX + "loss_scale_age"
"""Keys of a state with float16: the scale of the loss and the steps since it changed."""


@dataclass(frozen=True)
class Backbone:
    """One row of a catalog.

    Attributes:
        name: the value of the `backbone` hyperparameter.
        input_size: side in pixels that the backbone was designed for or pretrained at.
        mean, std: normalization in units of 0–255, one value for all channels or three for RGB.
        resize: shorter side before the center crop with which its published accuracy was measured.
        interpolation: of that resize.
        dropout_rate: 0–1, before the head.
        weights_package: importable package that contains its ImageNet weights as a file, if any.
        weights_file: glob of that file inside the package.
        license: SPDX name of the weights' license.
        source: of the architecture and the weights.
        is_given: the channel `model` holds the backbone itself instead of weights for it.
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
        """Return (mean, std), one value per channel; gray images take the average of RGB."""
        return _per_channel(self.mean, channels), _per_channel(self.std, channels)


def _per_channel(values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    return values if len(values) == channels else (sum(values) / len(values),) * channels


@dataclass(frozen=True)
class ModelSpec:
    """The model to build.

    Attributes:
        backbone: name in the backend's catalog.
        classes: width of the head, ≥ 1.
        input_shape: (channels, height, width), channels 1 or 3.
        mean, std: normalization inside the graph, units of 0–255, one value per channel.
        dropout_rate: 0–1, before the head.
        seed: of the initial weights.
        train_only_head: freeze all layers but the head, including BatchNorm statistics.
        averages_weights: keep a moving average of all weights and statistics, which `predict_step`
            and `export` then use.
        precision: of training steps: "auto", "float32", "bfloat16" or "float16".
        compiles: compile training steps, if the framework can.
        multi_label: each class has a sigmoid and binary cross-entropy (mean over the classes)
            instead of one softmax and cross-entropy; targets are 0 or 1 for each class.
        positive_weights: with multi_label, the weight of each class's loss where the class is
            present; () for 1.
        logit_bias: without multi_label, what the loss of a training step adds to the logits of each
            class before its softmax; () for nothing. Predictions, the graph and the logits that a
            step returns are without it.
        folder: with the files of a backbone that `is_given`, while the engine is built.
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
    logit_bias: tuple[float, ...] = ()
    folder: Path | None = None


@dataclass(frozen=True)
class OptimizerSpec:
    """An optimizer, by the names and meanings of the built-ins; some use only a few fields.

    `weight_decay` is added to the gradient (coupled) of convolution and dense weights only.
    `head_l2` times the sum of the squared head weights is added to the loss.
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
        rank, size: its number, from 0, and the number of processes.
        threads: how many the framework may use.
        addresses: `host:port` of every rank, where a framework may listen; the ranks meet at the
            first. Empty with one rank.
        local_size: number of processes on each host; the ranks of a host are consecutive.
    """

    rank: int = 0
    size: int = 1
    threads: int = 1
    addresses: tuple[str, ...] = ()
    local_size: int = 1


@dataclass(frozen=True)
class Update:
    """A batch's part in an update of the weights; by default an update has one batch.

    Attributes:
        share: 0–1, factor of this batch's mean loss in the update's loss; the shares of an
            update's batches add to 1.
        is_last: update the weights after this batch.
        average_decay: 0–1: average = decay · average + (1 − decay) · weights, after the update.
    """

    share: float = 1.0
    is_last: bool = True
    average_decay: float = 0.0


WHOLE_UPDATE = Update()


class StepResult(Protocol):
    """The result of one step, which the device may still be computing."""

    def fetch(self) -> tuple[float, FloatArray]:
        """Wait for the device and return (weighted mean loss, logits float32 (N, classes)).

        The loss is without the head's L2 term; samples of weight 0 have logits of zeros. Call this
        only when a log line is due: it synchronizes with the device.
        """
        ...


class Engine(Protocol):
    """A model with its optimizer, on its device.

    It runs on the GPU of its rank if the framework sees one, else on the CPU. On the CPU the same
    seed, batches and number of threads give bit-equal weights, also after a stop and a resume.
    """

    parameter_count: int
    trainable_parameter_count: int
    feature_width: int  # of the head's input
    device: str

    def train_step(
        self, batch: Batch, learning_rate: float, update: Update = WHOLE_UPDATE
    ) -> StepResult:
        """Compute the gradients of a batch and, if it is the last of an update, update the weights.

        Samples of weight 0 are left out of the forward pass. A batch in which all have weight 0
        adds gradients of zero; an update in which no rank has a sample of weight changes nothing.
        `state` does not contain the gradients of an update that is not finished.

        Args:
            batch: images, soft targets float32 (N, classes) and weights float32 (N,). With
                `train_only_head` the images may be features, as `features_step` returns them; all
                batches of an update are of one kind.
            learning_rate: of the update.
            update: the batch's part in it.

        Raises:
            MemoryError: the batch does not fit into the device's memory; so does `predict_step`.
        """
        ...

    def predict_step(self, images: Array) -> FloatArray:
        """Return logits, float32 (N, classes), of uint8 (N, H, W, C), in evaluation mode.

        With `train_only_head` the images may be features, as in `train_step`.
        """
        ...

    def features_step(self, images: UInt8Array) -> FloatArray:
        """Return the head's input, float32 (N, feature_width), as `predict_step` computes it.

        Dropout is off, and the backbone computes in float32.
        """
        ...

    def all_reduce(self, values: Float64Array) -> Float64Array:
        """Return float64 (N,) values summed over the ranks, once all ranks have called this."""
        ...

    def state(self) -> State:
        """Return copies of all that resuming needs.

        The keys are `weight/<neutral name>`, `average/<neutral name>` with averaged weights, and
        `optimizer/<slot>/<neutral name>` or `optimizer/<name>`.
        """
        ...

    def load_state(self, state: State) -> None:
        """Take over a state, also of another backend; nothing changes if any of it is refused.

        A head that is absent or of another width keeps its fresh weights. Without optimizer slots
        the optimizer starts afresh, and without averages the average starts at the weights.

        Raises:
            ArtifactError: a tensor or a slot does not fit; see `state.checked_state`.
        """
        ...

    def export(self, path: Path, temperature: float = 1.0) -> None:
        """Write an ONNX file: input `images` uint8 (N, H, W, C), output `probabilities` float32.

        The file appears whole or not at all; the same weights give the same bytes.

        Args:
            path: of the file, in an existing folder.
            temperature: > 0, by which the logits are divided first.

        Raises:
            AlgorithmError: ONNX Runtime gives other probabilities than this engine.
            BackendError: the backbone cannot be translated.
        """
        ...

    def release(self) -> None:
        """Leave the other ranks and free the device; the engine cannot be used afterward."""
        ...


class Catalog(Protocol):
    """A backend's `catalog.py`: plain data, without the framework."""

    BACKBONES: Mapping[str, Backbone]
    FORMATS: Sequence[str]  # model formats besides ONNX; its engines are then `FormatWriter`s

    def find(self, name: str) -> Backbone:
        """Return the row of a backbone; BackendError with the nearest name for unknown ones."""
        ...


class Framework(Protocol):
    """A backend's `__init__.py`, which does not import the framework."""

    REQUIREMENTS: str  # what the framework needs besides its extra, for error messages; or ""

    def prepare(self, threads: int, /) -> None:
        """Set in this process what the framework reads while it is imported."""
        ...


class EngineModule(Protocol):
    """A backend's `engine.py`, which imports the framework."""

    def build(self, spec: ModelSpec, optimizer: OptimizerSpec, world: World) -> Engine:
        """Return a model with fresh weights and its optimizer; with several ranks, meet the others.

        Raises:
            BackendError: the backbone or the optimizer does not exist, or the framework cannot
                build the backbone for this input.
            AlgorithmError: the ranks do not meet.
            MemoryError: the model does not fit into the device's memory.
        """
        ...

    def pretrained_state(self, backbone: Backbone, weights_dir: Path | None) -> State | None:
        """Return the ImageNet weights on this machine as `weight/<name>`; None without any.

        Nothing is downloaded.

        Raises:
            ArtifactError: a file is damaged, altered or of another network.
        """
        ...


class HeadGiver(Protocol):
    """What the engines of a backend with an `is_given` backbone offer besides `Engine`."""

    def given_head(self) -> State | None:
        """Return `weight/head.weight` and `weight/head.bias` of that backbone's own head, or None.

        A single output becomes two classes with the same probabilities.
        """
        ...


class FormatWriter(Protocol):
    """What the engines of a backend with FORMATS offer besides `Engine`."""

    def write_format(
        self, name: str, path: Path, temperature: float, preprocessing: Preprocessing
    ) -> None:
        """Write the model in one of the FORMATS, whole or not at all.

        Args:
            name: of the format.
            path: of the new file or folder.
            temperature: > 0, by which the logits are divided first.
            preprocessing: of the images, for formats that include it.

        Raises:
            BackendError: the backbone does not exist in this format.
            UsageError: `path` exists.
        """
        ...


class Launcher(Protocol):
    """A backend's `ranks.py`, if a host's devices train in a process each."""

    def device_count(self) -> int:
        """Return the number of devices of this machine that can train."""
        ...

    def launch(self, arguments: Sequence[str], environments: Sequence[Mapping[str, str]]) -> int:
        """Run `python <arguments>` once with each environment added, and wait for all of them.

        They share the standard streams of this process. If one fails, the others are stopped.
        SIGTERM and other signals that ask this process to end are passed on to them.

        Returns:
            0, or the highest exit code of a process that failed; 1 if signals killed all of these.
        """
        ...
