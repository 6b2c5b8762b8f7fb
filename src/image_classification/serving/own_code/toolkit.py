"""What runs handlers in the sagemaker-inference package; it needs no SciPy where there is none.

The package's decoder imports SciPy (110 MB) for numpy's sparse files alone, which are refused here
before they reach it: it would unpickle them. boto3, psutil and retrying belong to the package's own
server, which is not imported at all. So the serve image has the package without its dependencies.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from types import ModuleType

__all__ = [
    "BaseInferenceToolkitError",
    "DefaultInferenceHandler",
    "Transformer",
    "UnsupportedFormatError",
]


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
