"""The pooled features of a classifier of keras.applications.

Its weights keep Keras's names and layouts after the prefix `trunk.`: `trunk.conv1_conv.kernel` is
(height, width, in, out). It computes in float32 with any precision.
"""

import random
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from image_classification.backends.base import ModelSpec, State
from image_classification.backends.tensorflow.catalog import PREFIX, Family, family_of
from image_classification.backends.tensorflow.layers import Weight
from image_classification.errors import ArtifactError, BackendError

_MOMENTUM = 0.9  # not Keras's 0.99, for the reason in `networks/efficientnet_lite`
_LOAD_ERRORS = (ValueError, OSError, KeyError, AttributeError, IndexError)
_SEED_STATE = "seed_generator_state"


class KerasTrunk:
    """The `model.Trunk` of a backbone `keras/<class>`."""

    def __init__(self, spec: ModelSpec) -> None:
        _check_keras()
        family = family_of(spec.backbone)
        self.is_bgr = family.is_bgr
        whole = _build_whole(spec.backbone, spec.input_shape, spec.seed)
        self._model = _without_normalization(whole, family)
        self.width = int(self._model.output_shape[-1])
        for layer in self._model.layers:
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.momentum = _MOMENTUM
        trainable = {variable.path for variable in self._model.trainable_variables}
        self.weights = {
            _name(variable): Weight(
                variable.value, tuple(range(len(variable.shape))), variable.path in trainable
            )
            for variable in self._model.weights
        }
        # Of its dropouts and stochastic depths.
        self._seeds = [v for v in self._model.variables if v.path.endswith(_SEED_STATE)]

    def features(self, images: tf.Tensor, is_training: bool) -> tf.Tensor:
        """Return the pooled features of normalized images, RGB or gray."""
        x = tf.cast(images, tf.float32)
        if self.is_bgr and x.shape[-1] == 3:
            x = tf.reverse(x, axis=[-1])
        return self._model(x, training=is_training)

    def copy_on(self, images: Any) -> Any:
        """Return the features of a symbolic input, from copies of this trunk's layers."""
        copy = keras.models.clone_model(self._model)
        copy.set_weights([variable.value.numpy() for variable in self._model.weights])
        return copy(images)

    def start_step(self, entropy: int) -> None:
        """Seed each layer with `entropy` and its index."""
        for index, state in enumerate(self._seeds):
            state.assign([entropy, index])


def read_keras_weights(backbone: str, path: Path, shape: tuple[int, int, int]) -> State:
    """Read the weights that Keras publishes for a backbone, by neutral name, without its top.

    Args:
        backbone: `keras/<class>`.
        path: of an HDF5 file like `resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5`, or of one
            with ImageNet's classes, or of a `.weights.h5`.
        shape: (channels, height, width) for which the backbone is built.

    Raises:
        ArtifactError: the file is damaged or of another network.
    """
    whole = loaded = _build_whole(backbone, shape, seed=0)
    try:
        loaded.load_weights(path)
    except _LOAD_ERRORS as error:
        loaded = _build_whole(backbone, shape, seed=0, has_top=True)
        try:
            loaded.load_weights(path)
        except _LOAD_ERRORS:
            reason = " ".join(str(error).split())[:300]
            raise ArtifactError(
                f"{path} does not contain the weights of {backbone}, with its top for 1,000 "
                "classes or without it, as in Keras's own files that end in _notop.h5. Of a model "
                "that contains the network, save the layer that is the network, with "
                f"model.get_layer(NAME).save_weights('x.weights.h5'). Keras reports: {reason}"
            ) from error
    values = {variable.path: variable.value for variable in loaded.weights}
    model = _without_normalization(whole, family_of(backbone))
    return {_name(variable): values[variable.path].numpy() for variable in model.weights}


def _check_keras() -> None:
    if keras.config.backend() != "tensorflow":
        raise BackendError(
            f"Keras is set to use {keras.config.backend()!r} on this machine: set the environment "
            "variable KERAS_BACKEND=tensorflow"
        )


def _name(variable: Any) -> str:
    return "trunk." + str(variable.path).replace("/", ".")


def _build_whole(
    backbone: str, shape: tuple[int, int, int], seed: int, has_top: bool = False
) -> Any:
    """Return the model as Keras builds it, without the normalization that is optional."""
    channels, height, width = shape
    family, name = family_of(backbone), backbone.removeprefix(PREFIX)
    if min(height, width) < family.least_size:
        raise BackendError(
            f"{backbone} needs images of at least {family.least_size} pixels, but image_shape is "
            f"{channels},{height},{width}"
        )
    options = {"include_preprocessing": False} if family.normalizes == "option" else {}
    keras.backend.clear_session(free_memory=False)  # restart the numbers in layer names
    drawn = random.getstate()
    random.seed(seed)  # Keras draws the seeds of its first weights from this generator
    try:
        return getattr(keras.applications, name)(
            include_top=has_top,
            weights=None,
            pooling="avg",
            input_shape=(height, width, channels),
            **options,
        )
    finally:
        random.setstate(drawn)


def _without_normalization(model: Any, family: Family) -> Any:
    """Cut off EfficientNet's first layers, before `stem_conv_pad`, which scale and normalize.

    With the published weights they compute the same as `mean` and `std` of the family.
    """
    if family.normalizes != "layers":
        return model
    return keras.Model(model.get_layer("stem_conv_pad").input, model.output)
