"""ImageNet weights on this machine: what every backend reads, and files that Keras publishes."""

from __future__ import annotations

from pathlib import Path

from image_classification.backends import import_errors, pretrained
from image_classification.backends.base import WEIGHT_PREFIX, Backbone, State
from image_classification.backends.tensorflow import keras_families


def pretrained_state(backbone: Backbone, weights_dir: Path | None) -> State | None:
    """As `backends.pretrained`; for `keras/<class>` also `<weights_dir>/keras/<class>.h5`.

    That is the file `…_notop.h5` of keras.applications under the class's name: it has no head.

    Raises:
        ArtifactError: a file is there but damaged, altered or of another network.
    """
    state = pretrained.pretrained_state(backbone, weights_dir)
    path = weights_dir / f"{backbone.name}.h5" if weights_dir else None
    is_keras = backbone.name.startswith(keras_families.PREFIX)
    if state is not None or path is None or not is_keras or not path.is_file():
        return state
    with import_errors(f"backbone {backbone.name!r} needs Keras", "tensorflow"):
        from image_classification.backends.tensorflow.model.keras_trunk import read_keras_weights

    shape = (3, backbone.input_size, backbone.input_size)
    named = read_keras_weights(backbone.name, path, shape)
    return {WEIGHT_PREFIX + name: array for name, array in named.items()}
