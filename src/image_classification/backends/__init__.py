"""Find and load backends by name; nothing is imported before it is needed.

In: the value of the hyperparameter `backend`. Out: its catalog, which is plain data, or its engine
module, which imports the framework. A backend is a folder here; its name is also that of the extra
that installs its framework. `base.py` has the whole protocol.
"""

import difflib
import importlib
import importlib.util
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

from image_classification.backends.base import Catalog, EngineModule, Framework, Launcher
from image_classification.errors import BackendError, ImageClassificationError


def names() -> tuple[str, ...]:
    """Return the names of all backends, sorted; their frameworks may not be installed."""
    folders = Path(__file__).parent.iterdir()
    return tuple(sorted(folder.name for folder in folders if (folder / "catalog.py").is_file()))


def catalog(name: str) -> Catalog:
    """Return the catalog of a backend, without its framework; BackendError for unknown names."""
    return cast(Catalog, importlib.import_module(f"{_package(name)}.catalog"))


def load(name: str, threads: int = 1) -> EngineModule:
    """Import a backend's engine module and with it the framework.

    Args:
        name: of the backend.
        threads: how many the framework may use, as in `World`. Some frameworks read the number
            only while they are imported, so the first call in a process decides.

    Raises:
        BackendError: the name is unknown, or the framework is not installed or cannot be imported.
    """
    package = _package(name)
    framework = cast(Framework, importlib.import_module(package))
    framework.prepare(threads)
    with import_errors(f"backend {name!r} needs its framework", name, framework.REQUIREMENTS):
        return cast(EngineModule, importlib.import_module(f"{package}.engine"))


def launcher(name: str, threads: int = 1) -> Launcher | None:
    """Import a backend's launcher; None for a backend that trains in one process per host.

    Raises:
        BackendError: see `load`.
    """
    load(name, threads)
    module = f"{_package(name)}.ranks"
    if importlib.util.find_spec(module) is None:
        return None
    return cast(Launcher, importlib.import_module(module))


def of_format(name: str) -> str:
    """Return the backend that writes a model format; BackendError with the list of formats."""
    owners = {
        format_name: backend for backend in names() for format_name in catalog(backend).FORMATS
    }
    if name not in owners:
        formats = ", ".join([*owners, "onnx"])  # every artifact holds its ONNX graph
        raise BackendError(f"unknown format {name!r}{nearest(name, owners)} Formats: {formats}")
    return owners[name]


_DRIVER = "libcuda.so.1"  # NVIDIA's container runtime mounts it from the host


@contextmanager
def import_errors(need: str, extra: str, requirements: str = "") -> Iterator[None]:
    """Turn any error of a library that the block imports into a BackendError.

    A build for another machine or another NumPy, a missing system library and an incomplete
    installation raise errors of different types. Errors raised by our own code pass unchanged.

    Args:
        need: who needs which library; the message begins with it.
        extra: of our distribution, which installs the library.
        requirements: what must be installed with it.

    Raises:
        BackendError: a library is not installed or cannot be imported.
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
        if _DRIVER in str(error):
            raise BackendError(
                f"{need}, whose build for GPUs cannot be imported without NVIDIA's driver "
                f"({error}): start the container on a machine with a GPU, with --gpus all, or use "
                "the image for CPUs, whose tag does not end in -cu11, -cu12 or -cu13"
            ) from error
        install = f"install it with {requirements}" if requirements else "install it"
        raise BackendError(
            f"{need}, which could not be imported ({type(error).__name__}: {error}); "
            f"{install}: pip install 'sagemaker-image-classification[{extra}]'"
        ) from error


def nearest(name: str, known: Iterable[str]) -> str:
    """Return the end of a sentence about an unknown name: `; did you mean 'x'?`, or `.`."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else "."


def _package(name: str) -> str:
    known = names()
    if name not in known:
        raise BackendError(
            f"unknown backend {name!r}{nearest(name, known)} Backends: {', '.join(known)}"
        )
    return f"{__name__}.{name}"
