"""Pretrained backbones as files: the artifact of an untouched one, and weights to start from."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import cast

import numpy as np
from safetensors.numpy import load_file, save

from image_classification import artifact as artifacts
from image_classification import backends
from image_classification.archive import unpacked
from image_classification.artifact import Artifact, open_artifact
from image_classification.backends.base import (
    WEIGHT_PREFIX,
    FormatWriter,
    ModelSpec,
    OptimizerSpec,
    World,
)
from image_classification.backends.mxnet_archive import read_built_in
from image_classification.contract import process
from image_classification.errors import ArtifactError, BackendError, DataError
from image_classification.files import write_bytes
from image_classification.images.preprocessing import Preprocessing
from image_classification.labels.label_map import LabelMap
from image_classification.training.initial_weights import HEAD_PREFIX, pretrained_weights
from image_classification.training.output import description_of, engine_writers

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
    world = World(threads=process.framework_threads())
    engine = backends.load(backend_name, world.threads).build(spec, OptimizerSpec(), world)
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


def export_format(model: Path, format_name: str, output: Path) -> None:
    """Write `model` in a format of a backend.

    That backend need not be the one that trained it: shared backbones have the same weights in all.

    Args:
        model: artifact folder or `model.tar.gz`.
        format_name: of a backend's own, as TensorFlow's `saved_model` (a folder), `keras` (a file).
        output: what to write; nothing is there yet.

    Raises:
        ArtifactError: no artifact, or one without weights.
        BackendError: no backend has such a format, or its backend not that backbone.
    """
    backend_name = backends.of_format(format_name)
    with open_artifact(model) as artifact:
        weights_file = artifact.directory / artifacts.WEIGHTS_FILE
        if not weights_file.is_file():
            raise ArtifactError(f"{model}: it has no {artifacts.WEIGHTS_FILE} to export")
        backends.catalog(backend_name).find(artifact.manifest["backbone"])
        world = World(threads=process.framework_threads())
        backend = backends.load(backend_name, world.threads)
        engine = backend.build(_spec_of(artifact), OptimizerSpec(), world)
        named = load_file(weights_file)
        engine.load_state({WEIGHT_PREFIX + name: array for name, array in named.items()})
        temperature = artifact.manifest.get("calibration", {}).get("temperature", 1.0)
        writer = cast(FormatWriter, engine)
        writer.write_format(format_name, output, temperature, artifact.preprocessing)
        engine.release()


def _spec_of(artifact: Artifact) -> ModelSpec:
    preprocessing = artifact.preprocessing
    return ModelSpec(
        backbone=artifact.manifest["backbone"],
        classes=len(artifact.labels),
        input_shape=(preprocessing.channels, preprocessing.height, preprocessing.width),
        mean=preprocessing.mean,
        std=preprocessing.std,
        multi_label=artifact.is_multi_label,
    )


def export_pretrained(
    backend_name: str, backbone_name: str, labels: LabelMap | None, directory: Path
) -> artifacts.Artifact:
    """Write the artifact of `backbone_name` with its own head.

    Args:
        backend_name, backbone_name: as the hyperparameters of those names.
        labels: names of its classes in index order; None names them by number.
        directory: of the artifact.

    Raises:
        BackendError: no such backbone, or no pretrained weights on this machine.
        DataError: another number of labels than the head has.
    """
    backbone = backends.catalog(backend_name).find(backbone_name)
    world = World(threads=process.framework_threads())
    backend = backends.load(backend_name, world.threads)
    state = pretrained_weights(backend, backbone)
    classes = len(state.get(HEAD_PREFIX + "bias", ()))
    if not classes:
        raise BackendError(f"the pretrained weights of {backbone.name} have no head to answer with")
    labels = labels or LabelMap.numbered(classes)
    if len(labels) != classes:
        raise DataError(
            f"{len(labels)} labels were given, but {backbone.name} has {classes} classes"
        )
    size = backbone.input_size
    mean, std = backbone.normalization(3)
    spec = ModelSpec(backbone.name, classes, (3, size, size), mean, std)
    engine = backend.build(spec, OptimizerSpec(), world)
    engine.load_state(state)
    preprocessing = Preprocessing(
        height=size,
        width=size,
        resize=backbone.resize,
        interpolation=backbone.interpolation,
        mean=mean,
        std=std,
    )
    description = description_of(backend_name, backbone.name, "tensorflow") | {
        "source": backbone.source,
        "license": backbone.license,
    }
    writers = engine_writers(engine)
    artifact = artifacts.write_artifact(directory, description, labels, preprocessing, writers)
    engine.release()
    return artifact


def write_pretrained_weights(
    backend_name: str, backbone_names: Sequence[str], directory: Path
) -> Iterator[Path]:
    """Write `<backbone>.safetensors` into `directory` for each name, and yield its path.

    The file has neutral names, float32, and ImageNet's head: what `pretrained_state` of every
    backend reads from the folder that IMAGE_CLASSIFICATION_WEIGHTS_DIR names.

    Raises:
        BackendError: no such backbone, or no pretrained weights on this machine.
    """
    catalog = backends.catalog(backend_name)
    rows = [catalog.find(name) for name in backbone_names]
    backend = backends.load(backend_name)
    for backbone in rows:
        state = pretrained_weights(backend, backbone)
        named = {  # safetensors writes the memory as it lies: other orders would be scrambled
            name.removeprefix(WEIGHT_PREFIX): np.ascontiguousarray(array)
            for name, array in state.items()
        }
        path = directory / f"{backbone.name}.safetensors"
        write_bytes(path, save(named, {"source": backbone.source, "license": backbone.license}))
        yield path
