"""BatchNorm statistics of several processes: the mean over those that had samples in a step."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from image_classification import backends
from image_classification.backends.base import ModelSpec, OptimizerSpec, State, World
from image_classification.samples import Batch
from tests.contract.hosts import free_ports
from tests.contract.jobs import ONE_HOST
from tests.parity.engines import make_batch

pytestmark = pytest.mark.survival
SPEC = ModelSpec("resnet20", 4, (3, 20, 28), (120.0,), (60.0,), seed=1)
SHARES = [(8, 8), (8, 0), (0, 0), (5, 7)]  # samples of each rank, step by step

_RANK = """
import sys
import numpy as np
from image_classification import backends
from image_classification.backends.base import OptimizerSpec, World
from tests.parity.test_rank_statistics import SHARES, SPEC, part

name, folder = sys.argv[1], sys.argv[2]
rank, port = map(int, sys.argv[3:])
addresses = tuple(f"127.0.0.1:{port + number}" for number in range(2))
engine = backends.load(name).build(SPEC, OptimizerSpec(), World(rank, 2, 1, addresses, 2))
for step in range(len(SHARES)):
    engine.train_step(part(step, rank), 0.05)
    state = {key.replace("/", ":"): value for key, value in engine.state().items()}
    np.savez(f"{folder}/{step}-{rank}.npz", **state)
engine.release()
"""


def part(step: int, rank: int) -> Batch:
    """Eight samples, of which some have a weight."""
    batch = make_batch(SPEC, 8, 10 * step + rank)
    batch.weights[SHARES[step][rank] :] = 0
    return batch


def statistics(state: State) -> State:
    return {key: value for key, value in state.items() if ".running_" in key}


def test_running_statistics_are_the_mean_over_the_ranks_that_had_samples(
    tmp_path: Path, subject: str
) -> None:
    if subject in ONE_HOST:
        pytest.skip(f"backend {subject} trains in one process")
    command = [sys.executable, "-W", "ignore", "-c", _RANK, subject, str(tmp_path)]
    port = free_ports(2)
    proxy = os.environ | {"http_proxy": "http://127.0.0.1:9"}  # that the ranks must not ask
    processes = [subprocess.Popen([*command, str(rank), port], env=proxy) for rank in range(2)]
    try:
        assert [process.wait(timeout=200) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
    alone = backends.load(subject).build(SPEC, OptimizerSpec(), World(threads=1))
    before = alone.state()
    for step, counts in enumerate(SHARES):
        states = [dict(np.load(tmp_path / f"{step}-{rank}.npz")) for rank in range(2)]
        after, other = ({k.replace(":", "/"): v for k, v in s.items()} for s in states)
        assert all(np.array_equal(value, other[key]) for key, value in after.items())
        had = []
        for rank in np.flatnonzero(counts):
            alone.load_state(before)
            alone.train_step(part(step, int(rank)), 0.0)
            had.append(statistics(alone.state()))
        for key, value in statistics(after).items():
            expected = np.mean([own[key] for own in had], 0) if had else before[key]
            np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-5, err_msg=key)
        if not had:
            changed = [
                key for key, value in after.items() if not np.array_equal(value, before[key])
            ]
            assert changed == ["optimizer/steps"]
        before = after
    alone.release()
