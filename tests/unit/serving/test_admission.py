"""The plan of a server follows from CPUs, memory and settings; what guards a run of the graph."""

from __future__ import annotations

import time
from collections.abc import Collection
from pathlib import Path

import numpy as np
import pytest

from image_classification.artifact import Artifact
from image_classification.errors import DeviceError, RequestError, UserError
from image_classification.images.preprocessing import Preprocessing
from image_classification.labels.label_map import LabelMap
from image_classification.samples import FloatArray, UInt8Array
from image_classification.serving.admission import choose_plan, reservation
from image_classification.serving.codec.answers import Failure
from image_classification.serving.graph_outputs import Outputs
from image_classification.serving.models import GuardedGraph, Model
from image_classification.serving.observation import Health, RequestRecord, working_on


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, (1, 5, 1)),
        ({"SAGEMAKER_GUNICORN_THREADS": "9"}, (1, 9, 1)),
        ({"MODEL_SERVER_WORKERS": "2"}, (2, 3, 1)),
        ({"SAGEMAKER_MODEL_SERVER_WORKERS": "3", "MODEL_SERVER_WORKERS": "2"}, (3, 3, 1)),
        ({"IMAGE_CLASSIFICATION_BATCHING": "on"}, (1, 37, 32)),
        ({"SAGEMAKER_MULTI_MODEL": "true", "MODEL_SERVER_WORKERS": "2"}, (1, 5, 1)),
    ],
)
def test_processes_threads_and_batches_follow_cpus_and_settings(
    monkeypatch: pytest.MonkeyPatch, settings: dict[str, str], expected: tuple[int, int, int]
) -> None:
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    plan = choose_plan(4, 16 * 2**30)
    assert (plan.processes, plan.threads, plan.max_batch) == expected


@pytest.mark.parametrize(
    ("name", "most"),
    [
        ("SAGEMAKER_GUNICORN_THREADS", 1000),
        ("SAGEMAKER_MODEL_SERVER_WORKERS", 256),
        ("IMAGE_CLASSIFICATION_MAX_BATCH_SIZE", 1000),
    ],
)
def test_a_number_of_processes_or_threads_beyond_reason_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, name: str, most: int
) -> None:
    monkeypatch.setenv("IMAGE_CLASSIFICATION_BATCHING", "on")
    monkeypatch.setenv(name, str(most))
    choose_plan(4, 16 * 2**30)
    monkeypatch.setenv(name, str(most + 1))
    with pytest.raises(UserError, match=rf"{name} must be .*≤ {most}, got '{most + 1}'"):
        choose_plan(4, 16 * 2**30)


def test_little_memory_means_fewer_threads_and_smaller_bodies() -> None:
    plan = choose_plan(64, 400 * 2**20)
    assert plan.threads == 1 and plan.body_memory == 50 * 2**20
    assert plan.decoding_memory < 150 * 2**20


@pytest.mark.parametrize("cpus", [1, 2, 8, 64])
@pytest.mark.parametrize("limit", [2**29, 2**30, 2**33])
def test_threads_bodies_and_pictures_fit_the_memory_together(cpus: int, limit: int) -> None:
    plan = choose_plan(cpus, limit)
    assert plan.memory <= limit
    assert plan.threads >= 1 and plan.decoders >= 1


@pytest.mark.parametrize("limit", [2**30, 2**33, 2**40])
def test_a_picture_of_the_default_limit_fits_where_the_memory_allows_it(limit: int) -> None:
    plan = choose_plan(2, limit)
    assert plan.largest_price >= 400_000_000
    assert plan.decoding_memory <= 2**30  # on a machine of any size


def test_a_picture_of_a_fifth_of_the_memory_fits_in_a_container_of_512_mib() -> None:
    plan = choose_plan(2, 2**29)
    assert (
        2**29 // 5 <= plan.largest_price < reservation(plan.largest_price) <= plan.decoding_memory
    )


def test_an_unknown_value_of_batching_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMAGE_CLASSIFICATION_BATCHING", "maybe")
    with pytest.raises(UserError, match="auto, on or off, got 'maybe'"):
        choose_plan(4, 2**30)


class Graph:
    """Counts the images of each run; breaks when told to."""

    providers: list[str]
    outputs: frozenset[str] = frozenset()

    def __init__(self, provider: str = "CPUExecutionProvider") -> None:
        self.providers = [provider]
        self.sizes: list[int] = []
        self.is_broken = False

    def run(self, images: UInt8Array) -> FloatArray:
        if self.is_broken:
            raise DeviceError("it broke")
        self.sizes.append(len(images))
        return images[:, 0, 0].astype(np.float32)

    def run_outputs(self, images: UInt8Array, wanted: Collection[str]) -> Outputs:
        raise AssertionError(f"nobody asked for {wanted}")


def images(count: int) -> UInt8Array:
    return np.arange(count, dtype=np.uint8)[:, None, None, None].repeat(2, 1)


def test_many_images_run_in_parts_that_bound_the_memory(jpeg: bytes) -> None:
    graph, record = Graph(), RequestRecord("POST", "/")
    preprocessing = Preprocessing(2, 2)
    artifact = Artifact(Path("model"), {"files": {}}, LabelMap(("a", "b", "c")), preprocessing)
    model = Model(artifact, GuardedGraph(graph, Health()))
    graph.sizes.clear()  # of the one with which a model begins
    with working_on(record):
        answers = model.predict_each([jpeg] * 69 + [Failure("no image")])
    assert answers[-1] == Failure("no image") and len(answers) == 70
    assert graph.sizes == [32, 32, 5]
    assert (record.images, record.batch_size) == (69, 32) and record.compute_ms > 0


@pytest.mark.parametrize(
    ("record", "status"),
    [
        (RequestRecord("POST", "/", is_client_gone=lambda: True), 499),
        (RequestRecord("POST", "/", deadline=0.0), 503),
    ],
)
def test_an_abandoned_request_is_not_run(record: RequestRecord, status: int) -> None:
    graph = Graph()
    with working_on(record), pytest.raises(RequestError) as refused:
        GuardedGraph(graph, Health()).run(images(1))
    assert refused.value.status == status and graph.sizes == []


@pytest.mark.parametrize(
    ("provider", "is_lost"), [("CPUExecutionProvider", False), ("CUDAExecutionProvider", True)]
)
def test_a_fault_of_the_runtime_makes_the_process_unhealthy(provider: str, is_lost: bool) -> None:
    graph, health = Graph(provider), Health()
    guarded = GuardedGraph(graph, health)
    guarded.run(images(1))
    assert health.fault is None
    graph.is_broken = True
    with pytest.raises(DeviceError):
        guarded.run(images(1))
    assert health.fault == "it broke"
    assert health.is_device_lost is is_lost and not health.overdue(0)


def test_a_run_inside_a_run_is_timed_from_the_start_of_the_outer_one() -> None:
    health = Health()
    with health.running("code/inference.py"):
        time.sleep(0.02)
        (outer,) = health.overdue(0.01)
        with health.running("the model"):
            assert health.overdue(0.01) == [outer] and outer.name == "code/inference.py"
        assert health.overdue(0.01) == [outer] and health.overdue(60) == []
    assert health.overdue(0) == []
