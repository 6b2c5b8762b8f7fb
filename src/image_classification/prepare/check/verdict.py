"""The whole check of a data set: measure every image, then report the problems."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from image_classification.images.decode import DEFAULT_MAX_PIXELS
from image_classification.prepare.check import Measurement, Problem, Subset, problems
from image_classification.prepare.check.duplicates import (
    Duplicates,
    duplicate_problems,
    find_duplicates,
)
from image_classification.prepare.check.measure import measure


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
    """

    subsets: Sequence[SubsetSummary]
    problems: Sequence[Problem]
    measured: Sequence[Sequence[Measurement]]
    duplicates: Duplicates

    @property
    def has_errors(self) -> bool:
        """True if the data set should not be trained on as it is."""
        return any(problem.severity == "error" for problem in self.problems)

    def to_json(self) -> dict[str, Any]:
        """Return the verdict as JSON values."""
        return {
            "ok": not self.has_errors,
            "parts": [asdict(subset) for subset in self.subsets],
            "problems": [asdict(problem) for problem in self.problems],
        }


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
    measured = [measure(subset, workers, max_pixels, on_progress) for subset in subsets]
    found = [*damaged, *problems.name_problems(subsets), *problems.class_problems(subsets)]
    for subset, images in zip(subsets, measured, strict=True):
        found += problems.subset_problems(subset, images)
    duplicates = find_duplicates(subsets, measured)
    found += duplicate_problems(duplicates)
    found.sort(key=lambda problem: problems.ORDER.index(problem.severity))
    summaries = [
        SubsetSummary(
            subset.name,
            len(images),
            sum(image.reason is not None for image in images),
            problems.class_counts(subset),
        )
        for subset, images in zip(subsets, measured, strict=True)
    ]
    return Verdict(summaries, found, measured, duplicates)
