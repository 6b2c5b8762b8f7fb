"""A SavedModel as a backbone: what TensorFlow Hub, the closed built-in and Keras leave behind.

In: a folder with a `saved_model.pb` somewhere in it: a callable of float32 images N·H·W·C, or one
whose signature `serving_default` takes such images. Out: its output as features; maps are averaged
over their positions. Weights are `trunk.<number>.<their own name>`, in TensorFlow's layouts.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf

from image_classification.backends.base import ModelSpec
from image_classification.backends.tensorflow.model.saved_model_check import (
    MODEL_FILE,
    check_saved_model,
)
from image_classification.backends.tensorflow.model.weight import Weight
from image_classification.errors import ArtifactError, BackendError

_logger = logging.getLogger(__name__)

_SIGNATURE = "serving_default"

_Function = Callable[[tf.Tensor, bool], Any]
_Variables = list[tuple[tf.Variable, bool]]


class SavedModelTrunk:
    """See `Trunk`."""

    def __init__(self, spec: ModelSpec) -> None:
        folder = find_saved_model(spec.folder)
        self._has_training_mode = not check_saved_model(folder)
        if not self._has_training_mode:
            _logger.warning(
                "The SavedModel draws random numbers, which a resumed job could not repeat: it is "
                "trained in its evaluation mode (no dropout, BatchNorms keep their statistics)"
            )
        self._loaded = _load(folder)
        candidates, variables = _functions(self._loaded, folder)
        self._function, features = _first_that_answers(candidates, spec.input_shape)
        self.width = int(features.shape[-1])
        self.weights = {
            f"trunk.{place}.{variable.name.split(':')[0].replace('/', '.')}": Weight(
                variable, tuple(range(len(variable.shape))), learns
            )
            for place, (variable, learns) in enumerate(variables)
        }

    def features(self, images: tf.Tensor, is_training: bool) -> tf.Tensor:
        """The model's output for normalised images."""
        return _pooled(
            self._function(tf.cast(images, tf.float32), self._has_training_mode and is_training)
        )

    def start_step(self, entropy: int) -> None:
        """Nothing is random in the mode that is used."""


def find_saved_model(folder: Path | None) -> Path:
    """The folder of the one `saved_model.pb` in the channel.

    Raises:
        ArtifactError: there is none, or there are several.
    """
    found = sorted(folder.rglob(MODEL_FILE)) if folder else []
    if len(found) != 1:
        names = ", ".join(str(path.relative_to(folder or ".")) for path in found) or "none"
        raise ArtifactError(
            f"backbone=saved_model: expected one {MODEL_FILE} in the channel model, found {names}"
        )
    return found[0].parent


def _load(folder: Path) -> Any:
    try:
        return tf.saved_model.load(str(folder))
    except (ValueError, OSError, KeyError, AssertionError, tf.errors.OpError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ArtifactError(
            f"the SavedModel of the channel model cannot be loaded: {reason}"
        ) from error


def _functions(loaded: Any, folder: Path) -> tuple[list[_Function], _Variables]:
    """What may compute the features, the best first, and its variables with whether they learn."""
    if callable(loaded):
        # TensorFlow Hub's callables know a training mode.
        candidates = [
            lambda images, is_training: loaded(images, training=is_training),
            lambda images, _: loaded(images),
        ]
        traced = getattr(loaded.__call__, "concrete_functions", ())
        return candidates, _variables([v for function in traced for v in function.variables])
    signature = dict(loaded.signatures).get(_SIGNATURE)
    inputs = signature.structured_input_signature[1] if signature is not None else {}
    if signature is None or len(inputs) != 1:
        raise ArtifactError(
            f"{folder.name}: the SavedModel is neither callable nor has it a signature "
            f"{_SIGNATURE!r} with one input"
        )
    (name,) = inputs
    # A signature has no training mode: BatchNorms keep their statistics.
    return [lambda images, _: signature(**{name: images})], _variables(signature.variables)


def _variables(captured: Iterable[tf.Variable]) -> _Variables:
    """Each float variable once, and whether it learns."""
    once = {variable.ref(): variable for variable in captured}
    return [(v, bool(v.trainable)) for v in once.values() if v.dtype == tf.float32]


def _first_that_answers(
    candidates: Sequence[_Function], shape: tuple[int, int, int]
) -> tuple[_Function, tf.Tensor]:
    channels, height, width = shape
    images, reasons = tf.zeros([2, height, width, channels]), []
    for function in candidates:
        try:
            return function, _pooled(function(images, False))
        except (ValueError, TypeError, tf.errors.OpError) as error:
            reasons.append(" ".join(str(error).split())[:300])
    raise BackendError(
        f"the SavedModel of the channel model does not take float32 images of {height} × {width} × "
        f"{channels}: set image_shape to what it was made for ({reasons[-1]})"
    )


def _pooled(output: Any) -> tf.Tensor:
    if isinstance(output, dict):
        output = _only(output)
    if len(output.shape) == 4:
        output = tf.reduce_mean(output, axis=[1, 2])
    if len(output.shape) != 2 or output.dtype != tf.float32:
        raise BackendError(
            f"the SavedModel of the channel model answers {output.dtype.name} of shape "
            f"{output.shape}: expected float32 features (N, width) or maps (N, H, W, C)"
        )
    return output


def _only(outputs: dict[str, tf.Tensor]) -> tf.Tensor:
    if len(outputs) == 1:
        return next(iter(outputs.values()))
    if "default" in outputs:  # TensorFlow Hub's name
        return outputs["default"]
    raise BackendError(
        f"the SavedModel of the channel model has the outputs {', '.join(sorted(outputs))}: "
        "expected one, or one of them called default"
    )
