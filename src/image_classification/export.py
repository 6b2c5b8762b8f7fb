"""Export without training: a pretrained backbone, a built-in's model, other formats, weights."""

import logging
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
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
from image_classification.backends.networks import is_shared
from image_classification.backends.pretrained import (
    UNKNOWN,
    Pretrained,
    described_row,
    read_pretrained,
    read_weights,
)
from image_classification.base_model import INFO_FILE, LABELS_FILE, read_base_model
from image_classification.contract import environment, process
from image_classification.errors import ArtifactError, BackendError, DataError, UsageError
from image_classification.files import write_bytes
from image_classification.images.preprocessing import Preprocessing
from image_classification.labels.label_map import LabelMap, imagenet_labels
from image_classification.training.initial_weights import HEAD_PREFIX
from image_classification.training.output import description_of, engine_writers
from image_classification.weights.download import PUBLISHED, downloaded
from image_classification.weights.folder import find_weights

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


def export_saved_model(path: Path, labels: LabelMap | None, directory: Path) -> Artifact:
    """Write our artifact of a classifier of the TensorFlow built-in, or of JumpStart, untuned.

    It serves like the built-in: it resizes without regard to the aspect ratio, scales the pixels as
    the model's own description says, and answers with one number if the model has one output.

    Args:
        path: `model.tar.gz`, or the folder with its content.
        labels: class names in index order; None takes those of its `labels_info.json`.
        directory: of the artifact.

    Raises:
        ArtifactError: it is not a classifier, or says no image size, or cannot be translated.
        BackendError: TensorFlow is not installed.
    """
    backend = _load(_OF_SAVED_MODELS)
    with unpacked(path) as folder:
        base_model = read_base_model(folder)
        labels = labels or _unique_labels(base_model.labels)
        if not labels or base_model.size is None:
            lacking = "image size" if labels else "class names"
            raise ArtifactError(
                f"{path}: expected a classifier of JumpStart or of the TensorFlow built-in, with "
                f"{LABELS_FILE} and {INFO_FILE} next to its SavedModel, found one without "
                f"{lacking}" + ("" if labels else ": give them with --labels")
            )
        (height, width), scaling = base_model.size, base_model.scaling or _HUB_SCALING
        mean, std = (values if len(values) == 3 else values * 3 for values in scaling)
        spec = base.ModelSpec(
            "saved_model", len(labels), (3, height, width), mean, std, folder=folder
        )
        world = base.World(threads=process.framework_threads())
        engine = backend.build(spec, base.OptimizerSpec(), world)
        state = {n: v for n, v in engine.state().items() if n.startswith(base.WEIGHT_PREFIX)}
        outputs = state[HEAD_PREFIX + "weight"].shape[1]
        head = cast(base.HeadGiver, engine).given_head() or _pass_on(outputs)
        found = len(head[HEAD_PREFIX + "bias"])
        if found != len(labels):
            raise ArtifactError(
                f"{path}: its model has {found} classes, but there are {len(labels)} labels: give "
                "as many with --labels"
            )
        engine.load_state(state | head)
        preprocessing = Preprocessing(height, width, 3, mode="squash", mean=mean, std=std)
        description = description_of(_OF_SAVED_MODELS, spec.backbone, "tensorflow") | {
            "source": "TensorFlow SavedModel"
            + (", fine-tuned by the built-in" if base_model.is_fine_tuned else ", untuned"),
        }
        rows = head[HEAD_PREFIX + "weight"]
        if found == 2 and np.array_equal(rows[0], -rows[1]):  # it has a single output
            description["binary_answer"] = "sigmoid"
        writers = engine_writers(engine)
        artifact = artifacts.write_artifact(directory, description, labels, preprocessing, writers)
        engine.release()
    _logger.info(
        "SavedModel of %d classes: serves like the built-in, resizing to %dx%d and ignoring the "
        "aspect ratio",
        *(found, height, width),
    )
    return artifact


_OF_SAVED_MODELS = "tensorflow"
_HUB_SCALING = ((0.0,), (255.0,))  # pixels from 0 to 1: the convention of TensorFlow Hub


def _pass_on(width: int) -> base.State:
    """Return the head of a model whose outputs are logits already."""
    weight = np.eye(width, dtype=np.float32)
    return {HEAD_PREFIX + "weight": weight, HEAD_PREFIX + "bias": np.zeros(width, np.float32)}


def _unique_labels(names: Sequence[str]) -> LabelMap | None:
    """Return the label map; names that occur twice, as two of ImageNet's do, get their number."""
    counts = Counter(names)
    unique = [n if counts[n] == 1 else f"{n} ({index})" for index, n in enumerate(names)]
    return LabelMap(tuple(unique)) if names else None


def export_pretrained(
    backend_name: str, backbone_name: str, labels: LabelMap | None, directory: Path
) -> Artifact:
    """Write the artifact of a pretrained backbone with its own head.

    Args:
        backend_name, backbone_name: as in the hyperparameters of these names.
        labels: class names in index order; None takes those that the weights bring, or ImageNet's
            for published weights, or else numbers.
        directory: of the artifact.

    Raises:
        BackendError: no such backbone, or no pretrained weights on this machine.
        DataError: the number of labels is not the number of classes.
    """
    backbone = backends.catalog(backend_name).find(backbone_name)
    pretrained = read_pretrained(_load(backend_name), backbone, _folder())
    state = pretrained.state
    classes = len(state.get(HEAD_PREFIX + "bias", ()))
    if not classes:
        raise BackendError(
            f"the pretrained weights of {backbone.name} have no head, so they cannot be exported; "
            "train a head (image-classification train), or choose another backbone"
        )
    said = pretrained.description
    backbone = described_row(backbone, said)
    if labels is None and len(said.labels) == classes:
        labels = LabelMap(said.labels)
    elif labels is None and said.labels:
        _logger.warning(
            "The weights have %d class names for %d classes: not used", len(said.labels), classes
        )
    if labels is None and classes == len(imagenet := imagenet_labels()):
        known = (backbone.source, *(published.address for published in PUBLISHED.values()))
        labels = LabelMap(imagenet) if pretrained.source in known else None
    size = backbone.input_size
    spec = base.ModelSpec(backbone.name, classes, (3, size, size), *backbone.normalization(3))
    preprocessing = Preprocessing(
        *(size, size),
        resize=backbone.resize,
        interpolation=backbone.interpolation,
        mean=spec.mean,
        std=spec.std,
    )
    description = description_of(backend_name, backbone.name, "tensorflow") | {
        "source": pretrained.source,
        "license": pretrained.license,
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

    The file has neutral names, float32 arrays and the head. Every backend reads it from the folder
    that IMAGE_CLASSIFICATION_WEIGHTS_DIR names.

    Raises:
        BackendError: no such backbone, or no pretrained weights on this machine.
        ArtifactError: its weights are damaged, or those of another network.
    """
    catalog = backends.catalog(backend_name)
    rows = [catalog.find(name) for name in backbone_names]
    backend = _load(backend_name)
    _make_folder(directory)
    for backbone in rows:
        yield _write_weights(read_pretrained(backend, backbone, _folder()), backbone, directory)


def convert_weights(
    backend_name: str,
    backbone_name: str,
    path: Path,
    directory: Path,
    source: str | None = None,
    license_name: str | None = None,
) -> Path:
    """Write the weights in a public file as `<backbone>.safetensors` to `directory`.

    Args:
        backend_name: needed only for a backbone that not every backend has.
        backbone_name: whose weights they should be.
        path: the file, or a folder that holds one.
        directory: of the new file.
        source, license_name: what the user says of the weights; None leaves what the file says.

    Returns:
        The path of the new file.

    Raises:
        BackendError: no such backbone.
        ArtifactError: not such a file, a damaged one, or the weights of another network.
    """
    backbone = backends.catalog(backend_name).find(backbone_name)
    _make_folder(directory)
    if is_shared(backbone.name):
        pretrained = read_weights(path, backbone)
    else:
        pretrained = read_pretrained(_load(backend_name), backbone, _folder(), find_weights(path))
    pretrained = replace(
        pretrained,
        source=source or pretrained.source,
        license=license_name or pretrained.license,
    )
    _logger.info(
        "%s: weights of %s, %d tensors with the names of %s, license: %s",
        *(pretrained.file, backbone.name, len(pretrained.weights), pretrained.layout),
        pretrained.license,
    )
    if pretrained.license == UNKNOWN:
        _logger.warning(
            "%s does not say its license; if you know it, add --license TEXT", pretrained.file
        )
    if "head.weight" not in pretrained.weights:
        _logger.warning("%s has no head; a job trains a new one", pretrained.file)
    return _write_weights(pretrained, backbone, directory)


def download_weights(
    backend_name: str, backbone_names: Sequence[str], directory: Path
) -> Iterator[Path]:
    """Fetch the published weights of backbones; write and yield `<backbone>.safetensors` of each.

    Raises:
        BackendError: no such backbone.
        ArtifactError: no such weights are known, or they cannot be fetched.
    """
    catalog = backends.catalog(backend_name)
    rows = [catalog.find(name) for name in backbone_names]
    _make_folder(directory)
    for backbone in rows:
        with downloaded(backbone.name) as (path, published):
            found = read_weights(path, backbone)
            found = replace(found, source=published.address, license=published.license)
            yield _write_weights(found, backbone, directory)


def _write_weights(pretrained: Pretrained, backbone: base.Backbone, directory: Path) -> Path:
    named = {  # C order: safetensors writes the memory as it is
        name: np.ascontiguousarray(array) for name, array in pretrained.weights.items()
    }
    path = directory / f"{backbone.name}.safetensors"
    write_bytes(path, save(named, pretrained.metadata(backbone.name)))
    return path


def _make_folder(directory: Path) -> None:
    """Make the folder of new files; a UsageError if that is impossible."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"--output {directory}: expected a folder that can be written, got: {error.strerror}; "
            "name another folder with --output DIR"
        ) from error
    if not os.access(directory, os.W_OK):
        raise UsageError(
            f"--output {directory}: expected a folder that can be written, got one without the "
            "right to; name another folder with --output DIR"
        )


def _folder() -> Path:
    return Path(environment.WEIGHTS_DIR.read())
