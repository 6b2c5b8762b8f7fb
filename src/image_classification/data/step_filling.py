"""A batch in the making: its slots, filled by decode threads, and what becomes of bad samples.

In: the samples of a step, by number, and a buffer of a slot for each. Out: a `Batch`.
"""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from image_classification.data.augment import augment
from image_classification.data.augmentation import Augmentation
from image_classification.data.bad_samples import BadSamples
from image_classification.data.preprocessing import Preprocessing, prepare
from image_classification.data.samples import Batch, IntArray, UInt8Array
from image_classification.data.sources import PastTheEnd, Source
from image_classification.errors import DataError


@dataclass
class Step:
    """A batch in the making: its samples, its buffer and the tasks that fill it."""

    indices: IntArray
    buffer: UInt8Array
    numbers: npt.NDArray[np.void] | None
    tasks: list[Future[None]] = field(default_factory=list)

    def __post_init__(self) -> None:
        count = len(self.indices)
        self.keys = [""] * count
        self.targets: list[int | UInt8Array] = [0] * count
        self.good = np.zeros(count, np.bool_)

    def batch(self) -> Batch:
        """The good samples; where some are bad, the others move up within the buffer."""
        slots = np.flatnonzero(self.good)
        if len(slots) < len(self.indices):
            self.buffer[: len(slots)] = self.buffer[slots]
        return Batch(
            images=self.buffer[: len(slots)],
            targets=_stacked([self.targets[slot] for slot in slots]),
            weights=np.ones(len(slots), np.float32),
            keys=tuple(self.keys[slot] for slot in slots),
        )


@dataclass(frozen=True)
class SlotFiller:
    """Reads, decodes and prepares single samples; called from the decode threads.

    Attributes:
        source: where samples come from.
        preprocessing: of evaluation.
        augmentation: random training transform; None prepares images as evaluation does.
        bad_samples: what to do about samples that cannot be used.
        key_prefix: before the keys of bad samples.
    """

    source: Source
    preprocessing: Preprocessing
    augmentation: Augmentation | None
    bad_samples: BadSamples
    key_prefix: str

    def fill(self, step: Step, slot: int) -> None:
        """Make slot `slot` of the step from its sample, or leave it out as a bad one.

        Raises:
            DataError: more bad samples than allowed.
        """
        index = int(step.indices[slot])
        sample = None
        try:
            sample = self.source.read(index)
            if step.numbers is None or self.augmentation is None:
                prepare(sample.data, self.preprocessing, step.buffer[slot])
            else:
                numbers: Any = step.numbers[slot]
                augment(
                    sample.data, self.preprocessing, self.augmentation, numbers, step.buffer[slot]
                )
        except PastTheEnd:
            return
        except DataError as error:
            reason = str(error)
        else:
            step.keys[slot] = sample.key
            step.targets[slot] = (
                sample.class_index if sample.multi_hot is None else sample.multi_hot
            )
            step.good[slot] = True
            return
        key = self.source.key(index) if sample is None else sample.key
        self.bad_samples.report(self.key_prefix + key, reason)


def _stacked(targets: list[int | UInt8Array]) -> npt.NDArray[Any]:
    """int64 (N,) of class indices, uint8 (N, classes) of multi-hot rows."""
    if targets and isinstance(targets[0], np.ndarray):
        return np.stack(targets)
    return np.array(targets, np.int64)
