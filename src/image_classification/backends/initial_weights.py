"""First weights from a seed: the same in every backend, whatever order it builds its layers in."""

from __future__ import annotations

import zlib

import numpy as np

from image_classification.data.samples import FloatArray


def initial_tensor(name: str, shape: tuple[int, ...], seed: int) -> FloatArray:
    """Float32 array of a tensor before training.

    Convolution and dense weights are drawn as the built-in draws them: Xavier, gaussian, by fan
    in, magnitude 2, which is a standard deviation of √(2 / fan in). BatchNorms begin with scale 1,
    shift 0, mean 0 and variance 1; biases are 0.

    Args:
        name: neutral; with the seed it decides the numbers, so that one more layer elsewhere
            changes no other.
        shape: in the neutral layout: convolutions (out, in, height, width), dense (out, in).
        seed: of the job, 0 or more.
    """
    if len(shape) < 2:
        is_one = name.endswith((".weight", ".running_var"))
        return np.full(shape, 1.0 if is_one else 0.0, np.float32)
    entropy = np.random.SeedSequence([seed, zlib.crc32(name.encode())])
    generator = np.random.Generator(np.random.PCG64(entropy))
    deviation = np.float32(np.sqrt(2.0 / np.prod(shape[1:])))
    return generator.standard_normal(shape, np.float32) * deviation
