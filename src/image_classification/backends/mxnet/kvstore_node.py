"""The scheduler or a server of MXNet's key-value store: the program of a process of its own.

It ends when the process that started it does, however that ends. MXNet's own program for it
(`mxnet/kvstore/kvstore_server.py`) unpickles what comes over the network; this one ignores it.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Mapping

from image_classification.backends import mxnet as process

_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


def main(parent: int, settings: Mapping[str, str]) -> None:
    """Serve until killed.

    Args:
        parent: process that started this one, from a thread that lives as long as it does.
        settings: of ps-lite; see `configure`.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before the kernel was told
        return
    process.prepare(threads=1)  # additions wait for memory, not for the processor

    from mxnet import kvstore

    configure(settings)
    store = kvstore.create("dist_sync")
    controller = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
    call("MXKVStoreRunServer", store.handle, controller(_ignore), None)


def configure(settings: Mapping[str, str]) -> None:
    """Give ps-lite, which MXNet's store talks through, what it else reads in the environment.

    Args:
        settings: by the names of its environment variables.
    """
    from mxnet.base import c_str_array

    names, values = c_str_array(list(settings)), c_str_array(list(settings.values()))
    call("MXInitPSEnv", ctypes.c_uint(len(settings)), names, values)


def call(function: str, *arguments: object) -> None:
    """Call MXNet's C interface; MXNetError where that fails."""
    from mxnet import base

    base.check_call(getattr(base._LIB, function)(*arguments))


def _ignore(command: int, body: bytes, _: object) -> None:
    """Do nothing: the one command there is brings a pickled optimizer, and no worker sends it."""


if __name__ == "__main__":
    main(int(sys.argv[1]), dict(word.split("=", 1) for word in sys.argv[2:]))
