"""Two and three processes with unequal shares of each batch learn the same as one process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.contract.hosts import free_ports
from tests.contract.jobs import ONE_HOST

pytestmark = pytest.mark.survival

_RANK = """
import sys
import numpy as np
from image_classification import backends
from image_classification.backends.base import ModelSpec, OptimizerSpec, Update, World
from image_classification.samples import Batch
from tests.parity.engines import make_batch

name, folder = sys.argv[1], sys.argv[2]
rank, size, port = map(int, sys.argv[3:])
addresses = tuple(f"127.0.0.1:{port + number}" for number in range(size))
world = World(rank, size, 1, addresses if size > 1 else ())
shape = (3, 20, 28)
spec = ModelSpec("resnet20", 4, shape, (120.0,), (60.0,), seed=1, train_only_head=True,
                 averages_weights=True)  # of the head alone: BatchNorms would see other batches
settings = OptimizerSpec(head_l2=0.01, clip_gradient_norm=0.5)
engine = backends.load(name).build(spec, settings, world)
ends = {1: [0, 12], 2: [0, 7, 12], 3: [0, 4, 7, 12]}[size]

def part(batch, is_padding=False):
    lines = slice(ends[rank], ends[rank + 1])
    weights = batch.weights[lines] * np.float32(not is_padding)
    return Batch(batch.images[lines], batch.targets[lines], weights, batch.keys[lines])

losses = []
for step in range(20):
    whole = make_batch(spec, 12, step)
    if step == 7:
        whole.weights[7:] = 0  # the last rank has nothing but padding
    mine = part(whole)
    for number in range(2):  # two batches an update
        result = engine.train_step(mine, 0.1, Update(0.5, number == 1, 0.9))
    weight = float(mine.weights.sum())
    total, count = engine.all_reduce(np.array([result.fetch()[0] * weight, weight]))
    losses.append(total / count)
before = engine.state()
engine.train_step(part(make_batch(spec, 12), is_padding=True), 0.1)  # of every rank
for key, value in engine.state().items():
    assert key == "optimizer/steps" or np.array_equal(value, before[key]), key
sums = engine.all_reduce(np.array([2.0**51 + rank, 1e300, 0.1]))
state = {key.replace("/", ":"): value for key, value in engine.state().items()}
np.savez(f"{folder}/{size}-{rank}.npz", losses=losses, sums=sums, **state)
engine.release()
"""


def trained(folder: Path, backend: str, size: int) -> list[dict[str, np.ndarray]]:
    """What each rank of so many has at the end."""
    command = [sys.executable, "-W", "ignore", "-c", _RANK, backend, str(folder)]
    port = free_ports(size)
    processes = [subprocess.Popen([*command, str(rank), str(size), port]) for rank in range(size)]
    try:
        assert [process.wait(timeout=200) for process in processes] == [0] * size
    finally:
        for process in processes:
            process.kill()
    return [dict(np.load(folder / f"{size}-{rank}.npz")) for rank in range(size)]


@pytest.mark.parametrize("size", [2, pytest.param(3, marks=pytest.mark.thorough)])
def test_twenty_steps_of_several_processes_have_the_losses_and_weights_of_one(
    tmp_path: Path, subject: str, size: int
) -> None:
    if subject in ONE_HOST:
        pytest.skip(f"backend {subject} trains in one process")
    (alone,), ranks = trained(tmp_path, subject, 1), trained(tmp_path, subject, size)
    assert alone["losses"][0] > 1.5 * alone["losses"][-1]  # it learns
    for rank in ranks:
        np.testing.assert_allclose(rank.pop("losses"), alone["losses"], atol=1e-4)
        total = sum(2.0**51 + number for number in range(size))
        np.testing.assert_allclose(rank.pop("sums"), [total, size * 1e300, size * 0.1], rtol=1e-15)
        for key, value in rank.items():
            assert np.array_equal(value, ranks[0][key]), key
            np.testing.assert_allclose(value, alone[key], atol=1e-5, err_msg=key)
