"""Pretrained backbones as files: the artifact of an untouched one, and weights to start from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from safetensors.numpy import save

from image_classification import artifact as artifacts
from image_classification import backends
from image_classification.backends.base import (
    WEIGHT_PREFIX,
    ModelSpec,
    OptimizerSpec,
    World,
)
from image_classification.contract import environment
from image_classification.data.files import write_bytes
from image_classification.data.labels import LabelMap
from image_classification.data.preprocessing import Preprocessing
from image_classification.errors import BackendError, DataError
from image_classification.training.channel_weights import HEAD_PREFIX
from image_classification.training.initial_weights import pretrained_weights
from image_classification.training.results import description_of, engine_writers


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
    backend = backends.load(backend_name)
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
    mean, std = backbone.normalisation(3)
    spec = ModelSpec(backbone.name, classes, (3, size, size), mean, std)
    engine = backend.build(spec, OptimizerSpec(), World(threads=environment.framework_threads()))
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
