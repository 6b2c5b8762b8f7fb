"""What stands in for model_fn, input_fn, predict_fn and output_fn that the user's file lacks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from image_classification.data.images import encode_png
from image_classification.data.labels import LabelMap
from image_classification.errors import RequestError
from image_classification.serving.codec.accept import CSV
from image_classification.serving.codec.answers import dump, encode
from image_classification.serving.codec.bodies import Images, read_images
from image_classification.serving.invocation import Predict, refuse_failure
from image_classification.serving.own_code.toolkit import DefaultInferenceHandler
from image_classification.serving.prediction import Failure, Prediction
from image_classification.serving.settings import RequestSettings


class ServedModel:
    """Our loaded model, as the user's functions see it.

    Args:
        predict: encoded images → a prediction, or the reason why there is none, for each.
        labels: the class names; a position is a class index.
        is_multi_label: whether an image may have several classes.
    """

    def __init__(self, predict: Predict, labels: LabelMap, is_multi_label: bool) -> None:
        self.labels, self.is_multi_label = labels, is_multi_label
        self._predict = predict

    def predict(self, images: Sequence[bytes | Failure]) -> list[Prediction | Failure]:
        """A prediction for each encoded image, in order; a Failure for an unusable one."""
        return self._predict(images)


class Results(list[Prediction | Failure]):
    """What default_predict_fn gives output_fn: an entry for each image, in order.

    Attributes:
        is_list: whether the request could have held several images.
    """

    is_list = True


class Defaults(DefaultInferenceHandler):  # type: ignore[misc]  # the package carries no types
    """Our model, our content types, our answers.

    The decoder of the package, which unpickles what it takes for numpy's format, is never reached.
    """

    def __init__(self, model: ServedModel, interface: str, settings: RequestSettings) -> None:
        self._model, self._interface, self._settings = model, interface, settings

    def default_model_fn(self, _: str) -> ServedModel:
        """The model of the artifact, which is loaded already."""
        return self._model

    def default_input_fn(self, input_data: bytes | str, content_type: str | None) -> Images:
        """The encoded images of the body (`.entries`)."""
        body = input_data.encode("utf-8") if isinstance(input_data, str) else input_data
        return read_images(body, content_type)

    def default_predict_fn(self, data: object, model: ServedModel) -> Results:
        """Predictions of what an input_fn returned, ours or the user's.

        Args:
            data: `Images`, an encoded image (bytes), a Pillow image, a uint8 array (H, W, 3), or a
                list of those.
            model: what model_fn returned.

        Raises:
            TypeError: `data` is something else, or `model` has no `predict` of ours.
        """
        if not isinstance(model, ServedModel):
            raise TypeError(
                f"model_fn returned a {type(model).__name__}: then predict_fn is needed too"
            )
        is_list = data.is_list if isinstance(data, Images) else isinstance(data, (list, tuple))
        entries = data.entries if isinstance(data, Images) else data
        many = entries if isinstance(entries, (list, tuple)) else [entries]
        results = Results(model.predict([_encoded(entry) for entry in many]))
        results.is_list = is_list
        if not is_list:
            refuse_failure(results[0])
        return results

    def default_output_fn(self, prediction: object, accept: str) -> tuple[bytes, str]:
        """The answer of what a predict_fn returned, ours or the user's.

        Args:
            prediction: `Results`, what our model's `predict` gives or one of it, or probabilities
                (classes,) or (N, classes) of any array or list. Anything else must be what JSON can
                hold.
            accept: the Accept header.
        """
        wanted = self._settings.accept(accept)
        results = prediction if isinstance(prediction, Results) else self._results_of(prediction)
        if results is None and wanted.media_type != CSV:
            return dump(prediction), wanted.media_type
        if results is None:
            raise RequestError(406, f"Accept {accept!r}: predict_fn gave no probabilities")
        return encode(results, results.is_list, wanted, self._interface)

    def _results_of(self, prediction: object) -> Results | None:
        if isinstance(prediction, Prediction):
            results = Results([prediction])
            results.is_list = False
            return results
        if isinstance(prediction, list) and all(
            isinstance(entry, (Prediction, Failure)) for entry in prediction
        ):
            return Results(prediction)
        try:
            rows = np.asarray(prediction, np.float32)
        except (TypeError, ValueError):
            return None
        labels, is_multi = self._model.labels, self._model.is_multi_label
        if rows.ndim not in (1, 2) or rows.shape[-1] != len(labels):
            return None
        results = Results(Prediction(row, labels, is_multi) for row in np.atleast_2d(rows))
        results.is_list = rows.ndim == 2
        return results


def _encoded(entry: object) -> bytes | Failure:
    """An image in the form that our model reads."""
    if isinstance(entry, (bytes, Failure)):
        return entry
    if isinstance(entry, Image.Image):
        entry = np.asarray(entry.convert("RGB"))
    if isinstance(entry, np.ndarray) and entry.dtype == np.uint8 and entry.ndim == 3:
        return encode_png(entry)
    came = f"{entry.dtype} {entry.shape}" if isinstance(entry, np.ndarray) else type(entry).__name__
    raise TypeError(
        f"input_fn returned {came}: expected the bytes of an image file, a Pillow image or a uint8 "
        "array (height, width, 3), or a list of those; or write predict_fn too"
    )
