"""A model of the closed MXNet built-in as an artifact of ours, which our server answers from.

In: its `model.tar.gz`, or the folder it was unpacked to. MXNet is not needed.
"""

from __future__ import annotations

import logging
from pathlib import Path

from image_classification import artifact as artifacts
from image_classification import backends
from image_classification.archive import unpacked
from image_classification.backends.base import ModelSpec, OptimizerSpec, World
from image_classification.backends.mxnet_archive import read_built_in
from image_classification.contract import environment
from image_classification.data.labels import LabelMap
from image_classification.data.preprocessing import Preprocessing
from image_classification.errors import DataError
from image_classification.training.results import description_of, engine_writers

_logger = logging.getLogger(__name__)


def export_built_in(
    path: Path, backend_name: str, labels: LabelMap | None, directory: Path
) -> artifacts.Artifact:
    """Write our artifact of the built-in's model at `path`.

    It is served as the built-in serves: squashed to the input's size, minus the mean of training.

    Args:
        path: `model.tar.gz`, or the folder it was unpacked to.
        backend_name: which backend runs the model once, to check the graph.
        labels: names of the classes in index order; None names them by number.
        directory: of the artifact.

    Raises:
        ArtifactError: it is not an archive of the built-in, or a damaged one.
        DataError: another number of labels than the model has classes.
    """
    with unpacked(path) as folder:
        model = read_built_in(folder)
    labels = labels or LabelMap.numbered(model.classes)
    if len(labels) != model.classes:
        raise DataError(f"{len(labels)} labels were given, but the model has {model.classes}")
    channels, height, width = model.input_shape
    std = (1.0,) * channels
    spec = ModelSpec(
        model.backbone,
        model.classes,
        model.input_shape,
        model.mean,
        std,
        multi_label=model.multi_label,
    )
    backend = backends.load(backend_name)
    engine = backend.build(spec, OptimizerSpec(), World(threads=environment.framework_threads()))
    engine.load_state(model.weights)
    preprocessing = Preprocessing(height, width, channels, mode="squash", mean=model.mean, std=std)
    description = description_of(backend_name, model.backbone, "mxnet") | {
        "source": f"MXNet built-in, weights after epoch {model.epoch}",
    }
    if model.multi_label:
        description["multi_label"] = True
    writers = engine_writers(engine)
    artifact = artifacts.write_artifact(directory, description, labels, preprocessing, writers)
    engine.release()
    _logger.info(
        "%s of epoch %d, %d classes: served as the built-in does, resized to %dx%d without regard "
        "to the aspect ratio",
        *(model.backbone, model.epoch, model.classes, height, width),
    )
    return artifact
