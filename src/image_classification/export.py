"""Export without training: a pretrained backbone, a built-in's model, other formats, weights."""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from safetensors.numpy import load_file, save

from image_classification import artifact as artifacts
from image_classification import backends
from image_classification.archive import unpacked
from image_classification.artifact import Artifact
from image_classification.backends import base
from image_classification.backends.mxnet_archive import SYMBOL_FILE, read_built_in
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
) -> Artifact:
    """Write our artifact of a model of the MXNet built-in.

    It serves like the built-in: it resizes without regard to the aspect ratio and subtracts the
    mean of training.

    Args:
        path: `model.tar.gz`, or the folder with its content.
        backend_name: the backend that runs the model once to check the graph.
        labels: class names in index order; None names them by number.
        directory: of the artifact.

    Raises:
        ArtifactError: it is not an archive of the built-in, or a damaged one.
        DataError: the number of labels is not the number of classes.
    """
    with unpacked(path, holding=(SYMBOL_FILE,)) as folder:
        model = read_built_in(folder)
    channels, height, width = model.input_shape
    std = (1.0,) * channels
    spec = base.ModelSpec(
        model.backbone,
        model.classes,
        model.input_shape,
        model.mean,
        std,
        multi_label=model.multi_label,
    )
    preprocessing = Preprocessing(height, width, channels, mode="squash", mean=model.mean, std=std)
    description = description_of(backend_name, model.backbone, "mxnet") | {
        "source": f"MXNet built-in, weights after epoch {model.epoch}",
    }
    if model.multi_label:
        description["multi_label"] = True
    artifact = _write(directory, spec, model.weights, preprocessing, description, labels)
    _logger.info(
        "%s of epoch %d, %d classes: serves like the built-in, resizing to %dx%d and ignoring "
        "the aspect ratio",
        *(model.backbone, model.epoch, model.classes, height, width),
    )
    return artifact


def export_pretrained(
    backend_name: str, backbone_name: str, labels: LabelMap | None, directory: Path
) -> Artifact:
    """Write the artifact of a pretrained backbone with its own head.

    Args:
        backend_name, backbone_name: as in the hyperparameters of these names.
        labels: class names in index order; None names them by number.
        directory: of the artifact.

    Raises:
        BackendError: no such backbone, or no pretrained weights on this machine.
        DataError: the number of labels is not the number of classes.
    """
    backbone = backends.catalog(backend_name).find(backbone_name)
    state = pretrained_weights(_load(backend_name), backbone)
    classes = len(state.get(HEAD_PREFIX + "bias", ()))
    if not classes:
        raise BackendError(
            f"the pretrained weights of {backbone.name} have no head, so they cannot be exported; "
            "choose another backbone"
        )
    size = backbone.input_size
    mean, std = backbone.normalization(3)
    spec = base.ModelSpec(backbone.name, classes, (3, size, size), mean, std)
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
    return _write(directory, spec, state, preprocessing, description, labels)


def _write(
    directory: Path,
    spec: base.ModelSpec,
    state: base.State,
    preprocessing: Preprocessing,
    description: dict[str, Any],
    labels: LabelMap | None,
) -> Artifact:
    labels = labels or LabelMap.numbered(spec.classes)
    if len(labels) != spec.classes:
        raise DataError(
            f"{len(labels)} labels were given, but {spec.backbone} has {spec.classes} classes"
        )
    engine = _build(description["backend"], spec, state)
    writers = engine_writers(engine)
    artifact = artifacts.write_artifact(directory, description, labels, preprocessing, writers)
    engine.release()
    return artifact


def _load(backend_name: str) -> base.EngineModule:
    return backends.load(backend_name, process.framework_threads())


def _build(backend_name: str, spec: base.ModelSpec, state: base.State) -> base.Engine:
    world = base.World(threads=process.framework_threads())
    engine = _load(backend_name).build(spec, base.OptimizerSpec(), world)
    engine.load_state(state)
    return engine


def export_format(model: Path, format_name: str, output: Path) -> None:
    """Write an artifact in a format of a backend, which need not be the one that trained it.

    Args:
        model: artifact folder or `model.tar.gz`.
        format_name: as TensorFlow's `saved_model` (a folder) or `keras` (a file).
        output: what to write; it must not exist.

    Raises:
        ArtifactError: no artifact, or one without weights.
        BackendError: no backend has this format, or its backend lacks the backbone.
    """
    backend_name = backends.of_format(format_name)
    with artifacts.open_artifact(model) as artifact:
        weights_file = artifact.directory / artifacts.WEIGHTS_FILE
        if not weights_file.is_file():
            raise ArtifactError(
                f"{model}: expected {artifacts.WEIGHTS_FILE} in this artifact, found none"
            )
        backends.catalog(backend_name).find(artifact.manifest["backbone"])
        preprocessing = artifact.preprocessing
        spec = base.ModelSpec(
            backbone=artifact.manifest["backbone"],
            classes=len(artifact.labels),
            input_shape=(preprocessing.channels, preprocessing.height, preprocessing.width),
            mean=preprocessing.mean,
            std=preprocessing.std,
            multi_label=artifact.is_multi_label,
        )
        named = load_file(weights_file)
        state = {base.WEIGHT_PREFIX + name: array for name, array in named.items()}
        engine = _build(backend_name, spec, state)
        temperature = artifact.manifest.get("calibration", {}).get("temperature", 1.0)
        writer = cast(base.FormatWriter, engine)
        writer.write_format(format_name, output, temperature, preprocessing)
        engine.release()


def write_pretrained_weights(
    backend_name: str, backbone_names: Sequence[str], directory: Path
) -> Iterator[Path]:
    """Write `<backbone>.safetensors` to `directory` for each name, and yield its path.

    The file has neutral names, float32 arrays and ImageNet's head. Every backend reads it from the
    folder that IMAGE_CLASSIFICATION_WEIGHTS_DIR names.

    Raises:
        BackendError: no such backbone, or no pretrained weights on this machine.
    """
    catalog = backends.catalog(backend_name)
    rows = [catalog.find(name) for name in backbone_names]
    backend = _load(backend_name)
    for backbone in rows:
        state = pretrained_weights(backend, backbone)
        named = {  # C order: safetensors writes the memory as it is
            name.removeprefix(base.WEIGHT_PREFIX): np.ascontiguousarray(array)
            for name, array in state.items()
        }
        path = directory / f"{backbone.name}.safetensors"
        write_bytes(path, save(named, {"source": backbone.source, "license": backbone.license}))
        yield path
