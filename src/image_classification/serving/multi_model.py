"""A multi-model endpoint: SageMaker loads, invokes and unloads models over HTTP.

Many threads use the models at once. Each graph runs in its own process (`model_process`), so that a
model that fails does not affect the others. A model's memory is accounted by the size of its graph,
and by what its process has after the first image if that is more. Measured with EfficientNet-Lite0
and 1,000 classes (19 MB): each additional process takes 38 MB of its own (Private_Dirty in smaps,
after two images), mainly the weights twice, because ONNX Runtime rearranges them for its kernels.
"""

import errno
import json
import os
import resource
import threading
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeGuard

from flask import Blueprint, Response, request

from image_classification.artifact import MANIFEST_FILE, MODEL_FILE
from image_classification.contract import environment, process
from image_classification.errors import (
    NoMemoryLeftError,
    NoProcessError,
    RequestError,
    UserError,
    counted,
)
from image_classification.feature_index import INDEX_FILE
from image_classification.labels.label_map import LABELS_FILE
from image_classification.serving.admission import MemoryBudget, Plan, memory_used
from image_classification.serving.app import Invocation, Responder, answer_current

_PAGE_SIZE = 100
_MOST_BYTES = 1024  # TargetModel's limit; with %-escapes thrice that, which a request line can hold

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EMFILE, errno.ENFILE, errno.ENOMEM)
_COPIES = {MODEL_FILE: 2, LABELS_FILE: 8, MANIFEST_FILE: 8}  # times the size of the file
_COPIES_OF_INDEX = 5  # a byte of each number, and four once something asks for a score
_ARENA = 16 * 2**20
_FILES, _OTHER_FILES = 4, 64  # two for a process; a model has one or two
_BUDGET_SHARE = 0.75  # the rest is for the requests


def memory_budget(plan: Plan, device_free: int | None = None) -> int:
    """Return the bytes that all models can take: the setting, or what the plan of requests leaves.

    That is at most three quarters of the memory that is free, and at least a quarter of the limit.

    Args:
        plan: of the process.
        device_free: free bytes of the GPU that holds the models; at most three quarters of them.
    """
    setting, limit = environment.MODEL_MEMORY.read_integer(0), process.memory_limit()
    if setting:
        return setting * 2**20
    most = int((limit - memory_used()) * _BUDGET_SHARE)
    total = min(most, max(limit // 4, limit - plan.memory))
    return total if device_free is None else min(total, int(device_free * _BUDGET_SHARE))


def memory_needed(path: Path) -> int:
    """Return the bytes accounted for the model in an artifact folder or model.tar.gz."""
    try:
        copies = {path: 2}
        if path.is_dir():
            copies = {path / name: count for name, count in _COPIES.items()}
            if (path / INDEX_FILE).is_file():
                copies[path / INDEX_FILE] = _COPIES_OF_INDEX
        return sum(file.stat().st_size * count for file, count in copies.items()) + _ARENA
    except OSError:
        return 0  # no artifact: loading it names the missing file


def most_models() -> int:
    """Return how many models can be loaded: each takes file descriptors of this process."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(1, (files // 2 - _OTHER_FILES) // _FILES)  # the other half is for connections


@dataclass(frozen=True)
class LoadedModel:
    """A model that answers.

    Attributes:
        respond: answers an invocation.
        shrink: ends what it can do without, so that its memory is free.
        end: frees its memory; called once, when no request uses it.
    """

    respond: Responder
    shrink: Callable[[], None]
    end: Callable[[], None]


Account = Callable[[int], None]
"""Accounts for the bytes that a model was found to take, if they are more; RequestError 507."""


@dataclass
class _Origin:
    """The origin of one model and the bytes accounted for it."""

    url: str
    memory: int = 0


class ModelStore:
    """Loaded models by name.

    Args:
        load: makes a model from an artifact folder or archive, and accounts for its memory.
        budget: of all models together.
        most: models that can be loaded at once.
    """

    def __init__(
        self, load: Callable[[Path, Account], LoadedModel], budget: MemoryBudget, most: int
    ) -> None:
        self._budget, self._most = budget, most
        self._load = load
        self._origins: dict[str, _Origin] = {}  # also while a model loads or unloads
        self._models: dict[str, LoadedModel] = {}
        self._running: Counter[str] = Counter()
        self._changed = threading.Condition()

    def load(self, name: str, url: str) -> None:
        """Load the model at `url` as `name`.

        Raises:
            RequestError: 409 the name is taken by a model that is loaded, loading or unloading; 507
                there is no memory for it; 400 it is not an artifact that can be served.
        """
        origin = self._reserve(name, url)
        try:
            account = partial(self._account, name, origin)
            account(memory_needed(Path(url)))
            model = self._load(Path(url), account)
        except BaseException as error:
            with self._changed:
                del self._origins[name]
            self._budget.give(origin.memory)
            is_full = isinstance(error, OSError) and error.errno in _FULL
            if is_full or _is_memory_gone(error):
                raise RequestError(
                    507, f"no room for model {name!r} ({error}): unload others"
                ) from error
            if isinstance(error, (UserError, OSError)):
                raise RequestError(400, f"model {name!r} cannot be served: {error}") from error
            raise
        with self._changed:
            self._models[name] = model

    def _reserve(self, name: str, url: str) -> _Origin:
        with self._changed:
            if name in self._origins:
                raise RequestError(409, f"model {name!r} is already loaded: unload it first")
            if len(self._origins) >= self._most:
                raise RequestError(
                    507,
                    f"{self._most} models are loaded, and no more files can be open: unload one",
                )
            self._origins[name] = _Origin(url)
            return self._origins[name]

    def _account(self, name: str, origin: _Origin, needed: int) -> None:
        """Take what a model needs from the budget; if it is short, others give up what they can."""
        more = max(0, needed - origin.memory)
        if not self._budget.take(more):
            with self._changed:
                models, count = list(self._models.values()), len(self._origins) - 1
            for model in models:
                model.shrink()
            if not self._budget.take(more):
                used, total = self._budget.used - origin.memory, self._budget.total
                raise RequestError(
                    507,
                    f"model {name!r} needs about {needed >> 20} MiB; "
                    f"{counted(count, 'models take')} {used >> 20} of {total >> 20} MiB: "
                    f"unload others or set {environment.MODEL_MEMORY.name}",
                )
        origin.memory += more

    def unload(self, name: str) -> None:
        """Forget the model once no request uses it; its memory is free on return.

        Raises:
            RequestError: 404 there is no such model.
        """
        with self._changed:
            model = self._find(name)
            del self._models[name]  # from now on no request finds it
            self._changed.wait_for(lambda: self._running[name] == 0)
        model.end()
        self._budget.give(self._origins[name].memory)
        with self._changed:
            del self._origins[name], self._running[name]

    @contextmanager
    def using(self, name: str) -> Iterator[LoadedModel]:
        """Yield the model, which stays loaded while the block runs; RequestError 404 if absent."""
        with self._changed:
            model = self._find(name)
            self._running[name] += 1
        try:
            yield model
        finally:
            with self._changed:
                self._running[name] -= 1
                self._changed.notify_all()

    def url(self, name: str) -> str:
        """Return where the model came from; RequestError 404 if absent."""
        with self._changed:
            self._find(name)
            return self._origins[name].url

    def page(self, after: str, limit: int) -> tuple[list[tuple[str, str]], str | None]:
        """Return ((name, url) of up to `limit` loaded models, the name to continue after)."""
        with self._changed:
            loaded = sorted(self._models)
            start = bisect_right(loaded, after) if after else 0
            names = loaded[start : start + limit]
            rows = [(name, self._origins[name].url) for name in names]
        return rows, names[-1] if start + limit < len(loaded) else None

    def _find(self, name: str) -> LoadedModel:
        if name not in self._models:
            raise RequestError(404, f"model {name!r} is not loaded: POST /models loads it")
        return self._models[name]


def _is_memory_gone(error: BaseException | None) -> bool:
    """Whether the reason, at any depth, is that the system has no memory or process to give."""
    while error is not None:
        if isinstance(error, (MemoryError, NoProcessError, NoMemoryLeftError)):
            return True
        error = error.__cause__
    return False


def refuse_invocation(invocation: Invocation) -> tuple[bytes, str]:
    """Refuse `/invocations`, which names no model; a `Responder`."""
    raise RequestError(
        404,
        f"{len(invocation.body)} bytes arrived at /invocations, but a multi-model endpoint "
        "answers only POST /models/<name>/invoke: name the model (TargetModel of InvokeEndpoint)",
    )


def routes(store: ModelStore) -> Blueprint:
    """Return the five routes of a multi-model endpoint."""
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
        with store.using(name) as model:
            return answer_current(model.respond)

    return blueprint


def _described(name: str, url: str) -> dict[str, str]:
    return {"modelName": name, "modelUrl": url}


def _json(value: object) -> Response:
    return Response(json.dumps(value, ensure_ascii=False), content_type="application/json")


def _named_model(body: bytes) -> tuple[str, str]:
    """Return (name, url) in the body of POST /models; RequestError 400 without them."""
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
    if os.path.realpath(url) == "/":  # the only artifact somewhere below could be anybody's
        raise RequestError(400, f"url: expected the folder of one model, got {url!r}, the root")
    return name, url


def _is_text(value: object) -> TypeGuard[str]:
    """Whether it can be written in a path and in an answer: text without lone surrogates."""
    if not isinstance(value, str):
        return False
    try:
        return 0 < len(value.encode("utf-8")) <= _MOST_BYTES
    except UnicodeEncodeError:
        return False


def _limit(text: str | None) -> int:
    """Return how many models a page holds; RequestError 400 unless from 1 to 100."""
    if text is None:
        return _PAGE_SIZE
    if not (text.isascii() and text.isdecimal() and len(text) <= 3 and 0 < int(text) <= _PAGE_SIZE):
        raise RequestError(
            400, f"limit must be an integer from 1 to {_PAGE_SIZE}, got {text[:20]!r}"
        )
    return int(text)
