"""Dropout before the head: the same features are dropped whatever the framework or the device."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


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
