"""A program: the scheduler or a server of MXNet's key-value store, in a process of its own.

It ends with the process that started it, however that ends. MXNet's own program
(`mxnet/kvstore/kvstore_server.py`) unpickles commands from the network; this one ignores them.
"""

import ctypes
import os
import signal
import sys
from collections.abc import Mapping

from image_classification.backends import mxnet as framework

_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


def main(parent: int, settings: Mapping[str, str]) -> None:
    """Serve until killed.

    Args:
        parent: process that started this one, from a thread that lives as long as the process.
        settings: of ps-lite; see `configure`.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before the call
        return
    framework.prepare(1)  # additions wait for memory, not for the processor

    from mxnet import kvstore

    configure(settings)
    store = kvstore.create("dist_sync")
    controller = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
    call("MXKVStoreRunServer", store.handle, controller(_ignore), None)


def configure(settings: Mapping[str, str]) -> None:
    """Pass ps-lite, the network layer of MXNet's store, values for its environment variables."""
    from mxnet.base import c_str_array

    names, values = c_str_array(list(settings)), c_str_array(list(settings.values()))
    call("MXInitPSEnv", ctypes.c_uint(len(settings)), names, values)


def call(function: str, *arguments: object) -> None:
    """Call MXNet's C interface; MXNetError if the call fails."""
    from mxnet import base

    base.check_call(getattr(base._LIB, function)(*arguments))


def _ignore(command: int, body: bytes, _: object) -> None:
    """Ignore commands: the only one has a pickled optimizer, and our workers do not send it."""


if __name__ == "__main__":
    main(int(sys.argv[1]), dict(word.split("=", 1) for word in sys.argv[2:]))
