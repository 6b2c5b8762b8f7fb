"""One process for each device of this host, by torchrun's launcher.

In: a command of our program, and what each process's environment has more. Out: an exit code.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Mapping, Sequence

import torch
from torch.distributed.elastic.multiprocessing import (
    DefaultLogsSpecs,
    SignalException,
    start_processes,
)
from torch.distributed.elastic.multiprocessing.api import SubprocessContext

from image_classification.backends.local_processes import SECONDS_TO_STOP


def device_count() -> int:
    """The CUDA devices of this machine that this process may use."""
    return int(torch.cuda.device_count())


def launch(arguments: Sequence[str], environments: Sequence[Mapping[str, str]]) -> int:
    """Run `python <arguments>` once for each environment, to the end of all.

    They write where this process writes. When one fails the others are stopped; SIGTERM is passed
    on to them.

    Returns:
        0, or the highest exit code of a process that failed; 1 where all of these were killed.
    """
    context = start_processes(
        "train",
        sys.executable,
        {number: tuple(arguments) for number in range(len(environments))},
        {number: dict(added) for number, added in enumerate(environments)},
        DefaultLogsSpecs(),
    )
    assert isinstance(context, SubprocessContext)
    try:
        context.wait(period=0.2)
    except SignalException as stop:
        context.close(signal.Signals(stop.sigval), SECONDS_TO_STOP)
    codes = [handler.proc.returncode for handler in context.subprocess_handlers.values()]
    return max(codes) if max(codes) > 0 else int(any(codes))
