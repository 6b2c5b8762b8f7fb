"""The user's handlers as a responder: the sagemaker-inference package's transformer around them."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import NoReturn

import numpy as np
from PIL import Image

from image_classification.contract.interface import AnswerForm
from image_classification.errors import ImageError, RequestError, UserError
from image_classification.images.encode import encode_png
from image_classification.labels.label_map import LabelMap
from image_classification.serving.codec.accept import CSV, JSON
from image_classification.serving.codec.answers import dump, encode
from image_classification.serving.codec.bodies import (
    CODE_IN_DATA,
    DEFAULT_CONTENT_TYPE,
    Images,
    media_type_of,
    read_images,
)
from image_classification.serving.custom.selection import CODE_FOLDER, OwnCode
from image_classification.serving.health import Health
from image_classification.serving.invocation import Invocation, Predict, refuse_failure
from image_classification.serving.prediction import Failure, Prediction
from image_classification.serving.settings import RequestSettings


@contextmanager
def _scipy_if_missing() -> Iterator[None]:
    """An empty module in SciPy's place while the block imports; the user's code never sees it."""
    if find_spec("scipy") is not None:
        yield
        return
    scipy, sparse = ModuleType("scipy"), ModuleType("scipy.sparse")
    vars(scipy)["sparse"] = sparse
    sys.modules |= {"scipy": scipy, "scipy.sparse": sparse}
    try:
        yield
    finally:
        del sys.modules["scipy"], sys.modules["scipy.sparse"]


with _scipy_if_missing():
    from sagemaker_inference.default_inference_handler import DefaultInferenceHandler
    from sagemaker_inference.errors import BaseInferenceToolkitError, UnsupportedFormatError
    from sagemaker_inference.transformer import Transformer


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

    def __init__(self, model: ServedModel, form: AnswerForm, settings: RequestSettings) -> None:
        self._model, self._form, self._settings = model, form, settings

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
        return encode(results, results.is_list, wanted, self._form)

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


_logger = logging.getLogger(__name__)


class OwnHandlers:
    """Answers invocations through the user's functions; ours where the file has none.

    Args:
        own: the user's file.
        model: our model, which our defaults use.
        form: of the answers.
        settings: of the environment.
        health: asked how long a call lasts; one that hangs ends the process.

    Raises:
        UserError: the file cannot be imported, or its model_fn fails.
    """

    def __init__(
        self,
        own: OwnCode,
        model: ServedModel,
        form: AnswerForm,
        settings: RequestSettings,
        health: Health,
    ) -> None:
        self._own, self._settings, self._health = own, settings, health
        self._transformer = _Transformer(Defaults(model, form, settings))
        sys.path.insert(0, str(own.folder))
        try:
            context = _Context(own, {})
            self._transformer.validate_and_initialize(str(own.model_dir), context)
        except (Exception, SystemExit) as error:
            _logger.error("%s/%s cannot be used", CODE_FOLDER, own.program, exc_info=error)
            raise UserError(f"{CODE_FOLDER}/{own.program}: {_described(error)}") from error
        _check_imported(own)

    def __call__(self, invocation: Invocation) -> tuple[bytes, str]:
        """(body, content type) of the user's answer; a RequestError for one that is refused."""
        accept = invocation.accept or self._settings.default_accept or JSON
        content_type = _for_handlers(invocation.content_type)
        context = _Context(self._own, {"Content-Type": content_type, "Accept": accept})
        try:
            with self._health.running():
                (answer,) = self._transformer.transform([{"body": invocation.body}], context)
        except (RequestError, ImageError):
            raise
        except UnsupportedFormatError as error:
            raise RequestError(415, str(error)) from error
        except BaseInferenceToolkitError as error:
            raise RequestError(int(error.status_code), str(error.message)) from error
        except UnicodeDecodeError as error:
            raise RequestError(400, f"the {content_type} body is not UTF-8: {error}") from error
        except BaseException as error:  # sys.exit too: its caller would never get an answer
            _logger.error("%s/%s failed", CODE_FOLDER, self._own.program, exc_info=error)
            raise RequestError(
                500, f"{CODE_FOLDER}/{self._own.program} failed: {_described(error)}"
            ) from error
        return self._as_bytes(answer), context.content_type.split(",")[0].strip()

    def _as_bytes(self, answer: object) -> bytes:
        if isinstance(answer, str):
            return answer.encode("utf-8")
        if isinstance(answer, (bytes, bytearray)):
            return bytes(answer)
        raise RequestError(
            500,
            f"{CODE_FOLDER}/{self._own.program}: output_fn returned a {type(answer).__name__}: "
            "expected text or bytes",
        )


class _Transformer(Transformer):  # type: ignore[misc]  # the package carries no types
    @staticmethod
    def handle_error(*_: object) -> NoReturn:
        """Let what is being handled through; the package would answer the caller with its trace."""
        raise


class _Context:
    """The part of a model server's context that the transformer uses, and handlers may."""

    def __init__(self, own: OwnCode, headers: Mapping[str, str]) -> None:
        self.system_properties = {"model_dir": str(own.model_dir)}
        self.request_processor = [self]
        self.content_type = ""
        self._headers = dict(headers)

    def get_request_properties(self) -> dict[str, str]:
        """The request's headers."""
        return self._headers

    def set_response_content_type(self, _: int, content_type: str) -> None:
        """Of the one answer."""
        self.content_type = content_type


def _check_imported(own: OwnCode) -> None:
    """A UserError if Python knows another module by the file's name, which it imports instead."""
    imported = getattr(sys.modules.get(own.program[:-3]), "__file__", None)
    if imported is None or Path(imported).resolve() != (own.folder / own.program).resolve():
        raise UserError(
            f"{CODE_FOLDER}/{own.program} has the name of another module ({imported}): rename it, "
            "for example inference.py"
        )


def _for_handlers(header: str | None) -> str:
    """The content type as handlers compare it: without parameters, but for a boundary.

    Raises:
        RequestError: 415 for types whose bodies can hold code.
    """
    header = header or DEFAULT_CONTENT_TYPE
    media_type = media_type_of(header)
    if media_type in CODE_IN_DATA:
        raise RequestError(
            415,
            f"Content-Type {media_type!r} is not accepted because its files can hold code "
            "(pickles): send images, JSON or CSV",
        )
    return header if media_type.startswith("multipart/") else media_type


def _described(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"
