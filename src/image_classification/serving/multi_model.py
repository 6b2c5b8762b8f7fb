"""The routes of a multi-model endpoint: SageMaker loads, invokes and unloads models over HTTP."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TypeGuard

from flask import Blueprint, Response, request

from image_classification.errors import RequestError
from image_classification.serving.invocation import Invocation, Responder
from image_classification.serving.store import ModelStore

_PAGE_SIZE = 100
_MOST_BYTES = 1024  # TargetModel's limit; with %-escapes thrice that, which a request line can hold


def refuse_invocation(invocation: Invocation) -> tuple[bytes, str]:
    """What stands in the place of a model behind /invocations."""
    raise RequestError(
        404,
        f"{len(invocation.body)} bytes came to /invocations of a multi-model endpoint, which "
        "answers POST /models/<name>/invoke: name the model (TargetModel of InvokeEndpoint)",
    )


def routes(store: ModelStore[Responder], answer: Callable[[Responder], Response]) -> Blueprint:
    """The five routes.

    Args:
        store: the models.
        answer: answers Flask's current request by one of them.
    """
    blueprint = Blueprint("models", __name__)

    @blueprint.post("/models")
    def load() -> Response:
        name, url = _named_model(request.get_data())
        store.load(name, url)
        return _json({"modelName": name, "modelUrl": url})

    @blueprint.get("/models")
    def models() -> Response:
        after = request.args.get("next_page_token", "")
        rows, following = store.page(after, _limit(request.args.get("limit")))
        listing: dict[str, object] = {"models": [_described(*row) for row in rows]}
        return _json(listing | ({"nextPageToken": following} if following else {}))

    @blueprint.get("/models/<name>")
    def model(name: str) -> Response:
        return _json(_described(name, store.url(name)))

    @blueprint.delete("/models/<name>")
    def unload(name: str) -> Response:
        store.unload(name)
        return _json({"modelName": name})

    @blueprint.post("/models/<name>/invoke")
    def invoke(name: str) -> Response:
        with store.using(name) as respond:
            return answer(respond)

    return blueprint


def _described(name: str, url: str) -> dict[str, str]:
    return {"modelName": name, "modelUrl": url}


def _json(value: object) -> Response:
    return Response(json.dumps(value, ensure_ascii=False), content_type="application/json")


def _named_model(body: bytes) -> tuple[str, str]:
    """(name, url) in the body of POST /models; RequestError 400 without them."""
    try:
        named = json.loads(body)
        name, url = named["model_name"], named["url"]
    except (ValueError, KeyError, TypeError, RecursionError):
        name = url = None
    if not (_is_text(name) and "/" not in name and _is_text(url) and "\0" not in url):
        raise RequestError(
            400,
            'expected {"model_name": "<name without a slash>", "url": "<folder>"}, each of at most '
            f"{_MOST_BYTES} bytes, got " + repr(body[:200].decode("utf-8", "replace")),
        )
    return name, url


def _is_text(value: object) -> TypeGuard[str]:
    """Whether it can come back in a request's path and in an answer: without lone surrogates."""
    if not isinstance(value, str):
        return False
    try:
        return 0 < len(value.encode("utf-8")) <= _MOST_BYTES
    except UnicodeEncodeError:
        return False


def _limit(text: str | None) -> int:
    """How many models a page holds; RequestError 400 for no positive integer."""
    if text is None:
        return _PAGE_SIZE
    if not (text.isdecimal() and len(text) <= 3 and 0 < int(text) <= _PAGE_SIZE):
        raise RequestError(
            400, f"limit must be an integer from 1 to {_PAGE_SIZE}, got {text[:20]!r}"
        )
    return int(text)
