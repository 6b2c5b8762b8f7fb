"""Processes of a model: how many it has, who waits for them, and what its memory counts as."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto

from image_classification.artifact import GraphFile, read_artifact
from image_classification.errors import ArtifactError, ForkserverError, RequestError
from image_classification.samples import UInt8Array
from image_classification.serving import model_process, observation, runtime
from image_classification.serving.admission import MemoryBudget
from image_classification.serving.graph_outputs import Outputs
from image_classification.serving.isolation import Forkserver
from image_classification.serving.model_process import CHILD, Bounds, ModelChild, ModelProcesses
from image_classification.serving.observation import Health, RequestRecord, working_on
from tests import graphs

MIB = 1 << 20


@pytest.fixture
def forkserver() -> Iterator[Forkserver]:
    made = Forkserver({CHILD: ModelChild()})
    yield made
    made.close()


Make = Callable[..., ModelProcesses]


@pytest.fixture
def make(forkserver: Forkserver, tmp_path: Path) -> Iterator[Make]:
    """Return a function that makes the processes of a graph that is slow with bright images."""
    folder = graphs.write_model(tmp_path / "model", graphs.slow_if_bright(700))
    made: list[ModelProcesses] = []

    @contextmanager
    def reopen() -> Iterator[GraphFile]:
        yield read_artifact(folder).graph_file

    def make(
        budget: MemoryBudget, *, processes: int = 3, waiting: int = 9, seconds: float = 60
    ) -> ModelProcesses:
        file = read_artifact(folder).graph_file
        bounds = Bounds(processes, waiting, seconds)
        made.append(ModelProcesses(forkserver, file, reopen, Health(), bounds, budget))
        return made[-1]

    yield make
    for one in made:
        one.end()


def image(value: int) -> UInt8Array:
    return np.full((1, graphs.SIDE, graphs.SIDE, 3), value, np.uint8)


BRIGHT, DARK = image(255), image(90)


def wait_for(condition: Callable[[], bool]) -> None:
    while not condition():
        time.sleep(0.01)


def test_a_batch_of_any_size_is_computed_in_the_process(make: Make) -> None:
    model = make(MemoryBudget(0))
    for count in (1, 3, 32, 500):
        images = np.random.default_rng(count).integers(
            0, 180, (count, graphs.SIDE, graphs.SIDE, 3), np.uint8
        )
        means = images.mean((1, 2), np.float64)
        expected = np.exp(means) / np.exp(means).sum(1, keepdims=True)
        np.testing.assert_allclose(model.run(images), expected, atol=1e-4)
    assert model.providers == ["CPUExecutionProvider"]


@pytest.mark.parametrize("argument", [b"run", b"outputs features"])
def test_the_memory_of_many_images_is_given_back_whatever_they_are_asked_for(
    argument: bytes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    freed: list[bool] = []
    run_outputs = runtime.Runtime.run_outputs

    def spy(self: runtime.Runtime, images: UInt8Array, wanted: object, *, frees: bool) -> Outputs:
        freed.append(frees)
        return run_outputs(self, images, (), frees=frees)

    monkeypatch.setattr(runtime.Runtime, "run_outputs", spy)
    folder = graphs.write_model(tmp_path / "model", graphs.slow_if_bright(1))
    child = ModelChild()
    child(json.dumps(asdict(read_artifact(folder).graph_file)).encode(), b"")
    for count in (1, 5):
        child(argument, np.concatenate([DARK] * count).tobytes())
    assert freed == [False, True]


def test_a_request_does_not_wait_for_a_long_run_if_there_is_memory_for_another_process(
    make: Make,
) -> None:
    budget = MemoryBudget(100 * MIB)
    model = make(budget, seconds=600)
    with ThreadPoolExecutor(2) as pool:
        long = pool.submit(model.run, BRIGHT)
        wait_for(lambda: not model._idle)
        model.run(DARK)
        assert not long.done()
        assert 16 * MIB < budget.used < 20 * MIB
        long.result()
    model.shrink()
    assert budget.used == 0 and len(model._idle) == 1
    model.shrink()
    assert len(model._idle) == 1
    model.run(DARK)


def test_without_memory_for_another_process_requests_wait_for_each_other(make: Make) -> None:
    budget = MemoryBudget(10 * MIB)
    model = make(budget)
    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(model.run, image(value)) for value in range(0, 160, 10)]:
            assert done.result().shape == (1, graphs.CLASSES)
    assert model._count == 1 and budget.used == 0


def test_no_more_requests_wait_for_one_model_than_it_may_have(make: Make) -> None:
    model = make(MemoryBudget(0), waiting=2)
    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(model.run, BRIGHT)
        wait_for(lambda: not model._idle)
        others = [pool.submit(model.run, DARK) for _ in range(2)]
        wait_for(lambda: len(model._waiting) == 2)
        with pytest.raises(RequestError, match="2 requests wait for this model") as refused:
            model.run(DARK)
        assert refused.value.status == 503
        for future in (first, *others):
            future.result()


def test_a_request_whose_client_has_gone_stops_waiting(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(observation, "LOOK_SECONDS", 0)
    monkeypatch.setattr(model_process, "_CHECK_SECONDS", 0.02)
    model = make(MemoryBudget(0))

    def run_for_nobody() -> None:
        with working_on(RequestRecord("POST", "/", is_client_gone=lambda: True)):
            model.run(DARK)

    gone = RequestRecord("POST", "/", is_client_gone=lambda: bool(model._waiting))

    def run_for_somebody_who_goes() -> None:
        with working_on(gone):
            model.run(DARK)

    with ThreadPoolExecutor(2) as pool:
        long = pool.submit(model.run, BRIGHT)
        wait_for(lambda: not model._idle)
        for run in (run_for_nobody, run_for_somebody_who_goes):
            with pytest.raises(RequestError) as raised:
                run()
            assert raised.value.status == 499
        assert not model._waiting
        long.result()
    model.run(DARK)


def test_every_request_is_answered_while_processes_die(make: Make) -> None:
    budget = MemoryBudget(100 * MIB)
    model = make(budget)
    killed = set()
    with ThreadPoolExecutor(6) as pool:
        runs = [pool.submit(model.run, image(value % 160)) for value in range(300)]
        for _ in range(3):
            wait_for(lambda: bool(model._idle) or all(run.done() for run in runs))
            with suppress(IndexError, ProcessLookupError):  # none is idle, or it has just ended
                process = model._idle[-1]
                os.kill(process.pid, signal.SIGKILL)
                killed.add(process.pid)
        failed = [run for run in runs if run.exception()]
    assert len(failed) <= len(killed) // 2  # a request tries two processes
    model.run(DARK)
    model.end()
    wait_for(lambda: budget.used == 0 and model._count == 0)  # an additional one may still start


def test_a_model_whose_processes_keep_dying_is_left_alone_for_a_while(make: Make) -> None:
    model = make(MemoryBudget(0))
    with ThreadPoolExecutor(1) as pool:
        for _ in range(5):
            process = model._idle[0]
            run = pool.submit(model.run, BRIGHT)
            wait_for(lambda: not model._idle)
            os.kill(process.pid, signal.SIGSEGV)
            with pytest.raises(ArtifactError, match=r"on 1 image\(s\), ended with signal 11"):
                run.result()
            with suppress(ArtifactError):
                model.run(DARK)
    with pytest.raises(ArtifactError, match="died 5 times within 60 s: the next one starts in"):
        model.run(DARK)


def test_a_server_whose_forkserver_has_ended_is_unhealthy(
    make: Make, forkserver: Forkserver
) -> None:
    model = make(MemoryBudget(0))
    forkserver.close()
    for _ in range(2):
        with pytest.raises(ForkserverError):
            model.run(DARK)
    assert model._health.fault is not None


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (graphs.slow_to_load(6000), "loading the graph took more than 1 s"),
        (graphs.slow(5000), r"the graph, on 1 image\(s\), took more than 2 s"),
        (graphs.slow_if_bright(5000), "took more than 2 s"),
        (graphs.filling_if_bright(2**31), "the graph fails|more than .* MB of memory"),
    ],
    ids=["loading", "running", "bright", "memory"],
)
def test_a_graph_that_takes_too_long_or_too_much_ends_alone(
    made: ModelProto,
    reason: str,
    forkserver: Forkserver,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = read_artifact(graphs.write_model(tmp_path, made)).graph_file
    if "loading" in reason:
        monkeypatch.setattr(model_process, "_LOAD_SECONDS", 1.0)

    @contextmanager
    def reopen() -> Iterator[GraphFile]:
        yield file

    bounds = Bounds(1, 9, 1 if "loading" in reason else 2)
    with pytest.raises(ArtifactError, match=reason), ExitStack() as stack:
        model = ModelProcesses(forkserver, file, reopen, Health(), bounds, MemoryBudget(0))
        stack.callback(model.end)
        model.run(BRIGHT)
