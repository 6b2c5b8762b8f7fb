"""The feature index that a job writes to its artifact: see `feature_index`.

If the job has kept the features of a frozen backbone, the index uses them. Otherwise, the trained
network computes those of at most 1,000 training and 300 validation images, preprocessed as by the
server.
"""

from __future__ import annotations

import logging

import numpy as np

from image_classification.contract import process
from image_classification.errors import DataError
from image_classification.feature_index import FeatureIndex, most_images
from image_classification.images.preprocessing import preprocess
from image_classification.loading.feature_loader import FeatureLoader
from image_classification.loading.loader import Loader
from image_classification.loading.sources import Source
from image_classification.samples import FloatArray, IntArray, UInt8Array
from image_classification.training.loaders import Loaders
from image_classification.training.loop import Loop
from image_classification.work import in_order

_MOST_REFERENCES = 300
_TOGETHER = 16  # images of one step

_logger = logging.getLogger(__name__)


def known_images(loop: Loop, loaders: Loaders) -> FeatureIndex | None:
    """Return the index, or None with a log line that says why there is none."""
    reason = _obstacle(loop, loaders)
    index = None
    if not reason:
        width = loop.engine.feature_width
        features = _features(loop, loaders.training, most_images(width))
        reference = _features(loop, loaders.validation, _MOST_REFERENCES)
        index = FeatureIndex.of(features, reference)
        reason = "" if index else f"{len(features)} training images are too few"
    if loop.should_stop():
        index, reason = None, "the job is stopping"
    if reason:
        _logger.info("The artifact gets no feature index, so it has no ;score: %s", reason)
    return index


def _obstacle(loop: Loop, loaders: Loaders) -> str:
    if not loop.settings.feature_index:
        return "feature_index=False"
    if loop.should_stop():
        return "the job is stopping"
    if not loaders.training.source.is_countable:
        return "Pipe mode gives each image only once"
    return ""


def _features(loop: Loop, loader: Loader, most: int) -> FloatArray:
    """Return the features of at most so many images, with equal shares of the classes."""
    if isinstance(loader, FeatureLoader):
        classes = loader.source.class_indices
        return loader.kept(lambda indices: indices[_chosen(classes[indices], most)])[1]
    if not loader.source.is_countable:
        return np.empty((0, loop.engine.feature_width), np.float32)
    chosen = _chosen(loader.source.class_indices, most).tolist()
    found: list[FloatArray] = [np.empty((0, loop.engine.feature_width), np.float32)]
    for start in range(0, len(chosen), _TOGETHER):
        if loop.should_stop():
            break
        images = _images(loader.source, chosen[start : start + _TOGETHER], loop)
        if images:
            found.append(loop.engine.features_step(np.stack(images)))
    return np.concatenate(found)


def _images(source: Source, positions: list[int], loop: Loop) -> list[UInt8Array]:
    """Return the images that can be used, prepared on all CPUs."""

    def read(position: int) -> UInt8Array | None:
        try:
            return preprocess(source.read(position).data, loop.settings.preprocessing)
        except (DataError, MemoryError):  # the job has counted it as unusable
            return None

    found = in_order(read, positions, process.cpu_count(), task_items=1)
    return [image for image in found if image is not None]


def _chosen(classes: IntArray, most: int) -> IntArray:
    """Return the positions of at most `most` samples, of each class in turn."""
    shuffled = np.random.default_rng(0).permutation(len(classes))
    order = shuffled[np.argsort(classes[shuffled], kind="stable")]
    starts = np.searchsorted(classes[order], classes[order])
    turn = np.arange(len(order)) - starts  # the first of each class, the second of each class, …
    return np.sort(order[np.argsort(turn, kind="stable")][:most])
