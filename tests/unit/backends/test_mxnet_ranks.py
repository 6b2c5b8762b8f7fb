"""Ranks of the MXNet backend: their sums, and the processes of their key-value store."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

pytest.importorskip("mxnet", reason="MXNet is not installed (Python 3.10 or 3.11, NumPy 1.23)")

from tests.contract.hosts import free_ports

_JOIN = """
import os, pickle, sys, time
from image_classification.backends.base import World
from image_classification.backends import mxnet as framework
framework.prepare(1)
from image_classification.backends.mxnet import ranks
import mxnet as mx
import numpy as np

rank, size, port = map(int, sys.argv[1:4])
def join():
    addresses = tuple(f"127.0.0.1:{port + number}" for number in range(size))
    return ranks.Ranks(World(rank, size, 1, addresses))
"""


@contextmanager
def started(script: str, *words: str, size: int = 2) -> Iterator[list[subprocess.Popen[str]]]:
    """One process for each rank of the script after `_JOIN`; all are killed in the end."""
    port = free_ports(size)
    command = [sys.executable, "-W", "ignore", "-c", _JOIN + script]
    with ExitStack() as stack:
        processes = [
            stack.enter_context(
                subprocess.Popen(
                    [*command, str(rank), str(size), port, *words],
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )
            for rank in range(size)
        ]
        for process in processes:
            stack.callback(process.kill)
        yield processes


def ends(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """(exit code, output, errors): to their end, which its children hold open as well."""
    output, errors = process.communicate(timeout=100)
    return process.returncode, output, errors


def children(process: subprocess.Popen[str]) -> list[int]:
    pid = process.pid
    return [int(c) for c in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_ranks_add_in_float64_and_may_start_and_leave_at_different_times() -> None:
    script = """
time.sleep(4.0 * rank)
joined = join()
print(joined.sum_numbers(np.array([2.0**51 + rank, -1e300, 5e-324, np.inf, -0.0])).tolist())
print(joined.sum_numbers(np.array([0.1] * 3)).tolist(), joined.sum_numbers(np.zeros(0)).size)
time.sleep(4.0 * rank)
joined.leave()
"""
    with started(script) as processes:
        for process in processes:
            code, output, errors = ends(process)
            assert code == 0, errors
            assert output == f"[{2.0**52 + 1}, -2e+300, 1e-323, inf, 0.0]\n[0.2, 0.2, 0.2] 0\n"


_TRAIN = """
from image_classification import backends
from image_classification.backends.base import OptimizerSpec
from image_classification.samples import Batch
from tests.unit.backends.torch_cases import SMALL, make_batch

folder = sys.argv[4]
addresses = tuple(f"127.0.0.1:{port + number}" for number in range(size))
for ranked in (World(), World(rank, size, 1, addresses)):
    engine = backends.load("mxnet").build(SMALL, OptimizerSpec(), ranked)
    for step in range(3):
        batch = make_batch(seed=2 * step + rank)
        if rank == 1 and step == 2:
            batch.weights[:] = 0  # nothing but padding
        engine.train_step(batch, 0.05)
        if step in (0, 2):
            state = {k.replace("/", ":"): v for k, v in engine.state().items()}
            np.savez(f"{folder}/{rank}-of-{ranked.size}-step-{step}.npz", **state)
    engine.release()
"""


def test_two_ranks_average_running_statistics_and_repeat_a_job_bit_for_bit(
    tmp_path: Path,
) -> None:
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        with started(_TRAIN, str(tmp_path / name)) as processes:
            for process in processes:
                code, _, errors = ends(process)
                assert code == 0, errors

    def read(name: str) -> dict[str, npt.NDArray[np.float32]]:
        return dict(np.load(tmp_path / f"{name}.npz"))

    alone = [read(f"first/{rank}-of-1-step-0") for rank in range(2)]
    together = read("first/0-of-2-step-0")
    statistics = [key for key in together if ".running_" in key]
    assert statistics
    for key in statistics:
        mean = (alone[0][key] + alone[1][key]) / 2
        np.testing.assert_allclose(together[key], mean, rtol=1e-5, err_msg=key)
    first = read("first/0-of-2-step-2")
    for name in ("first/1-of-2-step-2", "second/0-of-2-step-2", "second/1-of-2-step-2"):
        other = read(name)
        assert all(np.array_equal(value, other[key]) for key, value in first.items()), name


def test_a_server_does_not_execute_commands(tmp_path: Path) -> None:
    script = """
joined = join()
class Evil:
    def __reduce__(self):
        return os.mkdir, (sys.argv[4] + "/executed",)
if rank == 0:
    joined._store._send_command_to_servers(0, pickle.dumps(Evil(), 0).decode())
print(joined.sum_numbers(np.ones(1)).tolist())
joined.leave()
"""
    with started(script, str(tmp_path)) as processes:
        for process in processes:
            assert ends(process)[:2] == (0, "[2.0]\n")
    assert not list(tmp_path.iterdir())


def test_the_server_of_a_killed_rank_ends() -> None:
    script = """
joined = join()
print('met', flush=True)
if rank == 0:
    joined.sum_numbers(np.ones(1))  # waits for the other rank
time.sleep(100)
"""
    with started(script) as processes:
        for process in processes:
            assert process.stdout is not None and process.stdout.readline() == "met\n"
        for process, count in zip(processes, (2, 1), strict=True):
            own = children(process)
            assert len(own) == count
            process.kill()
            process.wait()
            deadline = time.monotonic() + 20
            while any(Path(f"/proc/{pid}").exists() for pid in own):
                assert time.monotonic() < deadline, own
                time.sleep(0.05)


def test_a_sum_whose_server_has_ended_fails_with_the_reason() -> None:
    script = """
joined = join()
joined.sum_numbers(np.ones(1))
print('met', flush=True)
if rank == 1:
    time.sleep(1000)
try:
    joined.sum_numbers(np.ones(1))
finally:
    joined.leave()
"""
    with started(script) as processes:
        for process in processes:
            assert process.stdout is not None and process.stdout.readline() == "met\n"
        for pid in children(processes[0]):
            subprocess.run(["kill", "-KILL", str(pid)], check=True)
        code, _, errors = ends(processes[0])
        assert code == 1
        assert "AlgorithmError: the server of MXNet's key-value store ended" in errors
        assert "exit code -9" in errors


def test_ranks_that_do_not_meet_fail_with_the_reason() -> None:
    script = """
ranks._PATIENCE_SECONDS = 3.0
if rank == 0:
    join()
"""
    with started(script) as processes:
        code, _, errors = ends(processes[0])
    assert code == 1
    assert "AlgorithmError: the 2 processes of this job did not meet within 3 s" in errors


def test_a_port_in_use_is_an_error_that_says_what_to_set() -> None:
    script = """
import socket
if rank == 0:
    taken = socket.create_server(("", port))
    join()
"""
    with started(script) as processes:
        code, _, errors = ends(processes[0])
    assert code == 1
    assert "UserError: MXNet's scheduler cannot listen on port" in errors
    assert "set MASTER_PORT so that it and the next port are free" in errors
