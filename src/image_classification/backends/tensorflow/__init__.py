"""The TensorFlow backend. Only `catalog` can be imported without TensorFlow."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable


def prepare() -> None:
    """Keep a dozen lines about this machine's processor out of the log, unless they are asked for.

    The variable is set in the C library, which is where TensorFlow looks for it.
    """
    _set("TF_CPP_MIN_LOG_LEVEL", "2", is_kept=True)


def reach_directly(hosts: Iterable[str]) -> None:
    """Have this process call these hosts itself, also where `http_proxy` names someone who would.

    gRPC gives every call to that proxy, which the other hosts of a job are not behind.
    """
    _set("no_grpc_proxy", ",".join(sorted(set(hosts))))


def _set(name: str, value: str, *, is_kept: bool = False) -> None:
    """Set a variable in the C library; one that is there already may be kept."""
    ctypes.CDLL(None).setenv(name.encode(), value.encode(), int(not is_kept))


prepare()  # here, because every module of this folder runs it before it imports TensorFlow
