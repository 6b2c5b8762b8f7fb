"""Is a data set fit for training: what is looked at, what is measured, what is wrong.

    paths ─► parts (train, validation, …) ─► a measurement of every image ─► problems

A problem is an error where training would fail or its figures would be wrong, a warning where a
person should look, a note where it is good to know.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from image_classification.labels.label_map import LabelMap

Severity = Literal["error", "warning", "note"]


@dataclass(frozen=True)
class Part:
    """Images that belong together: a split, a folder, a channel of records.

    Attributes:
        name: what it is called; no two parts have one name.
        folder: the path that the keys are below.
        keys: names of the images, for messages.
        labels: float64 (images,), class numbers as they stand; nan where there is none.
        names: class names, or None where nothing names them.
        read: number of an image, from 0 → the bytes of its file; an OSError or a DataError if
            they cannot be had. Called from several threads.
        left_out: (what, how many, one example) of what lies there and is no image of the part.
    """

    name: str
    folder: str
    keys: Sequence[str]
    labels: npt.NDArray[np.float64]
    names: LabelMap | None
    read: Callable[[int], bytes]
    left_out: Sequence[tuple[str, int, str]] = ()


@dataclass(frozen=True)
class Measurement:
    """What one image is.

    Attributes:
        digest: of the file; equal files have equal digests. Empty where it could not be read.
        height, width: pixels, upright; 0 for an unusable image.
        is_gray: no color in it.
        is_plain: next to nothing in it, so that a perceptual hash says nothing.
        perceptual_hash: 64 bits; None where it was not asked for or would say nothing.
        reason: why it is unusable, or None.
    """

    digest: bytes = b""
    height: int = 0
    width: int = 0
    is_gray: bool = False
    is_plain: bool = False
    perceptual_hash: int | None = None
    reason: str | None = None


@dataclass(frozen=True)
class Problem:
    """Something about the data set that a person should know.

    Attributes:
        severity: see above.
        kind: a fixed name for programs.
        message: one sentence.
        images: the images it is about, or nothing.
    """

    severity: Severity
    kind: str
    message: str
    images: Sequence[str] = ()


def image_name(part: Part, number: int) -> str:
    """An image in a message: a path that can be opened, or `file.rec#<image id>`."""
    return os.path.join(part.folder, part.keys[number])
