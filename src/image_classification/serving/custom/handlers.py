"""The user's handlers as a responder, run by the sagemaker-inference package's transformer."""

import logging
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
from image_classification.serving.app import Invocation, refuse_unusable
from image_classification.serving.codec import accept as accepting
from image_classification.serving.codec import answers, bodies
from image_classification.serving.codec.answers import Failure, Prediction
from image_classification.serving.custom import (
    ADDED,
    CODE_FOLDER,
    FUNCTIONS,
    CustomCode,
    check_functions,
)
from image_classification.serving.observation import Health
from image_classification.serving.request_settings import RequestSettings
from image_classification.serving.scheduling import hold_answer


@contextmanager
def _scipy_if_missing() -> Iterator[None]:
    """Stand in for SciPy while the block imports; the user's code never sees the empty module."""
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


_TOGETHER = 32  # results that are encoded before their bytes are counted

PredictEach = Callable[[Sequence[bytes | Failure]], list[Prediction | Failure]]
"""`Model.predict_each`."""


class ServedModel:
    """Our loaded model, as the user's functions see it.

    Args:
        predict: encoded images → a prediction, or the reason why there is none, for each.
        labels: the class names; a position is a class index.
        is_multi_label: whether an image may have several classes.
    """

    def __init__(self, predict: PredictEach, labels: LabelMap, is_multi_label: bool) -> None:
        self.labels, self.is_multi_label = labels, is_multi_label
        self._predict = predict

    def predict(self, images: Sequence[bytes | Failure]) -> list[Prediction | Failure]:
        """Predict encoded images, in order; a Failure stands for an unusable one."""
        return self._predict(images)


class Results(list[Prediction | Failure]):
    """The result of default_predict_fn, for output_fn: one entry per image, in order.

    Attributes:
        is_list: whether the request could have held several images.
    """

    def __init__(self, entries: Iterable[Prediction | Failure], is_list: bool = True) -> None:
        super().__init__(entries)
        self.is_list = is_list


class Defaults(DefaultInferenceHandler):  # type: ignore[misc]  # the package carries no types
    """Our model, our content types, our answers.

    The package's decoder, which unpickles some of numpy's files, is never reached.
    """

    def __init__(self, model: ServedModel, form: AnswerForm, settings: RequestSettings) -> None:
        self._model, self._form, self._settings = model, form, settings

    def default_model_fn(self, _: str) -> ServedModel:
        """Return the model of the artifact, which is loaded already."""
        return self._model

    def default_input_fn(self, input_data: bytes | str, content_type: str | None) -> bodies.Images:
        """Return the encoded images of the body (`.entries`)."""
        body = input_data.encode("utf-8") if isinstance(input_data, str) else input_data
        return bodies.read_images(body, content_type)

    def default_predict_fn(self, data: object, model: ServedModel) -> Results:
        """Predict what an input_fn returned, ours or the user's.

        Args:
            data: `Images`, an encoded image (bytes), a Pillow image, a uint8 array (H, W, 3), or a
                list of those.
            model: what model_fn returned.

        Raises:
            TypeError: `data` is something else, or `model` is not a `ServedModel`.
        """
        if not isinstance(model, ServedModel):
            raise TypeError(
                f"model_fn returned a {type(model).__name__}, which only your own predict_fn can "
                "use: write predict_fn too"
            )
        entries, is_list = data, isinstance(data, (list, tuple))
        if isinstance(data, bodies.Images):
            entries, is_list = data.entries, data.is_list
        many = entries if isinstance(entries, (list, tuple)) else [entries]
        results = Results(model.predict([_encoded(entry) for entry in many]), is_list)
        if not is_list:
            refuse_unusable(results)
        return results

    def default_output_fn(self, prediction: object, accept: str) -> tuple[bytes, str]:
        """Return (body, content type) of the answer to a predict_fn's result.

        Args:
            prediction: `Results`, what `ServedModel.predict` returns or one entry of it, or an
                array or list of probabilities, (classes,) or (N, classes). Anything else must fit
                into JSON.
            accept: the Accept header.
        """
        settings = self._settings
        default = settings.default_accept or accepting.JSON
        wanted = accepting.parse_accept(accept, default, settings.top_k, settings.threshold)
        if wanted.details:
            names = " and ".join(sorted(wanted.details))
            raise RequestError(406, f"Accept parameter {names}: not available with your own code")
        results = prediction if isinstance(prediction, Results) else self._results_of(prediction)
        if results is None and wanted.media_type != accepting.CSV:
            return answers.dump(prediction), wanted.media_type
        if results is None:
            raise RequestError(
                406,
                f"Accept {accept!r} needs probabilities, but predict_fn returned something else: "
                "return probabilities, or write output_fn too",
            )
        if not settings.is_placeholder:
            refuse_unusable(results)
        parts = (results[at : at + _TOGETHER] for at in range(0, max(1, len(results)), _TOGETHER))
        return answers.encode_parts(parts, results.is_list, wanted, self._form, hold_answer)

    def _results_of(self, prediction: object) -> Results | None:
        if isinstance(prediction, Prediction):
            return Results([prediction], is_list=False)
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
        found = (Prediction(row, labels, is_multi) for row in np.atleast_2d(rows))
        return Results(found, is_list=rows.ndim == 2)


def _encoded(entry: object) -> bytes | Failure:
    """Return an image in a form that our model reads."""
    if isinstance(entry, (bytes, Failure)):
        return entry
    if isinstance(entry, Image.Image):
        entry = np.asarray(entry.convert("RGB"))
    if isinstance(entry, np.ndarray) and entry.dtype == np.uint8 and entry.ndim == 3:
        return encode_png(entry)
    name = f"{entry.dtype} {entry.shape}" if isinstance(entry, np.ndarray) else type(entry).__name__
    raise TypeError(
        f"input_fn returned {name}: expected the bytes of an image file, a Pillow image or a uint8 "
        "array (height, width, 3), or a list of those; or write predict_fn too"
    )


_logger = logging.getLogger(__name__)
_NO_PACKAGE = "build an image with the packages that your code imports (docs/own-code.md)"
_HEADER_VALUE = re.compile(r"[\t -~\x80-\xff]*")  # RFC 9110, 5.5


class CustomHandlers:
    """Answers invocations through the user's functions; ours where the file has none.

    Args:
        code: the user's file.
        model: our model, which our defaults use.
        form: of our answers.
        settings: of the environment.
        health: watches each call; one that hangs ends the process.

    Attributes:
        functions: names of those that the file defines.

    Raises:
        UserError: the file cannot be imported, its model_fn fails, or it has misspelled functions.
    """

    def __init__(
        self,
        code: CustomCode,
        model: ServedModel,
        form: AnswerForm,
        settings: RequestSettings,
        health: Health,
    ) -> None:
        self._code, self._settings, self._health = code, settings, health
        self._transformer = _Transformer(Defaults(model, form, settings))
        sys.path.insert(0, str(code.folder))
        try:
            context = _Context(code, {})
            self._transformer.validate_and_initialize(str(code.model_dir), context)
        except (Exception, SystemExit) as error:
            _logger.error("%s/%s cannot be used", CODE_FOLDER, code.program, exc_info=error)
            cure = f"; {_NO_PACKAGE}" if isinstance(error, ModuleNotFoundError) else ""
            raise UserError(f"{CODE_FOLDER}/{code.program}: {_described(error)}{cure}") from error
        module = _check_imported(code)
        defined = [
            name
            for name, value in vars(module).items()
            if name in (*FUNCTIONS, *ADDED) or getattr(value, "__module__", None) == module.__name__
        ]
        self.functions = check_functions(code.program, defined)

    def __call__(self, invocation: Invocation) -> tuple[bytes, str]:
        """Return (body, content type) of the user's answer, or raise a RequestError."""
        accept = invocation.accept or self._settings.default_accept or accepting.JSON
        content_type = _for_handlers(invocation.content_type)
        context = _Context(self._code, {"Content-Type": content_type, "Accept": accept})
        try:
            with self._health.running(f"{CODE_FOLDER}/{self._code.program}"):
                (answer,) = self._transformer.transform([{"body": invocation.body}], context)
            return self._as_bytes(answer), self._as_header(context.content_type)
        except (RequestError, ImageError):
            raise
        except UnsupportedFormatError as error:
            raise RequestError(415, str(error)) from error
        except BaseInferenceToolkitError as error:
            raise self._refusal(error) from error
        except UnicodeDecodeError as error:
            raise RequestError(
                400,
                f"expected the {content_type} body in UTF-8, got other bytes ({error}): encode it "
                "as UTF-8",
            ) from error
        except BaseException as error:  # sys.exit too: the client would never get an answer
            _logger.error("%s/%s failed", CODE_FOLDER, self._code.program, exc_info=error)
            raise RequestError(
                500, f"{CODE_FOLDER}/{self._code.program} failed: {_described(error)}"
            ) from error

    def _refusal(self, error: BaseInferenceToolkitError) -> RequestError:
        """Return the refusal that the user's code asks for, or a 500 that says what is wrong."""
        status, message = error.status_code, str(error.message)
        if str(status).isdecimal() and 400 <= int(status) <= 599:
            return RequestError(int(status), message)
        _logger.error("%s/%s failed", CODE_FOLDER, self._code.program, exc_info=error)
        return RequestError(
            500,
            f"{CODE_FOLDER}/{self._code.program} raised {type(error).__name__} with status "
            f"{status!r}, expected 400 to 599: {message}",
        )

    def _as_bytes(self, answer: object) -> bytes:
        if isinstance(answer, str):
            return str.encode(answer, "utf-8")
        if isinstance(answer, (bytes, bytearray)):
            return bytes(answer)
        raise RequestError(
            500,
            f"{CODE_FOLDER}/{self._code.program}: output_fn returned a {type(answer).__name__}: "
            "expected text or bytes",
        )

    def _as_header(self, content_type: object) -> str:
        """Return the first of the content types; one with a line break would begin a new header."""
        first = str.split(content_type, ",")[0].strip(" ") if isinstance(content_type, str) else ""
        if isinstance(content_type, str) and _HEADER_VALUE.fullmatch(first):
            return first
        raise RequestError(
            500,
            f"{CODE_FOLDER}/{self._code.program}: output_fn returned the content type "
            f"{ascii(content_type)[:200]}: expected text on one line, such as application/json",
        )


class _Transformer(Transformer):  # type: ignore[misc]  # the package carries no types
    @staticmethod
    def handle_error(*_: object) -> NoReturn:
        """Raise the error again; the package would answer the client with its traceback."""
        raise


class _Context:
    """The part of a model server's context that the transformer and handlers use."""

    def __init__(self, code: CustomCode, headers: Mapping[str, str]) -> None:
        self.system_properties = {"model_dir": str(code.model_dir)}
        self.request_processor = [self]
        self.content_type = ""
        self._headers = dict(headers)

    def get_request_properties(self) -> dict[str, str]:
        """Return the request's headers."""
        return self._headers

    def set_response_content_type(self, _: int, content_type: str) -> None:
        """Set the content type of the one answer."""
        self.content_type = content_type


def _check_imported(code: CustomCode) -> ModuleType:
    """Return the file's module.

    Raises:
        UserError: another module has the file's name, which Python imports instead.
    """
    module = sys.modules.get(code.program[:-3])
    imported = getattr(module, "__file__", None)
    if (
        module is None
        or imported is None
        or Path(imported).resolve() != (code.folder / code.program).resolve()
    ):
        raise UserError(
            f"{CODE_FOLDER}/{code.program} has the name of another module ({imported}): rename it, "
            "for example inference.py"
        )
    return module


def _for_handlers(header: str | None) -> str:
    """Return the content type as handlers compare it: without parameters other than a boundary.

    Raises:
        RequestError: 415 for types whose bodies can hold code.
    """
    header = header or bodies.DEFAULT_CONTENT_TYPE
    media_type = bodies.media_type_of(header)
    if media_type in bodies.CODE_IN_DATA:
        raise RequestError(
            415,
            f"Content-Type {media_type!r} is not accepted because its files can contain code "
            "(pickles): send images, JSON or CSV",
        )
    return header if media_type.startswith("multipart/") else media_type


def _described(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"
