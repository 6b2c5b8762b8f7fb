"""A framework's own format of an artifact, made from its weights; the artifact stays as it is."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from safetensors.numpy import load_file

from image_classification import artifact as artifacts
from image_classification import backends
from image_classification.artifact import Artifact, open_artifact
from image_classification.backends.base import WEIGHT_PREFIX, ModelSpec, OptimizerSpec, World
from image_classification.contract import environment
from image_classification.errors import ArtifactError


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
        world = World(threads=environment.framework_threads())
        engine = backends.load(backend_name).build(_spec_of(artifact), OptimizerSpec(), world)
        named = load_file(weights_file)
        engine.load_state({WEIGHT_PREFIX + name: array for name, array in named.items()})
        temperature = artifact.manifest.get("calibration", {}).get("temperature", 1.0)
        writer = cast(backends.FormatWriter, engine)
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
