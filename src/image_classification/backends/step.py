"""Dropout before the head: the same features are dropped whatever the framework or the device."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from image_classification.samples import FloatArray, IntArray


@dataclass(frozen=True)
class StepSamples:
    """The samples of one batch that go through the network.

    Samples of weight 0 are left out, so that padding does not enter the BatchNorm statistics. A
    sample that is alone enters twice with half its weight, because a BatchNorm on 1×1 maps needs
    two values. A batch without any sample of weight enters whole, for gradients of zero: the other
    ranks' sums, or an update of several batches, wait for it. It must leave the BatchNorm
    statistics as they are, and an update of such batches alone the weights.

    Attributes:
        batch_size: N, samples of the batch.
        indices: int64 (M,), their places in the batch; M ≥ 2 unless N is 1 and its weight 0.
        weights: float32 (M,), of their losses.
        has_weight: whether any sample has a weight.
    """

    batch_size: int
    indices: IntArray
    weights: FloatArray
    has_weight: bool

    @property
    def is_everyone(self) -> bool:
        """Whether the samples are the batch as it is: then nothing needs to be picked."""
        return np.array_equal(self.indices, np.arange(self.batch_size))

    def scattered(self, logits: FloatArray) -> FloatArray:
        """Float32 (N, classes) of the step's logits (M, classes); zeros for who was left out."""
        if self.is_everyone:
            return logits
        everyone = np.zeros((self.batch_size, logits.shape[1]), logits.dtype)
        everyone[self.indices] = logits
        return everyone


def step_samples(weights: FloatArray) -> StepSamples:
    """Of a batch whose samples have these weights, float32 (N,), 0 or more."""
    weights = np.asarray(weights, dtype=np.float32)
    indices = np.flatnonzero(weights)
    has_weight = len(indices) > 0
    if not has_weight:
        indices = np.arange(len(weights))
    elif len(indices) == 1:
        indices, weights = np.repeat(indices, 2), weights / np.float32(2)
    return StepSamples(len(weights), indices, weights[indices], has_weight)


def kept_features(
    rate: float, shape: tuple[int, int], seed: int, step: int, rank: int
) -> npt.NDArray[np.bool_] | None:
    """Bool (samples, features): which features a step keeps; None when all of them.

    What is kept is divided by 1 − rate (inverted dropout). A function of its arguments, so that a
    job that is resumed drops what the whole job would have dropped.

    Args:
        rate: 0 to below 1, share of the features to drop.
        shape: (samples that enter the step, features).
        seed: of the job.
        step: of the job, from 0.
        rank: of this process.
    """
    if rate == 0:
        return None
    generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, step, rank])))
    return generator.random(shape, np.float32) >= rate
