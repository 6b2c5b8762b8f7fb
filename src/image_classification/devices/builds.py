"""What the installed libraries were built for: CUDA and its version, read without an import.

An import of a framework takes seconds, and ONNX Runtime must not be imported before a fork.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path

_CUDA_OF_MXNET = re.compile(r"^mxnet-cu(\d+)(\d)$")


@dataclass(frozen=True)
class Build:
    """A library that computes.

    Attributes:
        title: such as PyTorch.
        version: such as 2.13.0; "" if it is not installed.
        cuda: the CUDA version that it was built with, such as (12, 8); None: it has no CUDA.
        package: of a build with CUDA, its name in `contract.gpus`.
    """

    title: str
    version: str = ""
    cuda: tuple[int, int] | None = None
    package: str = ""

    @property
    def name(self) -> str:
        """The title with the version."""
        return f"{self.title} {self.version}".strip()


def installed_build(library: str) -> Build:
    """Return the build of `torch`, `tensorflow`, `mxnet` or `onnxruntime`.

    Any other library, and one that is not installed, has no CUDA: whoever imports it finds out.
    """
    read = _READERS.get(library)
    return read() if read else Build(f"the backend {library}")


def _torch_build() -> Build:
    text = _text("torch", "version.py")
    return Build("PyTorch", _version(text), _cuda(text, r"^cuda\b[^=]*= *'([\d.]+)'"), "torch")


def _onnxruntime_build() -> Build:
    text = _text("onnxruntime", "capi/build_and_package_info.py")
    cuda = _cuda(text, r"^cuda_version = '([\d.]+)'")
    return Build("ONNX Runtime", _version(text), cuda, "onnxruntime-gpu")


def _tensorflow_build() -> Build:
    text = _text("tensorflow", "python/platform/build_info.py")
    version = _version_of("tensorflow") or _version_of("tensorflow-cpu") or ""
    has_cuda = "'is_cuda_build', True" in text
    cuda = _cuda(text, r"'cuda_version', '([\d.]+)'") if has_cuda else None
    return Build("TensorFlow", version, cuda, "tensorflow")


def _mxnet_build() -> Build:
    spec = find_spec("mxnet")
    folder = Path(spec.origin).parent.parent if spec and spec.origin else None
    for path in sorted(folder.glob("mxnet*.dist-info")) if folder else ():
        name, _, version = path.name.removesuffix(".dist-info").replace("_", "-").rpartition("-")
        found = _CUDA_OF_MXNET.match(name)
        cuda = (int(found.group(1)), int(found.group(2))) if found else None
        return Build("MXNet", version, cuda, name)
    return Build("MXNet")


_READERS: Mapping[str, Callable[[], Build]] = {
    "torch": _torch_build,
    "tensorflow": _tensorflow_build,
    "mxnet": _mxnet_build,
    "onnxruntime": _onnxruntime_build,
}


def _text(package: str, file: str) -> str:
    """Return the text of a package's file without importing it; "" if there is none."""
    spec = find_spec(package)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        try:
            return Path(folder, file).read_text("utf-8", "replace")
        except OSError:
            continue
    return ""


def _version(text: str) -> str:
    found = re.search(r"^__version__ = '([^']+)'", text, re.MULTILINE)
    return found.group(1) if found else ""


def _cuda(text: str, pattern: str) -> tuple[int, int] | None:
    found = re.search(pattern, text, re.MULTILINE)
    if found is None:
        return None
    major, minor = (*found.group(1).split("."), "0")[:2]
    return int(major), int(minor)


def _version_of(name: str) -> str | None:
    try:
        return distribution(name).version
    except PackageNotFoundError:
        return None
