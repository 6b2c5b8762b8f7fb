"""Is a data set fit for training: subsets of images, their measurements, and the problems found.

paths ─► subsets (train, validation, …) ─► a measurement of every image ─► problems
"""

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from image_classification.errors import counted
from image_classification.labels.kinds import LabelKind
from image_classification.labels.label_map import LabelMap
from image_classification.labels.lists import label_text
from image_classification.samples import (
    BoolArray,
    Float64Array,
    FloatArray,
    IntArray,
    UInt8Array,
    UInt64Array,
)

Severity = Literal["error", "warning", "note"]
"""error: training would fail or its figures would be wrong; warning: a person should look; note:
good to know."""
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")

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
        origins: of records, the paths of the images before packing, if lists next to the files have
            them all.
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
    origins: Sequence[str] = ()

    def image_name(self, index: int) -> str:
        """Return a path that can be opened, or `file.rec#<image id>`, with the image's name."""
        return os.path.join(self.folder, self.keys[index])

    def class_of(self, index: int) -> str:
        """Return the class name of an image, or its label; of several classes all."""
        if self.multi_hot is not None:
            classes = np.flatnonzero(self.multi_hot[index]).tolist()
            return ", ".join(map(self.name_of, classes)) or "no class"
        label = self.labels[index]
        if self.names is not None and 0 <= label < len(self.names) and label == int(label):
            return self.names.names[int(label)]
        return label_text(label)

    def name_of(self, class_index: int) -> str:
        """Return the name of a class, or its number where nothing names it."""
        if self.names is not None and class_index < len(self.names):
            return self.names.names[class_index]
        return str(class_index)


class Measurements:
    """Properties of the images of a subset, a row each: no object for an image stays.

    Attributes:
        digests: uint64 (images, 2), of the files; equal files have equal ones. 0 for an unreadable
            or empty file.
        sizes: int64 (images, 2), height and width in pixels, upright; 0 for an unusable image.
        is_gray: bool (images,), without color.
        is_plain: bool (images,), almost uniform, so that a perceptual hash is meaningless.
        brightness: float32 (images,), mean gray level, 0 to 255.
        sharpness: float32 (images,), variance of the Laplacian; see `measure`.
        is_hashed: bool (images,), whether the perceptual hash means anything.
        hashes: uint64 (images, 2), the perceptual hash and that of the mirrored image.
        reasons: index → why the image is unusable.
    """

    def __init__(self, images: int) -> None:
        self.digests: UInt64Array = np.zeros((images, 2), np.uint64)
        self.sizes: IntArray = np.zeros((images, 2), np.int64)
        self.is_gray: BoolArray = np.zeros(images, np.bool_)
        self.is_plain: BoolArray = np.zeros(images, np.bool_)
        self.brightness: FloatArray = np.zeros(images, np.float32)
        self.sharpness: FloatArray = np.zeros(images, np.float32)
        self.is_hashed: BoolArray = np.zeros(images, np.bool_)
        self.hashes: UInt64Array = np.zeros((images, 2), np.uint64)
        self.reasons: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self.digests)

    @property
    def is_usable(self) -> BoolArray:
        """bool (images,)."""
        usable = np.ones(len(self), np.bool_)
        usable[list(self.reasons)] = False
        return usable


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


@dataclass(frozen=True)
class LabelIssue:
    """A label that is perhaps wrong.

    Attributes:
        place: the number of its subset, and the index of its image there.
        file: the image; a path that can be opened, or `file.rec#<image id>`, as `image_name`.
        given, suggested: class names.
        score: 0–1, the probability that the given class is wrong.
    """

    place: tuple[int, int]
    file: str
    given: str
    suggested: str
    score: float


@dataclass(frozen=True)
class LabelReview:
    """What the features of a pretrained network say about the labels of all subsets together.

    Attributes:
        backbone: whose features they are.
        images: how many were judged.
        threshold: the least score of an issue, 0–1.
        wrong_share: the share of wrong labels is at least about this, 0–1.
        accuracy: 0–1, of heads on the features, on images that they were not fitted on.
        interval: its 95% interval.
        issues: the labels that are perhaps wrong, the most suspicious first.
        outliers: (place, distance) of images unlike all others, the most unlike first.
        left_out: classes with too few images to judge their labels.
    """

    backbone: str
    images: int
    threshold: float
    wrong_share: float
    accuracy: float
    interval: tuple[float, float]
    issues: Sequence[LabelIssue] = ()
    outliers: Sequence[tuple[tuple[int, int], float]] = ()
    left_out: Sequence[str] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the review as JSON values."""
        return {
            "label_issues": [
                {
                    "file": issue.file,
                    "given": issue.given,
                    "suggested": issue.suggested,
                    "score": round(issue.score, 6),
                }
                for issue in self.issues
            ],
            "label_review": {
                "threshold": self.threshold,
                "backbone": self.backbone,
                "images": self.images,
                "wrong_share": round(self.wrong_share, 6),
                "kfold_accuracy": round(self.accuracy, 6),
                "kfold_accuracy_interval": [round(end, 6) for end in self.interval],
                "classes_left_out": list(self.left_out),
            },
        }

    def problems(self, subsets: Sequence[Subset]) -> Iterator[Problem]:
        """Yield the review as problems of the subsets."""
        low, high = self.interval
        message = (
            f"a linear head on the features of {self.backbone} predicts {self.accuracy:.1%} of "
            f"{self.images} images (5-fold accuracy; 95% interval {low:.1%} to {high:.1%})"
        )
        yield Problem("note", "kfold-accuracy", message)
        if self.issues:
            message = f"labels are perhaps wrong, with a probability of {self.threshold:g} or more"
            images = [
                f"{i.file}: {i.given}, perhaps {i.suggested} ({i.score:.2f})" for i in self.issues
            ]
            yield Problem("warning", "label-issues", message, images)
        if self.outliers:
            names = [subsets[number].image_name(index) for (number, index), _ in self.outliers]
            yield Problem("note", "outliers", "images are unlike all others", names)
        if self.left_out:
            message = "labels are not judged in classes with too few images"
            yield Problem("note", "labels-not-judged", message, self.left_out)


def by_severity(problems: Sequence[Problem]) -> list[Problem]:
    """Return problems in the order in which they are shown: errors first."""
    return sorted(problems, key=lambda problem: SEVERITIES.index(problem.severity))


def shortened(text: str, subsets: Sequence[Subset]) -> str:
    """Return a text without the path that all subsets share, for where it is shown already."""
    names = [subset.name for subset in subsets]
    if len(names) == 1:
        text = text.removeprefix(f"{names[0]}: ").replace(f"{names[0]}{os.sep}", "")
        return text[:1].upper() + text[1:]
    try:
        common = os.path.commonpath(names)
    except ValueError:  # no subset, or absolute and relative paths
        return text
    for name in sorted(names, key=len, reverse=True) if len(common) > 1 else ():
        text = text.replace(name, os.path.relpath(name, common))
    return text


def sentence(problems: Sequence[Problem]) -> str:
    """Return the problems in one sentence: whether the data is ready for training."""
    counts = Counter(problem.severity for problem in problems)
    found = ", ".join(counted(count, f"{kind}s") for kind, count in counts.items())
    return f"{'Not ready' if counts['error'] else 'Ready'} for training: {found or 'no problems'}."
