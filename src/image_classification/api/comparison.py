"""Two or more runs side by side: settings, curves, and predictions on the same images.

In: runs; perhaps labeled images to predict now. Without those, the predictions for the validation
images that jobs leave next to their models are compared. Out: a `Comparison`.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from image_classification.api.recorded_run import (
    PREDICTIONS_FILE,
    Answer,
    Run,
    Setting,
    answer_of,
    differing,
    joined,
    read_run,
)
from image_classification.curation import wilson_interval
from image_classification.errors import DataError, UsageError, counted
from image_classification.labels.label_map import LabelMap
from image_classification.loading.sources import FolderSource, Source

LEAST_RUNS, MOST_RUNS = 2, 8


@dataclass(frozen=True)
class Duel:
    """The first run and another one on the same images.

    Attributes:
        other: the index of the other run.
        only_first, only_other: images that only one of them predicts correctly.
        difference: accuracy of the other − accuracy of the first, −1 to 1.
        interval: the 95% interval of the difference.
        p_value: of McNemar's exact test, 0–1; corrected with Holm's method if there are several.
    """

    other: int
    only_first: int
    only_other: int
    difference: float
    interval: tuple[float, float]
    p_value: float

    @property
    def is_clear(self) -> bool:
        """Whether p is below 0.05: the difference is more than chance."""
        return self.p_value < 0.05


@dataclass(frozen=True)
class Image:
    """An image with the prediction of each run.

    Attributes:
        key: its name.
        label: its class in the data, or several joined by `|`.
        answers: the prediction of each run.
    """

    key: str
    label: str
    answers: Sequence[Answer]

    def is_correct(self, run: int) -> bool:
        return self.answers[run].text == self.label


@dataclass(frozen=True)
class Comparison:
    """What differs between runs.

    Attributes:
        runs: in the given order.
        given, effective: settings that differ: those that the users gave, and those in effect.
        images: those that all runs have predicted; none if no predictions are known.
        basis: where the predictions come from, in a few words.
        duels: the first run and each other one; none without images.
        remarks: what is not compared, as sentences.
        picture: index of an image → the bytes of its file; None if the files are not known.
    """

    runs: Sequence[Run]
    given: Sequence[Setting]
    effective: Sequence[Setting]
    images: Sequence[Image]
    basis: str
    duels: Sequence[Duel]
    remarks: Sequence[str]
    picture: Callable[[int], bytes] | None = None

    def changed(self) -> list[int]:
        """Return the indices of the images that two runs predict differently.

        First come the images that the first run predicts correctly and another one does not, then
        those that only another one predicts correctly, then those that all predict wrong.
        """
        found = [
            i for i, image in enumerate(self.images) if len({a.text for a in image.answers}) > 1
        ]
        return sorted(found, key=lambda index: self.kind_of(self.images[index]))

    def kind_of(self, image: Image) -> int:
        """Return 0 if the first run is right, 1 if only another one is, 2 if all are wrong."""
        if image.is_correct(0):
            return 0
        return 1 if any(image.is_correct(run) for run in range(1, len(self.runs))) else 2

    def correct(self, run: int) -> int:
        """Return how many images a run predicts correctly."""
        return sum(image.is_correct(run) for image in self.images)

    def to_json(self) -> dict[str, Any]:
        """Return everything but the curves as JSON values."""
        names = [run.name for run in self.runs]
        return {
            "runs": [
                {
                    "name": run.name,
                    "path": str(run.model.path),
                    "metrics": run.model.metrics,
                    "epochs": len(run.epochs),
                    "correct": self.correct(index) if self.images else None,
                }
                for index, run in enumerate(self.runs)
            ],
            "given": {s.name: dict(zip(names, s.values, strict=True)) for s in self.given},
            "effective": {s.name: dict(zip(names, s.values, strict=True)) for s in self.effective},
            "images": len(self.images),
            "basis": self.basis,
            "differences": [
                {
                    "first": names[0],
                    "other": names[duel.other],
                    "only_first_correct": duel.only_first,
                    "only_other_correct": duel.only_other,
                    "accuracy_difference": duel.difference,
                    "interval": duel.interval,
                    "p_value": duel.p_value,
                }
                for duel in self.duels
            ],
            "changed": [
                {
                    "file": image.key,
                    "label": image.label,
                    "answers": dict(zip(names, (a.text for a in image.answers), strict=True)),
                }
                for image in map(self.images.__getitem__, self.changed())
            ],
            "remarks": list(self.remarks),
        }


def compare_runs(
    paths: Sequence[Path],
    data: Path | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Comparison:
    """Compare runs; see `image_classification.compare`.

    Args:
        paths: 2 to 8 runs: the output of `train`, the base folder of a job, or an artifact.
        data: labeled images to predict with each run, as `Model.evaluate` reads them.
        on_progress: called with the number of predictions done and of all.

    Raises:
        UsageError: fewer or more runs, or one of them twice.
        ArtifactError, DataError: a run has no model, or the data cannot be used.
    """
    if not LEAST_RUNS <= len(paths) <= MOST_RUNS:
        raise UsageError(f"expected {LEAST_RUNS} to {MOST_RUNS} runs to compare, got {len(paths)}")
    if len({path.resolve() for path in paths}) < len(paths):
        raise UsageError("expected different runs to compare, got one of them twice")
    runs = [read_run(path, name) for path, name in zip(paths, _names(paths), strict=True)]
    remarks = [f"{run.name}: {remark}" for run in runs for remark in run.remarks]
    remarks += _class_remarks(runs)
    images: list[Image] = []
    basis, picture = "", None
    if len({run.is_multi_label for run in runs}) > 1:
        remarks.append("predictions are not compared: some models give an image several classes")
    elif data is not None:
        images, picture = _predicted(runs, data, on_progress, remarks)
        basis = str(data)
    elif all(run.stored for run in runs):
        images = _stored(runs, remarks)
        basis = "the validation images of the runs, on which each chose its best epoch"
    else:
        without = ", ".join(run.name for run in runs if not run.stored)
        remarks.append(
            f"predictions are not compared: {without} has no {PREDICTIONS_FILE} that fits its "
            "model; name labeled images with --data (data= in Python) to predict them now"
        )
    if images and runs[0].is_multi_label:
        remarks.append("a prediction counts as correct if it has exactly the classes of the image")
    given = [run.given() for run in runs]
    remarks += [
        f"{run.name}: its manifest does not say which settings were given"
        for run, known in zip(runs, given, strict=True)
        if known is None
    ]
    effective = [run.settings() for run in runs]
    return Comparison(
        runs, differing(given), differing(effective), images, basis, _duels(images, len(runs)),
        remarks, picture,
    )  # fmt: skip


def _names(paths: Sequence[Path]) -> list[str]:
    """Return the shortest ends of the paths that differ."""
    parts = [path.resolve().parts for path in paths]
    for count in range(1, max(map(len, parts)) + 1):
        names = ["/".join(own[-count:]) for own in parts]
        if len(set(names)) == len(names):
            break
    return names


def _stored(runs: Sequence[Run], remarks: list[str]) -> list[Image]:
    """Return the validation images that all runs have, with the class that all have for them."""
    keys = [key for key in runs[0].stored if all(key in run.stored for run in runs)]
    images = []
    for key in keys:
        found = [run.stored[key] for run in runs]
        if len({one.label for one in found}) == 1:
            images.append(Image(found[0].key, found[0].label, [one.answer for one in found]))
    most = max(len(run.stored) for run in runs)
    if len(images) < len(keys):
        other = counted(len(keys) - len(images), "images")
        remarks.append(f"{other} left out: the runs have different classes for the same image")
    if len(keys) < most:
        remarks.append(f"{len(keys)} of up to {most} validation images are the same in all runs")
    if not images:
        remarks.append("no validation image is the same in all runs: name images with --data")
    return images


class _Contents(Sequence[Any]):
    """The files of the chosen samples of a source, read when they are predicted."""

    def __init__(self, source: Source, chosen: Sequence[int]) -> None:
        self._source, self._chosen = source, chosen

    def __len__(self) -> int:
        return len(self._chosen)

    def __getitem__(self, index: Any) -> bytes:
        return self._source.read(self._chosen[index]).data


def _predicted(
    runs: Sequence[Run],
    data: Path,
    on_progress: Callable[[int, int], None] | None,
    remarks: list[str],
) -> tuple[list[Image], Callable[[int], bytes]]:
    from image_classification.evaluate import open_labeled

    first = runs[0].model
    union = LabelMap(tuple(dict.fromkeys(name for run in runs for name in run.model.labels)))
    source = open_labeled(data, union, runs[0].is_multi_label)
    if any(run.model.labels != first.labels for run in runs) and not isinstance(
        source, FolderSource
    ):
        raise DataError(
            f"{data}: the runs have different classes, and these images have class numbers: name "
            "class folders as data"
        )
    texts = [_label(source, index, union) for index in range(len(source))]
    common = set.intersection(*(set(run.model.labels) for run in runs))
    chosen = [i for i, names in enumerate(texts) if common.issuperset(names)]
    if len(chosen) < len(texts):
        remarks.append(
            f"{len(texts) - len(chosen)} of {len(texts)} images are left out: a run lacks their "
            "class"
        )
    contents, done = _Contents(source, chosen), 0
    rows: list[list[Answer | None]] = []
    for run in runs:
        rows.append([])
        for found in run.model.predict_each(contents):
            text = None
            if not found.error:
                text = answer_of(found.probabilities, run.model.labels, found.is_multi_label)
            rows[-1].append(text)
            done += 1
            if on_progress is not None:
                on_progress(done, len(chosen) * len(runs))
    kept = [i for i in range(len(chosen)) if all(row[i] is not None for row in rows)]
    if len(kept) < len(chosen):
        remarks.append(f"left out: {counted(len(chosen) - len(kept), 'unusable images')}")
    if not kept:
        raise DataError(f"{data}: expected a usable image of a class in all runs, found none")
    images = [
        Image(source.key(chosen[i]), joined(texts[chosen[i]]), [r for row in rows if (r := row[i])])
        for i in kept
    ]
    return images, lambda index: source.read(chosen[kept[index]]).data


def _label(source: Source, index: int, labels: LabelMap) -> list[str]:
    if source.multi_hot is None:
        return [labels.names[source.class_indices[index]]]
    return [labels.names[i] for i in np.flatnonzero(source.multi_hot[index]).tolist()]


def _class_remarks(runs: Sequence[Run]) -> Iterator[str]:
    common = set.intersection(*(set(run.model.labels) for run in runs))
    for run in runs:
        own = [name for name in run.model.labels if name not in common]
        if own:
            more = f" and {len(own) - 5} more" if len(own) > 5 else ""
            yield f"classes of {run.name} that another run lacks: {', '.join(own[:5])}{more}"


def _duels(images: Sequence[Image], runs: int) -> list[Duel]:
    """Return the first run against each other one; see `Duel`."""
    if not images:
        return []
    duels = []
    for other in range(1, runs):
        pairs = [(image.is_correct(0), image.is_correct(other)) for image in images]
        both, only_first = pairs.count((True, True)), pairs.count((True, False))
        only_other = pairs.count((False, True))
        interval = paired_interval(both, only_other, only_first, len(pairs))
        difference = (only_other - only_first) / len(pairs)
        p_value = mcnemar(only_first, only_other)
        duels.append(Duel(other, only_first, only_other, difference, interval, p_value))
    return _corrected(duels)


def _corrected(duels: Sequence[Duel]) -> list[Duel]:
    """Return the duels with Holm's p-values, which hold for all of them together.

    Source: S. Holm, A simple sequentially rejective multiple test procedure (1979).
    """
    largest, corrected = 0.0, {}
    for rank, duel in enumerate(sorted(duels, key=lambda duel: duel.p_value)):
        largest = max(largest, min(1.0, (len(duels) - rank) * duel.p_value))
        corrected[duel.other] = replace(duel, p_value=largest)
    return [corrected[duel.other] for duel in duels]


def mcnemar(only_first: int, only_other: int) -> float:
    """Return the two-sided p-value (0–1) that two runs are equally good on the same images.

    Args:
        only_first, only_other: images that only one of them predicts correctly. If both are
            equally good, each such image is one or the other with probability 1/2.

    Source: Q. McNemar, Note on the sampling error of the difference between correlated proportions
    or percentages, Psychometrika 12 (1947), in its exact, binomial form.
    """
    total, fewer = only_first + only_other, min(only_first, only_other)
    if not total:
        return 1.0
    counts = np.arange(1, fewer + 1)
    logarithms = np.append(0.0, np.cumsum(np.log((total - counts + 1) / counts)))
    return min(1.0, 2 * float(np.exp(logarithms - total * math.log(2)).sum()))


def paired_interval(
    both: int, only_other: int, only_first: int, images: int
) -> tuple[float, float]:
    """Return the 95% interval of the difference of two accuracies on the same images, −1 to 1.

    The difference is that of the other run − that of the first.

    Args:
        both: images that both runs predict correctly.
        only_other, only_first: those that only one of them predicts correctly.
        images: all, ≥ 1.

    Source: R. G. Newcombe, Improved confidence intervals for the difference between binomial
    proportions based on paired data, Statistics in Medicine 17 (1998), method 10.
    """
    neither = images - both - only_other - only_first
    other, first = both + only_other, both + only_first
    shares = other / images, first / images
    (low, high), (first_low, first_high) = (wilson_interval(share, images) for share in shares)
    product = other * (images - other) * first * (images - first)
    numerator = float(both * neither - only_other * only_first)
    if numerator > 0:
        numerator = max(numerator - images / 2, 0.0)
    phi = numerator / math.sqrt(product) if product else 0.0
    below, above = shares[0] - low, high - shares[0]
    first_below, first_above = shares[1] - first_low, first_high - shares[1]
    difference = shares[0] - shares[1]
    return (
        difference - math.sqrt(below**2 - 2 * phi * below * first_above + first_above**2),
        difference + math.sqrt(above**2 - 2 * phi * above * first_below + first_below**2),
    )
