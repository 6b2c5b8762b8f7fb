"""An invocation from the bytes of its body to the bytes of its answer, without HTTP.

Top to bottom: the images in the body, what the caller accepts, a prediction for each image, the
answer. Every refusal is a `RequestError` that says what came, what is accepted and what to do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from image_classification.contract.interface import AnswerForm
from image_classification.errors import RequestError
from image_classification.serving.codec.accept import JSON, JSON_LINES
from image_classification.serving.codec.answers import encode
from image_classification.serving.codec.bodies import media_type_of, read_images
from image_classification.serving.prediction import Failure, Prediction
from image_classification.serving.settings import RequestSettings

CUSTOM_ATTRIBUTES = "X-Amzn-SageMaker-Custom-Attributes"
_MAX_ATTRIBUTES = 1024  # visible US-ASCII characters: InvokeEndpoint's limit

Predict = Callable[[Sequence[bytes | Failure]], list[Prediction | Failure]]
"""`Model.predict_each`."""


@dataclass(frozen=True)
class Invocation:
    """What a caller sent.

    Attributes:
        body: at most `max_content_length` bytes.
        content_type, accept: the headers, or None.
    """

    body: bytes
    content_type: str | None = None
    accept: str | None = None


class Responder(Protocol):
    """Answers invocations, from any thread: `Answering`, or the user's own handlers."""

    def __call__(self, invocation: Invocation) -> tuple[bytes, str]:
        """(body, content type) of the answer; a RequestError for one that is refused."""
        ...


class Answering:
    """The answers of our own model.

    Args:
        predict: encoded images → a prediction, or the reason why there is none, for each.
        form: of the answer, that of the interface.
        settings: of the environment.
    """

    def __init__(self, predict: Predict, form: AnswerForm, settings: RequestSettings) -> None:
        self._predict = predict
        self._form = form
        self._settings = settings

    def __call__(self, invocation: Invocation) -> tuple[bytes, str]:
        """(body, content type) of the answer.

        Raises:
            RequestError: 400 for a body that cannot be taken apart or a single image that cannot
                be used; 406, 413 and 415 as `read_images` and `RequestSettings.accept` say.
        """
        content_type = media_type_of(invocation.content_type or "")
        default = JSON_LINES if content_type == JSON_LINES else JSON
        accept = self._settings.accept(invocation.accept, default)
        try:
            images = read_images(invocation.body, invocation.content_type)
        except RequestError as error:
            if error.status != 400 or not self._settings.is_placeholder:
                raise
            return encode([Failure(error.message)], False, accept, self._form)
        results = self._predict(images.entries)
        if not images.is_list and not self._settings.is_placeholder:
            refuse_failure(results[0])
        return encode(results, images.is_list, accept, self._form)


def refuse_failure(result: Prediction | Failure) -> None:
    """A RequestError 400 if it is a Failure."""
    if isinstance(result, Failure):
        raise RequestError(400, result.reason)


def echoed_attributes(value: str | None) -> dict[str, str]:
    """The header that gives the caller's custom attributes back; none without them.

    Raises:
        RequestError: 400, more than 1,024 characters or others than visible US-ASCII.
    """
    if value is None:
        return {}
    if len(value) > _MAX_ATTRIBUTES or not all(" " <= character <= "~" for character in value):
        raise RequestError(
            400,
            f"{CUSTOM_ATTRIBUTES} has {len(value)} characters: expected at most "
            f"{_MAX_ATTRIBUTES}, visible US-ASCII only",
        )
    return {CUSTOM_ATTRIBUTES: value}
