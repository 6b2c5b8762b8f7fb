"""A backbone of keras.applications: built without its head, its pooled features.

Its weights keep Keras's names and layouts behind the prefix `trunk.`, as
`trunk.conv1_conv.kernel` (height, width, in, out). It computes in float32 whatever the precision.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from image_classification.backends.base import ModelSpec, State
from image_classification.backends.tensorflow.catalog import PREFIX, Family, family_of
from image_classification.backends.tensorflow.layers import Weight
from image_classification.errors import ArtifactError, BackendError

_MOMENTUM = 0.9  # not Keras's 0.99: see `networks/efficientnet_lite`, the reason is the same
_SEED_STATE = "seed_generator_state"


class KerasTrunk:
    """See `Trunk`."""

    def __init__(self, spec: ModelSpec) -> None:
        _check_keras()
        self.is_bgr = family_of(spec.backbone).is_bgr
        self._model = _build(spec.backbone, spec.input_shape, spec.seed)
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
        # What its dropouts and stochastic depths draw from.
        self._seeds = [v for v in self._model.variables if v.path.endswith(_SEED_STATE)]

    def features(self, images: tf.Tensor, is_training: bool) -> tf.Tensor:
        """The pooled features of normalized RGB images, or gray ones."""
        x = tf.cast(images, tf.float32)
        if self.is_bgr and x.shape[-1] == 3:
            x = tf.reverse(x, axis=[-1])
        return self._model(x, training=is_training)

    def copy_on(self, images: Any) -> Any:
        """The features of a symbolic input, by layers that share nothing with this trunk's."""
        copy = keras.models.clone_model(self._model)
        copy.set_weights([variable.value.numpy() for variable in self._model.weights])
        return copy(images)

    def start_step(self, entropy: int) -> None:
        """What the layers draw follows from `entropy` and the place of the layer."""
        for place, state in enumerate(self._seeds):
            state.assign([entropy, place])


def read_keras_weights(backbone: str, path: Path, shape: tuple[int, int, int]) -> State:
    """The weights of a file that Keras publishes for a backbone without its top, by neutral name.

    Args:
        backbone: `keras/<class>`.
        path: HDF5, as `resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5`.
        shape: (channels, height, width) to build it for.

    Raises:
        ArtifactError: the file is damaged, or of another network.
    """
    whole = _build_whole(backbone, shape, seed=0)
    try:
        whole.load_weights(path)
    except (ValueError, OSError, KeyError, AttributeError, IndexError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ArtifactError(
            f"{path} does not hold the weights of {backbone} without its top, as Keras publishes "
            f"them in files that end in _notop.h5: {reason}"
        ) from error
    model = _without_normalization(whole, family_of(backbone))
    return {_name(variable): variable.value.numpy() for variable in model.weights}


def _check_keras() -> None:
    if keras.config.backend() != "tensorflow":
        raise BackendError(
            f"Keras is set to compute with {keras.config.backend()!r} on this machine: set the "
            "variable KERAS_BACKEND=tensorflow"
        )


def _name(variable: Any) -> str:
    return "trunk." + str(variable.path).replace("/", ".")


def _build(backbone: str, shape: tuple[int, int, int], seed: int) -> Any:
    return _without_normalization(_build_whole(backbone, shape, seed), family_of(backbone))


def _build_whole(backbone: str, shape: tuple[int, int, int], seed: int) -> Any:
    """The model as Keras makes it, but without the normalization that can be left out."""
    channels, height, width = shape
    family, name = family_of(backbone), backbone.removeprefix(PREFIX)
    if min(height, width) < family.least_size:
        raise BackendError(
            f"{backbone} takes images from {family.least_size} pixels on, image_shape is "
            f"{channels},{height},{width}"
        )
    options = {"include_preprocessing": False} if family.normalizes == "option" else {}
    keras.backend.clear_session(free_memory=False)  # names of layers are numbered from 0 again
    drawn = random.getstate()
    random.seed(seed)  # where Keras takes the seeds of first weights from
    try:
        return getattr(keras.applications, name)(
            include_top=False,
            weights=None,
            pooling="avg",
            input_shape=(height, width, channels),
            **options,
        )
    finally:
        random.setstate(drawn)


def _without_normalization(model: Any, family: Family) -> Any:
    """EfficientNet's first layers, before `stem_conv_pad`, scale and normalize: they are cut off.

    The published weights make them what `mean` and `std` of the family say.
    """
    if family.normalizes != "layers":
        return model
    return keras.Model(model.get_layer("stem_conv_pad").input, model.output)
