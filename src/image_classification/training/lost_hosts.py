"""This process among those of its job: it ends, with the reason, when another one is lost."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from image_classification.contract import environment
from image_classification.contract.environment import Cluster
from image_classification.contract.failure import note_failure, report_failure
from image_classification.errors import AlgorithmError
from image_classification.training.lifeline import GRACE_SECONDS, HostLostError, Lifeline
from image_classification.training.process_group import meeting_host, place_of


@contextmanager
def watched(cluster: Cluster, failure_file: Path | None) -> Iterator[None]:
    """In this block the process ends, with the reason in `failure_file`, when a host is lost.

    Raises:
        ImageClassificationError: of a host that was lost, where this process failed for that.
    """
    rank, count = place_of(cluster)
    if len(cluster.hosts) * count == 1:
        yield
        return

    def note(lost: HostLostError) -> None:
        """At once: NCCL may abort the process when it loses a peer."""
        note_failure(lost.as_failure(), failure_file)

    def end(lost: HostLostError) -> None:
        """The main thread may be in a sum that never returns."""
        code = report_failure(lost.as_failure(), failure_file)
        sys.stdout.flush()
        os._exit(code)

    names = [
        host if count == 1 else f"{host} (process {local + 1} of {count})"
        for host in cluster.hosts
        for local in range(count)
    ]
    address = meeting_host(cluster), environment.MASTER_PORT.read_integer(1) + 1
    lifeline = Lifeline(rank, names, address, note, end)
    try:
        yield
    except AlgorithmError as error:  # of a sum: why did the other host end?
        lost = lifeline.lost(GRACE_SECONDS / 2)
        lifeline.close(error)
        if lost is not None:
            raise lost.as_failure() from error
        raise
    except BaseException as error:
        lifeline.close(error)
        raise
    lifeline.close()
    if lifeline.lost(0.0) is not None and failure_file is not None:
        failure_file.unlink(missing_ok=True)  # too late to matter: this process has done its part
