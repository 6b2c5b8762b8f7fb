"""The user's handlers as a responder: the sagemaker-inference package's transformer around them."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

from image_classification.errors import ImageError, RequestError, UserError
from image_classification.serving.codec.accept import JSON
from image_classification.serving.codec.bodies import (
    CODE_IN_DATA,
    DEFAULT_CONTENT_TYPE,
    media_type_of,
)
from image_classification.serving.health import Health
from image_classification.serving.invocation import Invocation
from image_classification.serving.own_code.defaults import Defaults, ServedModel
from image_classification.serving.own_code.selection import CODE_FOLDER, OwnCode
from image_classification.serving.own_code.toolkit import (
    BaseInferenceToolkitError,
    Transformer,
    UnsupportedFormatError,
)
from image_classification.serving.settings import RequestSettings

_logger = logging.getLogger(__name__)


class OwnHandlers:
    """Answers invocations through the user's functions; ours where the file has none.

    Args:
        own: the user's file.
        model: our model, which our defaults use.
        interface: mxnet or tensorflow.
        settings: of the environment.
        health: asked how long a call lasts; one that hangs ends the process.

    Raises:
        UserError: the file cannot be imported, or its model_fn fails.
    """

    def __init__(
        self,
        own: OwnCode,
        model: ServedModel,
        interface: str,
        settings: RequestSettings,
        health: Health,
    ) -> None:
        self._own, self._settings, self._health = own, settings, health
        self._transformer = _Transformer(Defaults(model, interface, settings))
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
