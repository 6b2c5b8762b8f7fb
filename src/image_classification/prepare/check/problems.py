"""The problems of each subset: its images, labels, classes and folders, also against the others."""

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from image_classification.inventory import review, rows
from image_classification.labels import tree
from image_classification.labels.kinds import LabelKind, remedy
from image_classification.labels.label_map import alike, numbering_advice
from image_classification.loading import sources
from image_classification.prepare.check import (
    WITHOUT_IMAGE,
    Measurement,
    Problem,
    Severity,
    Subset,
)
from image_classification.samples import IMBALANCED

_TINY_SIDE = 32  # pixels of the shorter side
_HUGE_PIXELS = 16_000_000  # decoding one takes a tenth of a second and more
_ODD_ASPECT = 3.0  # a crop shows a third of such an image
# Measured on 900 photographs: 0.1 % are below this sharpness; blurred by a Gaussian of 2 % of the
# shorter side, 88 % are.
_BLURRED = 100.0
_BLUR_SHARE = 0.25  # of the median
_NAMED = 10
ORDER: tuple[Severity, ...] = ("error", "warning", "note")

# What is left out → its `kind` in JSON, which never changes.
_ERRORS = {sources.LOST: "class-folders-without-a-usable-image"}
_WARNINGS = {
    sources.EMPTY: "class-folders-without-an-image",
    sources.OUTSIDE: "images-outside-a-class-folder",
    rows.UNLISTED: "images-that-the-list-does-not-name",
    review.UNDECIDED: "images-to-relabel",
    tree.HIDDEN: "hidden-files-or-folders",
}
_NOTES = {
    sources.NESTED: "folders-inside-a-class-folder",
    rows.REPEATED: "lines-that-repeat-another",
    review.DROPPED: "images-that-the-list-drops",
    tree.SPECIAL: "links-to-nowhere-or-special-files",
    tree.CIRCULAR: "links-to-a-folder-around-themselves",
    tree.NO_EXTENSION: "files-without-an-extension",
    WITHOUT_IMAGE: "records-without-an-image",
}


def _image_problems(subset: Subset, measured: Sequence[Measurement]) -> Iterator[Problem]:
    """Yield unreadable images, then odd ones."""
    reasons = [
        f"{subset.image_name(i)}: {image.reason}"
        for i, image in enumerate(measured)
        if image.reason is not None
    ]
    if reasons:
        yield Problem("error", "unreadable", f"{subset.name}: images cannot be used", reasons)
    for kind in image_kinds(measured):
        names = [subset.image_name(i) for i in kind.indices]
        yield Problem(kind.severity, kind.kind, f"{subset.name}: {kind.message}", names)


@dataclass(frozen=True)
class ImageKind:
    """Images of a subset that are odd in the same way; the attributes are those of a `Problem`."""

    severity: Severity
    kind: str
    message: str
    indices: Sequence[int]


def image_kinds(measured: Sequence[Measurement]) -> Iterator[ImageKind]:
    """Yield tiny, huge, long, gray, plain and blurred images."""
    usable = [(i, image) for i, image in enumerate(measured) if image.reason is None]
    in_color = sum(not image.is_gray for _, image in usable)
    limit = blur_limit([image for _, image in usable])
    tests: list[tuple[Severity, str, str, Callable[[Measurement], bool]]] = [
        (
            "warning",
            "tiny",
            f"images have a side below {_TINY_SIDE} pixels",
            lambda image: min(image.height, image.width) < _TINY_SIDE,
        ),
        (
            "note",
            "huge",
            f"images have more than {_HUGE_PIXELS // 10**6} megapixels: preprocess --resize makes "
            "training several times faster",
            lambda image: image.height * image.width > _HUGE_PIXELS,
        ),
        (
            "warning",
            "odd-aspect",
            f"images are more than {_ODD_ASPECT:g} times as long as wide",
            lambda image: (
                max(image.height, image.width) > _ODD_ASPECT * min(image.height, image.width)
            ),
        ),
        (
            "note",
            "grey",
            f"images are gray among {in_color} in color",
            lambda image: image.is_gray and in_color > 0,
        ),
        ("warning", "plain", "images have almost one color only", lambda image: image.is_plain),
        (
            "note",
            "blurred",
            "images are blurred among sharp ones",
            lambda image: not image.is_plain and image.sharpness < limit,
        ),
    ]
    for severity, kind, message, is_one in tests:
        indices = [i for i, image in usable if is_one(image)]
        if indices:
            yield ImageKind(severity, kind, message, indices)


def blur_limit(images: Sequence[Measurement]) -> float:
    """Return the sharpness below which an image is blurred: a fixed one, and less where all images
    are smooth, as X-rays are."""
    return min(_BLURRED, _BLUR_SHARE * float(np.median([i.sharpness for i in images] or [0.0])))


def _label_problems(subset: Subset) -> Iterator[Problem]:
    """Yield labels that are not class numbers, classes without an image, imbalance."""
    if not len(subset.keys):
        yield Problem("error", "empty", f"{subset.name}: no images")
        return
    if subset.kind is not LabelKind.CLASS:
        yield from _several_label_problems(subset)
        return
    labels, wrong = subset.labels, labels_out_of_range(subset)
    limit = len(subset.names) if subset.names is not None else float("inf")
    if wrong:
        expected = f"0 to {limit - 1:g}" if subset.names is not None else "a whole number from 0"
        yield Problem(
            "error",
            "label-out-of-range",
            f"{subset.name}: labels are not one class number, {expected}",
            [f"{subset.image_name(i)}: {_shown(labels[i])}" for i in wrong],
        )
    if not wrong:
        numbers = np.unique(labels).astype(np.int64).tolist()
        advice = numbering_advice(numbers)
        if subset.names is not None:  # a number as a name is none, if most of them are absent
            is_odd = 0 not in numbers or 2 * len(numbers) < len(subset.names)
            advice = subset.names.gaps(numbers) if is_odd else None
        if advice is not None:
            yield Problem("warning", "label-numbers", f"{subset.name}: {advice}")
    yield from _count_problems(subset)


def labels_out_of_range(subset: Subset) -> list[int]:
    """Return the indices of the images whose label is not the number of a class."""
    if subset.kind is not LabelKind.CLASS:
        return []
    labels = subset.labels
    limit = len(subset.names) if subset.names is not None else float("inf")
    with np.errstate(invalid="ignore"):
        is_class = (labels >= 0) & (labels == np.floor(labels)) & (labels < limit)
    wrong: list[int] = np.flatnonzero(~is_class).tolist()
    return wrong


def _shown(label: float) -> str:
    return "several labels, or not a number" if np.isnan(label) else f"{label:g}"


def _several_label_problems(subset: Subset) -> Iterator[Problem]:
    """Yield what there is to say about labels that are not one class per image."""
    if subset.multi_hot is None:
        message = f"{subset.name}: {remedy(subset.kind, subset.origin)}"
        yield Problem("error", f"{subset.kind.value}-labels", message)
        return
    classes = subset.multi_hot.shape[1]
    if subset.names is not None and len(subset.names) != classes:
        yield Problem(
            "error",
            "label-out-of-range",
            f"{subset.name}: images have {classes} labels of 0 or 1, but there are "
            f"{len(subset.names)} class names",
        )
    several = int(np.count_nonzero(subset.multi_hot.sum(axis=1, dtype=np.int64) > 1))
    yield Problem(
        "note",
        "multi-label",
        f"{subset.name}: images can have several of {classes} classes ({several} of "
        f"{len(subset.keys)} have): train with multi_label=1",
    )
    without = np.flatnonzero(~subset.multi_hot.any(axis=1)).tolist()
    if without:
        names = [subset.image_name(i) for i in without]
        yield Problem("note", "no-class", f"{subset.name}: images have none of the classes", names)
    yield from _count_problems(subset)


def _count_problems(subset: Subset) -> Iterator[Problem]:
    """Yield classes without an image, and imbalance."""
    counts = class_counts(subset)
    absent = [name for name, count in counts.items() if not count]
    if absent:
        yield Problem(
            "warning", "absent-class", f"{subset.name}: no images of {_listed(absent)}", absent
        )
    for group in alike(counts):
        yield Problem(
            "warning", "similar-classes", f"{subset.name}: classes {group}; merge or rename them"
        )
    present = {name: count for name, count in counts.items() if count}
    if not present:  # every label is out of range
        return
    most, least = max(present, key=present.__getitem__), min(present, key=present.__getitem__)
    if present[most] >= IMBALANCED * present[least]:
        message = (
            f"{subset.name}: {present[most]} images of {most}, but {present[least]} of {least}"
        )
        yield Problem("warning", "imbalance", message)


def class_counts(subset: Subset) -> dict[str, int]:
    """Return class name → images in the order of the class numbers, with absent named classes."""
    if subset.multi_hot is not None:
        totals = subset.multi_hot.sum(axis=0, dtype=np.int64).tolist()
        return {subset.name_of(i): count for i, count in enumerate(totals)}
    if subset.kind in (LabelKind.DETECTION, LabelKind.NUMBERS):
        return {}
    numbers = Counter(subset.labels[np.isfinite(subset.labels)].tolist())
    if subset.names is None:
        return {f"{number:g}": count for number, count in sorted(numbers.items()) if number >= 0}
    return {name: numbers.get(float(i), 0) for i, name in enumerate(subset.names.names)}


def _folder_problems(subset: Subset) -> Iterator[Problem]:
    """Yield files and folders that are not images of the subset."""
    for what, count, example in subset.left_out:
        severity: Severity = "warning" if what in _WARNINGS else "note"
        severity = "error" if what in _ERRORS else severity
        kind = (
            _ERRORS.get(what)
            or _WARNINGS.get(what)
            or _NOTES.get(what)
            or f"{what.rpartition(' ')[0].replace(' ', '-')}-files"
        )
        holds = _content(example)
        if holds:  # perhaps an image, and in a format that is not accepted
            severity, holds = max(severity, "warning", key=ORDER[::-1].index), f" ({holds})"
        yield Problem(severity, kind, f"{subset.name}: {count} {what}, such as {example}{holds}")


def _content(example: str) -> str:
    """Return what is in a file that was left out and what to do about it; "" for a folder."""
    return tree.look_into(example).what if os.path.isfile(example) else ""


def class_problems(subsets: Sequence[Subset]) -> Iterator[Problem]:
    """Yield an error if there is only one class, in all subsets or in the training subset."""
    for chosen in ([s for s in subsets if _is_training(s)], subsets):
        labeled = [subset for subset in chosen if len(subset.keys)]
        if not labeled or any(subset.kind is not LabelKind.CLASS for subset in labeled):
            continue
        found = {
            name
            for subset in labeled
            for name in map(subset.class_of, np.unique(subset.labels, return_index=True)[1])
        }
        if len(found) == 1:
            name, images = found.pop(), sum(len(subset.keys) for subset in labeled)
            yield Problem(
                "error",
                "one-class",
                f"{', '.join(subset.name for subset in labeled)}: all {images} images are of the "
                f"class {name}; training needs at least two classes: add images of another one, "
                "or give the folder that directly holds the class folders",
            )
            return


def _is_training(subset: Subset) -> bool:
    return rows.split_named(os.path.basename(subset.folder)) == "train"


def name_problems(subsets: Sequence[Subset]) -> Iterator[Problem]:
    """Yield subsets whose class numbers mean different names, or whose classes differ.

    The training subset decides, else the first one of those with the most classes. Another one may
    lack classes if its images have names: of folders, not numbers.
    """
    yield from _kind_problems(subsets)
    named = [(subset, subset.names) for subset in subsets if subset.names is not None]
    if not named:
        return
    first_subset, first = max(named, key=lambda one: (_is_training(one[0]), len(one[1])))
    for subset, labels in named:
        if labels == first:
            continue
        lacking = [name for name in first.names if name not in set(labels.names)]
        if subset.is_named and set(labels.names) < set(first.names):
            yield Problem(
                "warning",
                "absent-class",
                f"{subset.name}: no images of {_listed(lacking)}",
                lacking,
            )
            continue
        differing = set(labels.names) ^ set(first.names)
        difference = (
            f"not in both: {_listed(sorted(differing))}" if differing else "in another order"
        )
        yield Problem(
            "error",
            "other-classes",
            f"the classes of {subset.name} are not those of {first_subset.name} ({difference})",
        )


def _kind_problems(subsets: Sequence[Subset]) -> Iterator[Problem]:
    """Yield subsets whose images have another number of labels than those of the first one."""
    widths = [
        (subset.name, 1 if subset.multi_hot is None else subset.multi_hot.shape[1])
        for subset in subsets
        if len(subset.keys) and subset.kind in (LabelKind.CLASS, LabelKind.MULTI_HOT)
    ]
    for name, width in widths[1:]:
        first_name, first = widths[0]
        if width != first:
            yield Problem(
                "error",
                "other-labels",
                f"the images of {name} have {_labels(width)}, those of {first_name} "
                f"{_labels(first)}; all need the same",
            )


def _labels(width: int) -> str:
    return "one class" if width == 1 else f"{width} labels of 0 or 1"


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def subset_problems(subset: Subset, measured: Sequence[Measurement]) -> Iterator[Problem]:
    """Yield the problems of one subset: of its images, labels and folders."""
    yield from _image_problems(subset, measured)
    yield from _label_problems(subset)
    yield from _folder_problems(subset)
