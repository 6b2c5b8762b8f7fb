"""`torch.compile` as an option of training steps; predictions and the graph never use it.

Off unless asked for: it takes a C++ compiler, which small images lack, and 10 to 50 seconds.
Whether it pays on a GPU has not been measured yet.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from image_classification.errors import BackendError


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, compiled at its first call.

    Raises (when called):
        BackendError: the machine has no compiler, or the compiler cannot translate the function.
    """
    faster = torch.compile(function)

    def call(*arguments: Any) -> Any:
        try:
            return faster(*arguments)
        except torch._dynamo.exc.TorchDynamoException as error:
            reason = str(error).strip().splitlines()
            raise BackendError(
                f"compile=on: PyTorch could not compile the network ({' '.join(reason)[:300]}); "
                "install a C++ compiler, or set compile=off"
            ) from error

    return call
