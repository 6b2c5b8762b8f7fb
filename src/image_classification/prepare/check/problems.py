"""The whole check of a data set: measure every image, then report the problems."""

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from image_classification.errors import counted
from image_classification.images.decode import DEFAULT_MAX_PIXELS
from image_classification.inventory import rows
from image_classification.labels import tree
from image_classification.labels.kinds import LabelKind, remedy
from image_classification.labels.label_map import MAX_CLASSES, alike, numbering_advice
from image_classification.labels.lists import label_text
from image_classification.loading import sources
from image_classification.prepare.check import (
    SEVERITIES,
    WITHOUT_IMAGE,
    LabelReview,
    Measurements,
    Problem,
    Severity,
    Subset,
    by_severity,
)
from image_classification.prepare.check.duplicates import (
    Duplicates,
    duplicate_problems,
    find_duplicates,
)
from image_classification.prepare.check.measure import image_kinds, measure
from image_classification.prepare.check.phash import HASHED_SIDE
from image_classification.samples import IMBALANCED

_NAMED = 10
_MOST_CROPPED = 100_000  # images among which cropped copies are searched for

# What is left out → its `kind` in JSON, which never changes.
_ERRORS = {sources.LOST: "class-folders-without-a-usable-image"}
_WARNINGS = {
    sources.EMPTY: "class-folders-without-an-image",
    sources.OUTSIDE: "images-outside-a-class-folder",
    rows.UNLISTED: "images-that-the-list-does-not-name",
    rows.UNDECIDED: "images-to-relabel",
    tree.HIDDEN: "hidden-files-or-folders",
}
_TABLES = (".csv", ".tsv", ".jsonl")
_NOTES = {
    sources.NESTED: "folders-inside-a-class-folder",
    rows.REPEATED: "lines-that-repeat-another",
    rows.DROPPED: "images-that-the-list-drops",
    tree.SPECIAL: "links-to-nowhere-or-special-files",
    tree.CIRCULAR: "links-to-a-folder-around-themselves",
    tree.NO_EXTENSION: "files-without-an-extension",
    WITHOUT_IMAGE: "records-without-an-image",
}


def _image_problems(subset: Subset, measured: Measurements) -> Iterator[Problem]:
    """Yield unreadable images, then odd ones."""
    reasons = [f"{subset.image_name(i)}: {why}" for i, why in sorted(measured.reasons.items())]
    if reasons:
        yield Problem("error", "unreadable", f"{subset.name}: images cannot be used", reasons)
    for kind in image_kinds(measured):
        names = [subset.image_name(i) for i in kind.indices]
        yield Problem(kind.severity, kind.kind, f"{subset.name}: {kind.message}", names)


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
        numbers = [int(label) for label in np.unique(labels).tolist()]
        advice = numbering_advice(numbers)
        if subset.names is not None:  # a number as a name is none, if most of them are absent
            is_odd = 0 not in numbers or 2 * len(numbers) < len(subset.names)
            advice = subset.names.gaps(numbers) if is_odd else None
        if advice is not None:
            severity: Severity = "error" if numbers[-1] >= MAX_CLASSES else "warning"
            yield Problem(severity, "label-numbers", f"{subset.name}: {advice}")
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
    return "several labels, or not a number" if np.isnan(label) else label_text(label)


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
        return {label_text(n): count for n, count in sorted(numbers.items()) if n >= 0}
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
        if os.path.dirname(example) == subset.name and example.lower().endswith(_TABLES):
            holds = "a table next to the class folders: if it holds the classes, give --list"
        if holds:  # perhaps an image, and in a format that is not accepted
            severity, holds = max(severity, "warning", key=SEVERITIES[::-1].index), f" ({holds})"
        yield Problem(
            severity, kind, f"{subset.name}: {counted(count, what)}, such as {example}{holds}"
        )


def _content(example: str) -> str:
    """Return what is in a file that was left out and what to do about it; "" for a folder."""
    return tree.look_into(example).what if os.path.isfile(example) else ""


def _class_problems(subsets: Sequence[Subset]) -> Iterator[Problem]:
    """Yield an error if there is only one class, in all subsets or in the training subset."""
    for chosen in ([s for s in subsets if _is_training(s)], subsets):
        labeled = [subset for subset in chosen if len(subset.keys)]
        if not labeled or any(
            subset.kind is not LabelKind.CLASS or not np.isfinite(subset.labels).all()
            for subset in labeled
        ):
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


def _name_problems(subsets: Sequence[Subset]) -> Iterator[Problem]:
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


def _subset_problems(subset: Subset, measured: Measurements) -> Iterator[Problem]:
    """Yield the problems of one subset: of its images, labels and folders."""
    yield from _image_problems(subset, measured)
    yield from _label_problems(subset)
    yield from _folder_problems(subset)


@dataclass(frozen=True)
class SubsetSummary:
    """A subset in numbers.

    Attributes:
        name: of the subset.
        images: how many it has.
        unusable: how many of them cannot be used.
        class_counts: class name → images.
    """

    name: str
    images: int
    unusable: int
    class_counts: dict[str, int]


@dataclass(frozen=True)
class Verdict:
    """What a check found.

    Attributes:
        subsets: in numbers.
        problems: errors first.
        measured: the measurements of every subset's images.
        duplicates: equal and similar images.
        labels: what is wrong with the labels, if that was asked for.
    """

    subsets: Sequence[SubsetSummary]
    problems: Sequence[Problem]
    measured: Sequence[Measurements]
    duplicates: Duplicates
    labels: LabelReview | None = None

    @property
    def has_errors(self) -> bool:
        """True if the data set should not be trained on as it is."""
        return any(problem.severity == "error" for problem in self.problems)

    def to_json(self) -> dict[str, Any]:
        """Return the verdict as JSON values."""
        found = {
            "ok": not self.has_errors,
            "parts": [asdict(subset) for subset in self.subsets],
            "problems": [asdict(problem) for problem in self.problems],
        }
        return found if self.labels is None else {**found, **self.labels.to_json()}


def check(
    subsets: Sequence[Subset],
    workers: int,
    on_progress: Callable[[int], None],
    damaged: Sequence[Problem] = (),
    max_pixels: int = DEFAULT_MAX_PIXELS,
) -> Verdict:
    """Check the subsets of a data set, each alone and against the others.

    Args:
        subsets: what to check.
        workers: threads.
        on_progress: called with 1 for every image.
        damaged: problems of paths that could not be opened.
        max_pixels: larger images are unusable.
    """
    images = sum(len(subset.keys) for subset in subsets)
    with_crops = images <= _MOST_CROPPED
    thumbnails = np.zeros((images if with_crops else 0, HASHED_SIDE, HASHED_SIDE), np.uint8)
    measured: list[Measurements] = []
    for subset in subsets:
        start = sum(map(len, measured))
        own = thumbnails[start : start + len(subset.keys)] if with_crops else None
        measured.append(measure(subset, workers, max_pixels, own, on_progress))
    found = [*damaged, *_name_problems(subsets), *_class_problems(subsets)]
    for subset, own_measured in zip(subsets, measured, strict=True):
        found += _subset_problems(subset, own_measured)
    duplicates = find_duplicates(subsets, measured, thumbnails)
    found += duplicate_problems(duplicates)
    if not with_crops:
        message = f"cropped copies were not searched for among more than {_MOST_CROPPED:,} images"
        found.append(Problem("note", "no-cropped-copies", message))
    summaries = [
        SubsetSummary(
            subset.name,
            len(own_measured),
            len(own_measured.reasons),
            class_counts(subset),
        )
        for subset, own_measured in zip(subsets, measured, strict=True)
    ]
    return Verdict(summaries, by_severity(found), measured, duplicates)
