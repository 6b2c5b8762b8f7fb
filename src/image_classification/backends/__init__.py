"""Backends by name: list them, read a catalog, load an engine. Nothing is imported before its use.

In: the value of the `backend` hyperparameter. Out: plain data (`catalog`) or a module that builds
engines (`load`). The name of a folder here is the name of the backend and of the extra that
installs its framework; `base.py` has the protocol.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

from image_classification.backends.base import Catalog, EngineModule, Launcher
from image_classification.errors import BackendError, ImageClassificationError

_DISTRIBUTION = "sagemaker-image-classification"


def names() -> tuple[str, ...]:
    """The backends this package has, sorted, whether their framework is installed or not."""
    folders = Path(__file__).parent.iterdir()
    return tuple(sorted(folder.name for folder in folders if (folder / "catalog.py").is_file()))


def catalog(name: str) -> Catalog:
    """The backbones of a backend. Imports no framework. Raises BackendError for unknown names."""
    _require(name)
    return cast(Catalog, importlib.import_module(f"{__name__}.{name}.catalog"))


def load(name: str) -> EngineModule:
    """The engine module of a backend.

    Raises:
        BackendError: the name is unknown, or its framework is not installed or cannot be loaded.
    """
    _require(name)
    with import_errors(f"backend {name!r} needs its framework", name):
        return cast(EngineModule, importlib.import_module(f"{__name__}.{name}.engine"))


@contextmanager
def import_errors(need: str, extra: str, beside: str = "") -> Iterator[None]:
    """While the block imports, whatever is wrong with a library becomes a BackendError.

    Builds for other machines or other versions of NumPy, missing libraries of the system and half
    an installation have no error in common; what is raised by a line of ours stays as it is.

    Args:
        need: who needs which library: the beginning of the message.
        extra: what installs it.
        beside: what it must be installed with.

    Raises:
        BackendError: a library is not installed or cannot be loaded.
    """
    try:
        yield
    except (ImageClassificationError, MemoryError):
        raise
    except Exception as error:
        *_, (frame, _line) = traceback.walk_tb(error.__traceback__)
        cause = error.name if isinstance(error, ImportError) else frame.f_globals["__name__"]
        if (cause or "").startswith("image_classification"):
            raise
        install = f"install it with {beside}" if beside else "install it"
        raise BackendError(
            f"{need}, which could not be imported ({type(error).__name__}: {error}); "
            f"{install}: pip install '{_DISTRIBUTION}[{extra}]'"
        ) from error


def of_format(name: str) -> str:
    """The backend that a model format is of; BackendError with the formats there are."""
    owners = {
        format_name: backend
        for backend in names()
        for format_name in getattr(catalog(backend), "FORMATS", ())
    }
    if name not in owners:
        raise BackendError(
            f"there is no format {name!r}{nearest(name, owners)} Formats: {', '.join(owners)}"
        )
    return owners[name]


def launcher(name: str) -> Launcher | None:
    """The launcher of a backend, None where it trains in one process a host.

    Raises:
        BackendError: as `load`, which comes first.
    """
    load(name)
    module = f"{__name__}.{name}.ranks"
    if importlib.util.find_spec(module) is None:
        return None
    return cast(Launcher, importlib.import_module(module))


def nearest(name: str, known: Iterable[str]) -> str:
    """End of a sentence about an unknown name: `; did you mean 'x'?`, or `.` when none is close."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else "."


def _require(name: str) -> None:
    known = names()
    if name not in known:
        raise BackendError(
            f"there is no backend {name!r}{nearest(name, known)} Backends: {', '.join(known)}"
        )
