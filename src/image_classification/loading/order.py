"""The order of samples: a function of (seed, epoch, rank) and nothing else.

In: how many samples there are. Out: the indices that one rank reads, in order. Every rank computes
the same global permutation and takes its own share, so no sample is read twice or left out.
"""

import numpy as np

from image_classification.samples import IntArray

_ORDER, _AUGMENTATION, _MIXING, _BALANCE = range(4)  # separate streams of random numbers


def epoch_order(
    count: int, seed: int, epoch: int, rank: int = 0, world_size: int = 1, shuffle: bool = True
) -> IntArray:
    """Return the int64 indices, 0 to count − 1, that `rank` reads in `epoch`.

    The ranks together read every sample exactly once; their counts differ by at most one.

    Args:
        count: samples in all.
        seed: of the job, 0 or more.
        epoch: from 0.
        rank: 0 to world_size − 1.
        world_size: how many ranks share the samples.
        shuffle: whether to permute; otherwise the samples' own order.
    """
    if not shuffle:
        return np.arange(rank, count, world_size, dtype=np.int64)
    order = _generator(seed, _ORDER, epoch).permutation(count)
    return np.ascontiguousarray(order[rank::world_size], np.int64)


def balanced_order(
    class_indices: IntArray, seed: int, epoch: int, rank: int = 0, world_size: int = 1
) -> IntArray:
    """As `epoch_order`, but with every class equally often, give or take one sample.

    An epoch keeps its number of samples: it leaves out some samples of large classes, others in
    each epoch, and repeats those of small classes, all equally often, give or take one.

    Args:
        class_indices: int64 (count,), the class of every sample.
        seed, epoch, rank, world_size: as in `epoch_order`.
    """
    generator = _generator(seed, _BALANCE, epoch)
    classes = generator.permutation(np.unique(class_indices))
    count = len(class_indices)
    chosen = []
    for position, class_index in enumerate(classes):
        members = np.flatnonzero(class_indices == class_index)
        quota = len(range(position, count, len(classes)))
        rounds = -(-quota // len(members))
        drawn = [generator.permutation(members) for _ in range(rounds)]
        chosen.append(np.concatenate(drawn)[:quota] if drawn else members[:0])
    order = generator.permutation(np.concatenate(chosen))
    return np.ascontiguousarray(order[rank::world_size], np.int64)


def step_generator(seed: int, epoch: int, rank: int, step: int) -> np.random.Generator:
    """The generator for the augmentation of one step, so that a job can resume at any step."""
    return _generator(seed, _AUGMENTATION, epoch, rank, step)


def mixing_generator(seed: int, epoch: int, rank: int, step: int) -> np.random.Generator:
    """The generator for mixup and cutmix in one step."""
    return _generator(seed, _MIXING, epoch, rank, step)


def _generator(*entropy: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(entropy)))
