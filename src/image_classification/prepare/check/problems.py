"""The whole check of a data set: measure every image, then say what is wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from image_classification.images.decode import DEFAULT_MAX_PIXELS
from image_classification.prepare.check import Measurement, Part, Problem, Severity, image_name
from image_classification.prepare.check.duplicates import duplicate_problems
from image_classification.prepare.check.measure import has_perceptual_hash, measure

TINY_SIDE = 32  # pixels of the shorter side
HUGE_PIXELS = 16_000_000  # decoding one takes a tenth of a second and more
ODD_ASPECT = 3.0  # a crop shows a third of such an image
IMBALANCED = 10  # times more images in the largest class than in the smallest
_NAMED = 10

# What in a folder makes a person look, and what is only said.
_LOST_IMAGES = (
    "class folders without an image",
    "folders inside a class folder",
    "images outside a class folder",
    "images that the list does not name",
)


def image_problems(part: Part, measured: Sequence[Measurement]) -> Iterator[Problem]:
    """Unreadable, tiny, huge, long, gray and plain images of a part."""

    def those(numbers: Sequence[int]) -> list[str]:
        return [image_name(part, number) for number in numbers]

    reasons = [
        f"{image_name(part, i)}: {image.reason}"
        for i, image in enumerate(measured)
        if image.reason is not None
    ]
    if reasons:
        yield Problem("error", "unreadable", f"{part.name}: images cannot be used", reasons)
    usable = [i for i, image in enumerate(measured) if image.reason is None]
    sizes = [(min(measured[i].height, measured[i].width), i) for i in usable]
    tiny = [i for side, i in sizes if side < TINY_SIDE]
    if tiny:
        message = f"{part.name}: images have a side below {TINY_SIDE} pixels"
        yield Problem("warning", "tiny", message, those(tiny))
    huge = [i for i in usable if measured[i].height * measured[i].width > HUGE_PIXELS]
    if huge:
        message = (
            f"{part.name}: images have more than {HUGE_PIXELS // 10**6} megapixels: preprocess "
            "--resize makes training several times faster"
        )
        yield Problem("note", "huge", message, those(huge))
    odd = [i for s, i in sizes if max(measured[i].height, measured[i].width) > ODD_ASPECT * s]
    if odd:
        message = f"{part.name}: images are more than {ODD_ASPECT:g} times as long as wide"
        yield Problem("warning", "odd-aspect", message, those(odd))
    gray = [i for i in usable if measured[i].is_gray]
    if 0 < len(gray) < len(usable):
        message = f"{part.name}: images are gray among {len(usable) - len(gray)} in color"
        yield Problem("note", "grey", message, those(gray))
    plain = [i for i in usable if measured[i].is_plain]
    if plain:
        yield Problem("warning", "plain", f"{part.name}: images show nothing", those(plain))


def label_problems(part: Part) -> Iterator[Problem]:
    """Labels that are no class number, classes without an image, imbalance."""
    if not len(part.keys):
        yield Problem("error", "empty", f"{part.name}: no image")
        return
    labels = part.labels
    limit = len(part.names) if part.names is not None else float("inf")
    with np.errstate(invalid="ignore"):
        is_class = (labels >= 0) & (labels == np.floor(labels)) & (labels < limit)
    wrong = np.flatnonzero(~is_class).tolist()
    if wrong:
        meant = f"0 to {limit - 1:g}" if part.names is not None else "a whole number from 0"
        yield Problem(
            "error",
            "label-out-of-range",
            f"{part.name}: labels are not one class number, {meant}",
            [f"{image_name(part, i)}: {labels[i]:g}" for i in wrong],
        )
    counts = class_counts(part)
    if not counts:
        return
    absent = [name for name, count in counts.items() if not count]
    if absent:
        yield Problem(
            "warning", "absent-class", f"{part.name}: no image of {_listed(absent)}", absent
        )
    present = {name: count for name, count in counts.items() if count}
    if not present:  # every label is out of range
        return
    most, least = max(present, key=present.__getitem__), min(present, key=present.__getitem__)
    if present[most] >= IMBALANCED * present[least]:
        message = f"{part.name}: {present[most]} images of {most}, but {present[least]} of {least}"
        yield Problem("warning", "imbalance", message)


def class_counts(part: Part) -> dict[str, int]:
    """Class name → images, in the order of the class numbers; absent classes of known names too."""
    numbers = Counter(part.labels[np.isfinite(part.labels)].tolist())
    if part.names is None:
        return {f"{number:g}": count for number, count in sorted(numbers.items()) if number >= 0}
    return {name: numbers.get(float(i), 0) for i, name in enumerate(part.names.names)}


def folder_problems(part: Part) -> Iterator[Problem]:
    """What lies in the folder and is no image of the part."""
    for what, count, example in part.left_out:
        severity: Severity = "warning" if what in _LOST_IMAGES or "hidden" in what else "note"
        kind = what.replace(" ", "-")
        yield Problem(severity, kind, f"{part.name}: {count} {what}, as {example}")


def name_problems(parts: Sequence[Part]) -> Iterator[Problem]:
    """Parts whose class numbers mean different names, or whose classes differ."""
    named = [part for part in parts if part.names is not None]
    for part in named[1:]:
        if part.names == named[0].names:
            continue
        assert part.names is not None and named[0].names is not None
        ours, theirs = set(part.names.names), set(named[0].names.names)
        only = _listed(sorted(ours ^ theirs)) if ours != theirs else "nothing but the order"
        yield Problem(
            "error",
            "other-classes",
            f"{part.name} has other classes than {named[0].name}; they differ in {only}",
        )


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


_ORDER = ("error", "warning", "note")


@dataclass(frozen=True)
class PartSummary:
    """A part in numbers: its path, images, those that cannot be used, images of each class."""

    name: str
    images: int
    unusable: int
    class_counts: dict[str, int]


@dataclass(frozen=True)
class Verdict:
    """What a check found; problems are sorted, errors first."""

    parts: Sequence[PartSummary]
    problems: Sequence[Problem]

    @property
    def has_errors(self) -> bool:
        """Whether the data set should not be trained on as it is."""
        return any(problem.severity == "error" for problem in self.problems)

    def to_json(self) -> dict[str, Any]:
        """The verdict as JSON can hold it."""
        return {
            "ok": not self.has_errors,
            "parts": [asdict(part) for part in self.parts],
            "problems": [asdict(problem) for problem in self.problems],
        }


def check(
    parts: Sequence[Part],
    workers: int,
    on_progress: Callable[[int], None],
    damaged: Sequence[Problem] = (),
    max_pixels: int = DEFAULT_MAX_PIXELS,
) -> Verdict:
    """Check the parts of a data set, each alone and against the others.

    Args:
        parts: what to check.
        workers: threads.
        on_progress: called with 1 for every image.
        damaged: what could not be opened as a part.
        max_pixels: larger images are unusable.
    """
    with_hash = has_perceptual_hash()
    measured = [measure(part, workers, with_hash, max_pixels, on_progress) for part in parts]
    problems = [*damaged, *name_problems(parts)]
    for part, images in zip(parts, measured, strict=True):
        problems += [*image_problems(part, images), *label_problems(part), *folder_problems(part)]
    problems += duplicate_problems(parts, measured)
    if not with_hash:
        message = (
            "near-duplicates were not searched: pip install "
            "'sagemaker-image-classification[check]' (ImageHash)"
        )
        problems.append(Problem("note", "no-perceptual-hash", message))
    problems.sort(key=lambda problem: _ORDER.index(problem.severity))
    summaries = [
        PartSummary(
            part.name,
            len(images),
            sum(image.reason is not None for image in images),
            class_counts(part),
        )
        for part, images in zip(parts, measured, strict=True)
    ]
    return Verdict(summaries, problems)
