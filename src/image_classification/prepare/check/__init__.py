"""Is a data set fit for training: subsets of images, their measurements, and the problems found.

paths ─► subsets (train, validation, …) ─► a measurement of every image ─► problems
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from image_classification.labels.kinds import LabelKind
from image_classification.labels.label_map import LabelMap
from image_classification.samples import Float64Array, UInt8Array

Severity = Literal["error", "warning", "note"]
"""error: training would fail or its figures would be wrong; warning: a person should look; note:
good to know."""

WITHOUT_IMAGE = "records that index identities and have no image"


@dataclass(frozen=True)
class Subset:
    """Images that belong together: a split, a folder, a channel of records.

    Attributes:
        name: unique among the subsets of a check.
        folder: the path that the keys are below.
        keys: names of the images, for messages.
        labels: float64 (images,), class numbers as they stand; nan for a missing label. Without
            meaning where images have several.
        names: class names, or None if nothing names the classes.
        read: index of an image → the bytes of its file; raises an OSError or a DataError for an
            unreadable file. Called from several threads.
        left_out: (what, how many, one example) of files in the folder that are not images of the
            subset.
        kind: what the labels mean.
        multi_hot: uint8 (images, classes), 1 for every class of an image, if images have several.
        origin: the file that has the labels, for messages.
        paths: of the image files below the folder, with the bytes of their names; none for records.
        split: train, validation or test; "" if nothing says it.
        is_named: whether the images have their classes by name, as in folders: then another subset
            may number them differently.
    """

    name: str
    folder: str
    keys: Sequence[str]
    labels: Float64Array
    names: LabelMap | None
    read: Callable[[int], bytes]
    left_out: Sequence[tuple[str, int, str]] = ()
    kind: LabelKind = LabelKind.CLASS
    multi_hot: UInt8Array | None = None
    origin: str = ""
    is_named: bool = False
    paths: Sequence[str] = ()
    split: str = ""

    def image_name(self, index: int) -> str:
        """Return a path that can be opened, or `file.rec#<image id>`."""
        return os.path.join(self.folder, self.keys[index])

    def class_of(self, index: int) -> str:
        """Return the class name of an image, or its label; of several classes all."""
        if self.multi_hot is not None:
            classes = np.flatnonzero(self.multi_hot[index]).tolist()
            return ", ".join(map(self.name_of, classes)) or "no class"
        label = self.labels[index]
        if self.names is not None and 0 <= label < len(self.names) and label == int(label):
            return self.names.names[int(label)]
        return f"{label:g}"

    def name_of(self, class_index: int) -> str:
        """Return the name of a class, or its number where nothing names it."""
        if self.names is not None and class_index < len(self.names):
            return self.names.names[class_index]
        return str(class_index)


@dataclass(frozen=True, slots=True)
class Measurement:
    """Properties of one image.

    Attributes:
        digest: of the file; equal files have equal digests. Empty for an unreadable file.
        height, width: pixels, upright; 0 for an unusable image.
        is_gray: it has no color.
        is_plain: it is almost uniform, so that a perceptual hash is meaningless.
        brightness: mean gray level, 0 to 255.
        sharpness: variance of the Laplacian of the gray image; see `measure`.
        perceptual_hash: 64 bits; None if it is meaningless.
        mirrored_hash: that of the mirrored image.
        thumbnail: the 32 × 32 gray levels that the hash is made of; empty without a hash.
        reason: why the image is unusable, or None.
    """

    digest: bytes = b""
    height: int = 0
    width: int = 0
    is_gray: bool = False
    is_plain: bool = False
    brightness: float = 0.0
    sharpness: float = 0.0
    perceptual_hash: int | None = None
    mirrored_hash: int | None = None
    thumbnail: bytes = b""
    reason: str | None = None


@dataclass(frozen=True)
class Problem:
    """A problem of the data set.

    Attributes:
        severity: how bad it is.
        kind: a fixed name for programs.
        message: one sentence.
        images: the affected images, if any.
    """

    severity: Severity
    kind: str
    message: str
    images: Sequence[str] = ()
