"""Each backend starts a thread per CPU, but at most OMP_NUM_THREADS."""

from __future__ import annotations

import os
import subprocess
import sys

_STEP = """
import os, sys
from image_classification import backends
from image_classification.backends.base import OptimizerSpec
from image_classification.contract.paths import Cluster
from image_classification.training.group import world_of
from tests.unit.backends.torch_cases import change, make_batch

world = world_of(Cluster())
spec = change(input_shape=(3, 64, 64))
engine = backends.load(sys.argv[1], world.threads).build(spec, OptimizerSpec(), world)
engine.train_step(make_batch(spec), 0.01).fetch()
print(len(os.listdir("/proc/self/task")))
"""


def test_a_step_uses_a_thread_per_cpu_or_fewer_with_omp_num_threads(
    subject: str,
) -> None:
    def threads(**variables: str) -> int:
        environment = {key: value for key, value in os.environ.items() if "OMP_" not in key}
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", _STEP, subject],
            capture_output=True,
            text=True,
            check=True,
            env=environment | {"IMAGE_CLASSIFICATION_CPU_COUNT": "4"} | variables,
        )
        return int(done.stdout)

    of_four = threads()
    assert threads(OMP_NUM_THREADS="1") <= of_four - 3
    assert threads(OMP_NUM_THREADS="9") == of_four
