"""The models of a multi-model endpoint: loaded, used and unloaded by many threads at once.

Memory is accounted by the size of a model's graph, not by what the process grows: what it grows is
shared with the loads and the requests that run at the same time, and glibc keeps what was freed.
Measured with EfficientNet-Lite0 (13 MB): each further session takes 32 MB, weights twice because
ONNX Runtime lays them out anew for its kernels, and an arena for activations.
"""

from __future__ import annotations

import ctypes
import gc
import sys
import threading
from bisect import bisect_right
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from image_classification.artifact import MODEL_FILE
from image_classification.contract import environment
from image_classification.errors import ArtifactError, RequestError
from image_classification.serving import memory

T = TypeVar("T")

_COPIES = 2
_ARENA = 16 * 2**20
_BUDGET_SHARE = 0.75  # the rest is for the requests


def memory_budget() -> int:
    """Bytes that all models may take: the setting, or three quarters of what is free now."""
    setting = environment.MODEL_MEMORY.read_integer(0)
    return setting * 2**20 or int((memory.limit() - memory.used()) * _BUDGET_SHARE)


def memory_needed(path: Path) -> int:
    """Bytes that the model in an artifact folder, or in a model.tar.gz, is accounted with."""
    try:
        graph = path / MODEL_FILE if path.is_dir() else path
        return graph.stat().st_size * _COPIES + _ARENA
    except OSError:
        return 0  # no artifact: loading it says what is missing


@dataclass
class _Entry(Generic[T]):
    """One model; `model` is None while it loads."""

    url: str
    memory: int
    model: T | None = None
    running: int = 0
    is_leaving: bool = False


class ModelStore(Generic[T]):
    """Loaded models by name.

    Args:
        load: makes a model of an artifact folder or archive.
        budget: bytes that all models together may be accounted with.
    """

    def __init__(self, load: Callable[[Path], T], budget: int) -> None:
        self.budget = budget
        self._load = load
        self._entries: dict[str, _Entry[T]] = {}
        self._changed = threading.Condition()

    def load(self, name: str, url: str) -> None:
        """Load the model at `url` as `name`.

        Raises:
            RequestError: 409 there is such a model, or it is loading or unloading; 507 it does not
                fit beside the others; 400 it is not an artifact that can be served.
        """
        entry = self._reserve(name, Path(url), url)
        try:
            model = self._load(Path(url))
        except BaseException as error:
            with self._changed:
                del self._entries[name]
            if isinstance(error, MemoryError):
                raise RequestError(507, f"no memory for model {name!r}: unload others") from error
            if isinstance(error, (ArtifactError, OSError)):
                raise RequestError(400, f"model {name!r} cannot be served: {error}") from error
            raise
        with self._changed:
            entry.model = model

    def _reserve(self, name: str, path: Path, url: str) -> _Entry[T]:
        needed = memory_needed(path)
        with self._changed:
            if name in self._entries:
                raise RequestError(409, f"model {name!r} is loaded already: unload it first")
            taken = sum(entry.memory for entry in self._entries.values())
            if taken + needed > self.budget:
                raise RequestError(
                    507,
                    f"model {name!r} needs about {needed >> 20} MiB; {len(self._entries)} models "
                    f"take {taken >> 20} of {self.budget >> 20} MiB: unload others or set "
                    f"{environment.MODEL_MEMORY.name}",
                )
            entry = self._entries[name] = _Entry(url, needed)
            return entry

    def unload(self, name: str) -> None:
        """Forget the model once nobody uses it; its memory is free when this returns.

        Raises:
            RequestError: 404 there is no such model.
        """
        with self._changed:
            entry = self._loaded(name)
            entry.is_leaving = True
            self._changed.wait_for(lambda: entry.running == 0)
            del self._entries[name]
            entry.model = None
        gc.collect()
        _return_free_memory()

    @contextmanager
    def using(self, name: str) -> Iterator[T]:
        """The model, which is not unloaded while the block runs; RequestError 404 without it."""
        with self._changed:
            entry = self._loaded(name)
            entry.running += 1
        try:
            assert entry.model is not None
            yield entry.model
        finally:
            with self._changed:
                entry.running -= 1
                self._changed.notify_all()

    def url(self, name: str) -> str:
        """Where the model came from; RequestError 404 without it."""
        with self._changed:
            return self._loaded(name).url

    def page(self, after: str, limit: int) -> tuple[list[tuple[str, str]], str | None]:
        """((name, url) of at most `limit` loaded models by name, the name to go on after)."""
        with self._changed:
            loaded = sorted(n for n, entry in self._entries.items() if entry.model is not None)
            start = bisect_right(loaded, after) if after else 0
            names = loaded[start : start + limit]
            rows = [(name, self._entries[name].url) for name in names]
        return rows, names[-1] if start + limit < len(loaded) else None

    def _loaded(self, name: str) -> _Entry[T]:
        entry = self._entries.get(name)
        if entry is None or entry.model is None or entry.is_leaving:
            raise RequestError(404, f"model {name!r} is not loaded: POST /models loads it")
        return entry


def _return_free_memory() -> None:
    """Have glibc give freed memory back (measured: 197 → 90 MiB after four models)."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc only
        if trim is not None:
            trim(0)
