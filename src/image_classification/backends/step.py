"""What every backend does alike in a training step: its samples, dropout and precision."""

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from image_classification.backends.base import ModelSpec
from image_classification.errors import AlgorithmError
from image_classification.samples import Array, BoolArray, FloatArray, IntArray

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class StepSamples:
    """The samples of one batch that go through the network.

    Samples of weight 0 stay out, so that padding does not enter the BatchNorm statistics. A single
    sample enters twice with half its weight, because a BatchNorm on 1×1 maps needs two values. A
    batch in which all weights are 0 enters whole, for gradients of zero: the other ranks' sums, or
    an update of several batches, wait for them. Such a batch must not change the BatchNorm
    statistics, and an update of such batches alone must not change the weights.

    Attributes:
        batch_size: N, samples of the batch.
        indices: int64 (M,), their indices in the batch; M ≥ 2 unless N is 1 and its weight 0.
        weights: float32 (M,), of their losses.
        has_weight: whether any sample has a weight.
        is_whole: whether the samples are the batch as it is.
    """

    batch_size: int
    indices: IntArray
    weights: FloatArray
    has_weight: bool
    is_whole: bool

    @classmethod
    def of(cls, weights: FloatArray) -> "StepSamples":
        """Select the samples of a batch by their weights, float32 (N,), 0 or more."""
        weights = np.asarray(weights, dtype=np.float32)
        indices = np.flatnonzero(weights)
        has_weight = len(indices) > 0
        if not has_weight:
            indices = np.arange(len(weights))
        elif len(indices) == 1:
            indices, weights = np.repeat(indices, 2), weights / np.float32(2)
        is_whole = np.array_equal(indices, np.arange(len(weights)))
        return cls(len(weights), indices, weights[indices], has_weight, is_whole)

    def picked(self, rows: Array) -> Array:
        """Return the rows (M, …) of the batch's (N, …); no copy if the batch enters as it is."""
        return rows if self.is_whole else rows[self.indices]

    def scattered(self, logits: FloatArray) -> FloatArray:
        """Return logits (N, classes) of the batch from the step's (M, classes), else zeros."""
        if self.is_whole:
            return logits
        everyone = np.zeros((self.batch_size, logits.shape[1]), logits.dtype)
        everyone[self.indices] = logits
        return everyone


def has_features(images: Array, spec: ModelSpec) -> bool:
    """Return whether a batch has the features of a frozen backbone, float32 (N, width).

    Raises:
        AlgorithmError: neither these nor images of the model's input shape.
    """
    if spec.train_only_head and images.ndim == 2 and images.dtype == np.float32:
        return True
    check_images(images, spec)
    return False


def check_images(images: Array, spec: ModelSpec) -> None:
    """Raise AlgorithmError unless images are (N, H, W, C) of the model's input shape."""
    channels, height, width = spec.input_shape
    if images.shape[1:] != (height, width, channels):
        raise AlgorithmError(
            f"expected images (N, {height}, {width}, {channels}), received {images.shape}"
        )


def kept_features(
    spec: ModelSpec, shape: tuple[int, ...], step: int, rank: int
) -> BoolArray | None:
    """Return bool (samples, features): the features that dropout keeps; None without dropout.

    The backend divides kept features by 1 − rate (inverted dropout). The result depends on the
    arguments alone, so a resumed job drops the same features, with any framework and device.

    Args:
        spec: of the model; its dropout rate and seed.
        shape: (samples that enter the step, features).
        step: of the job, from 0.
        rank: of this process.
    """
    if spec.dropout_rate == 0:
        return None
    entropy = np.random.SeedSequence([spec.seed, step, rank])
    return np.random.Generator(np.random.PCG64(entropy)).random(shape, np.float32) >= (
        spec.dropout_rate
    )


def step_seed(spec: ModelSpec, step: int, rank: int) -> int:
    """Return 0 to 2³² − 1, to seed the random numbers inside a network before a step."""
    return int(np.random.SeedSequence([spec.seed, step, rank]).generate_state(1)[0])


def gpu_precisions(capability: Sequence[int]) -> set[str]:
    """Return the precisions that a GPU of a compute capability, such as (7, 5), has units for."""
    names = {(0, 0): "float32", (7, 0): "float16", (8, 0): "bfloat16"}
    return {name for least, name in names.items() if tuple(capability) >= least}


def precision_of(asked: str, has: Collection[str], framework: str, device: object) -> str:
    """Return the precision of training steps; float32 with a warning if the device lacks it.

    Args:
        asked: the `precision` of a `ModelSpec`; "auto" is bfloat16 on GPUs that have it, else
            float16 on those that have that, else float32.
        has: the precisions that the framework has on the device, and that are fast there.
        framework, device: names for the warning.
    """
    if asked == "auto":
        if "float16" not in has:  # no framework here computes in float16 on CPUs
            return "float32"
        return "bfloat16" if "bfloat16" in has else "float16"
    if asked in has:
        return asked
    _logger.warning("precision=%s: %s computes in float32 on %s", asked, framework, device)
    return "float32"
