"""The whole check of a data set: measure every image, then say what is wrong."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from image_classification.data.checking import Part, Problem
from image_classification.data.checking.measuring import has_perceptual_hash, measure
from image_classification.data.checking.problems import (
    class_counts,
    folder_problems,
    image_problems,
    label_problems,
    name_problems,
)
from image_classification.data.checking.sameness import duplicate_problems
from image_classification.data.images import DEFAULT_MAX_PIXELS

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
