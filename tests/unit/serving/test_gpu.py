"""A server on a GPU: its plan, its session without a fallback, and what its failures mean."""

from __future__ import annotations

import mmap
import signal
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest

from image_classification import devices
from image_classification.artifact import read_artifact
from image_classification.devices.builds import Build
from image_classification.devices.machine import Gpu, Machine
from image_classification.errors import (
    ArtifactError,
    DeviceError,
    RequestError,
    UnusableDeviceError,
    UserError,
)
from image_classification.serving import multi_model, runtime, server, startup
from image_classification.serving.admission import (
    GpuSettings,
    MemoryBudget,
    Plan,
    choose_plan,
)
from image_classification.serving.batching import batch_threads
from image_classification.serving.models import GuardedGraph
from image_classification.serving.multi_model import ModelStore
from image_classification.serving.observation import Health
from tests import graphs

PLACE = (
    "/onnxruntime_src/onnxruntime/core/providers/cuda/cuda_call.cc:129 std::conditional_t<THRW, "
    "void, onnxruntime::common::Status> onnxruntime::CudaCall(ERRTYPE, const char*, const char*, "
    "SUCCTYPE, const char*, const char*, int) [with ERRTYPE = cudaError; bool THRW = true; SUCC"
    "TYPE = cudaError; std::conditional_t<THRW, void, onnxruntime::common::Status> = void] "
    "/onnxruntime_src/onnxruntime/core/providers/cuda/cuda_call.cc:121 std::conditional_t<THRW, "
    "void, onnxruntime::common::Status> onnxruntime::CudaCall(ERRTYPE, const char*, const char*, "
    "SUCCTYPE, const char*, const char*, int) [with ERRTYPE = cudaError; bool THRW = true] "
)
INSUFFICIENT = "CUDA failure 35: CUDA driver version is insufficient for CUDA runtime version"
FAILURE_35 = f"{PLACE}{INSUFFICIENT} ; GPU=0 ; hostname=algo ; file=cuda_execution_provider.cc"
NO_MEMORY = "bfc_arena.cc:376 Failed to allocate memory for requested buffer of size 16777216"


class Session:
    """ONNX Runtime's session on a GPU that is not there."""

    providers: ClassVar[list[str]] = [runtime.CUDA, runtime.CPU]
    start: Exception | None = None
    failure: Exception | None = None
    given: ClassVar[list[Any]] = []

    def __init__(self, source: Any, options: Any, providers: list[Any], **given: Any) -> None:
        type(self).given = [providers, given]
        if self.start:
            raise self.start

    def get_providers(self) -> list[str]:
        return self.providers

    def get_inputs(self) -> list[Any]:
        return [Value("images", "tensor(uint8)", ("n", graphs.SIDE, graphs.SIDE, 3))]

    def get_outputs(self) -> list[Any]:
        return [Value("probabilities", "tensor(float)", ("n", 3))]

    def run(self, *_: Any) -> list[Any]:
        assert self.failure is not None
        raise self.failure


class Value:
    def __init__(self, name: str, element: str, shape: tuple[Any, ...]) -> None:
        self.name, self.type, self.shape = name, element, shape


@pytest.fixture
def session(monkeypatch: pytest.MonkeyPatch) -> type[Session]:
    kind = type("ThisSession", (Session,), {})
    monkeypatch.setattr(runtime.onnxruntime, "InferenceSession", kind)
    return kind


@pytest.fixture
def file(tmp_path: Path) -> Any:
    return read_artifact(graphs.write_model(tmp_path, graphs.healthy())).graph_file


# ---- the session


@pytest.mark.parametrize(("setting", "tf32"), [(None, "0"), ("true", "1")])
def test_a_session_has_no_fallback_and_no_tf32_unless_it_is_asked_for(
    session: type[Session], file: Any, monkeypatch: pytest.MonkeyPatch, setting: str, tf32: str
) -> None:
    if setting:
        monkeypatch.setenv("IMAGE_CLASSIFICATION_TF32", setting)
    assert runtime.Runtime(file, device="cuda").device == "cuda"
    providers, given = session.given
    name, options = providers[0]
    assert (name, options["use_tf32"], given) == (runtime.CUDA, tf32, {"enable_fallback": 0})


def test_a_session_on_the_cpu_asks_for_no_gpu(session: type[Session], file: Any) -> None:
    session.providers = [runtime.CPU]
    assert runtime.Runtime(file).device == "cpu"
    assert session.given[0] == [runtime.CPU]


def test_a_session_that_is_on_the_cpu_after_all_is_refused(
    session: type[Session], file: Any
) -> None:
    session.providers = [runtime.CPU]
    with pytest.raises(UnusableDeviceError, match="ONNX Runtime cannot use it"):
        runtime.Runtime(file, device="cuda")


def test_the_failure_of_a_cuda_library_is_not_cut_away(session: type[Session], file: Any) -> None:
    assert len(PLACE) > 500
    session.start = RuntimeError(FAILURE_35)
    with pytest.raises(UnusableDeviceError) as caught:
        runtime.Runtime(file, device="cuda")
    said = str(caught.value)
    assert f"({INSUFFICIENT})" in said and "IMAGE_CLASSIFICATION_DEVICE=cpu" in said


def test_a_broken_graph_stays_the_artifacts_fault_on_a_gpu(
    session: type[Session], file: Any
) -> None:
    session.start = RuntimeError(
        "[ONNXRuntimeError] : 10 : INVALID_GRAPH : allocate is no operator"
    )
    with pytest.raises(ArtifactError, match="INVALID_GRAPH"):
        runtime.Runtime(file, device="cuda")


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        (f"{PLACE}CUDA failure 700: an illegal memory access was encountered", DeviceError),
        (f"{PLACE}CUDNN failure 4000: CUDNN_STATUS_INTERNAL_ERROR", DeviceError),
        (NO_MEMORY, MemoryError),
        (f"{PLACE}CUDA failure 2: out of memory ; GPU=0", MemoryError),
        (f"{PLACE}CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED", MemoryError),
        ("INVALID_ARGUMENT : Got invalid dimensions", ArtifactError),
    ],
)
def test_a_run_that_fails_blames_the_device_its_memory_or_the_graph(
    session: type[Session], file: Any, said: str, kind: type[Exception]
) -> None:
    graph = runtime.Runtime(file, device="cuda")
    session.failure = RuntimeError(said)
    with pytest.raises(kind, match=r"failure|Failed|dimensions"):
        graph.run(np.zeros((1, graphs.SIDE, graphs.SIDE, 3), np.uint8))


def test_a_request_for_which_a_gpu_has_no_memory_now_is_503_and_the_server_stays_healthy(
    session: type[Session], file: Any
) -> None:
    health = Health()
    graph = GuardedGraph(runtime.Runtime(file, device="cuda"), health)
    session.failure = RuntimeError(NO_MEMORY)
    with pytest.raises(RequestError, match="send the request again later") as refused:
        graph.run(np.zeros((1, graphs.SIDE, graphs.SIDE, 3), np.uint8))
    assert refused.value.status == 503 and health.fault is None


def test_a_model_that_does_not_fit_onto_the_gpu_is_507(
    session: type[Session], file: Any, tmp_path: Path
) -> None:
    session.start = RuntimeError(NO_MEMORY)
    store = ModelStore(
        lambda *_: runtime.Runtime(file, device="cuda"),  # type: ignore[arg-type, return-value]
        MemoryBudget(1_000),
        9,
    )
    with pytest.raises(RequestError, match="the GPU has no memory for the model") as refused:
        store.load("one", str(tmp_path / "nothing"))
    assert refused.value.status == 507


def test_the_only_model_of_a_server_that_does_not_fit_is_the_users_error(
    session: type[Session], tmp_path: Path
) -> None:
    session.start = RuntimeError(NO_MEMORY)
    artifact = read_artifact(graphs.write_model(tmp_path, graphs.healthy()))
    plan = choose_plan(2, 2**32, on_gpu=True)
    with pytest.raises(UnusableDeviceError, match="lower IMAGE_CLASSIFICATION_MAX_BATCH_SIZE"):
        startup.create_server_app(artifact, plan, Health(), None, None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (GpuSettings(), {}),
        (GpuSettings(prefers_nhwc=True), {"prefer_nhwc": "1"}),
        (GpuSettings(has_cuda_graphs=True), {"enable_cuda_graph": "1"}),
        (GpuSettings(True, True, True), {"prefer_nhwc": "1", "enable_cuda_graph": "1"}),
    ],
)
def test_the_settings_of_a_gpu_are_options_of_its_session(
    session: type[Session], file: Any, settings: GpuSettings, expected: dict[str, str]
) -> None:
    runtime.Runtime(file, device="cuda", settings=settings)
    (_, options), _ = session.given[0]
    always = {"use_tf32": "0", "arena_extend_strategy": "kSameAsRequested"}
    assert options == always | expected


class Binding:
    """ONNX Runtime's IO binding and its values, which only note what is done with them."""

    def __init__(self, done: list[Any]) -> None:
        self.done = done

    def __getattr__(self, name: str) -> Any:
        return lambda *given: self.done.append((name, *given))


@pytest.mark.parametrize("has_graphs", [False, True])
def test_each_batch_size_has_a_cuda_graph_and_a_fixed_output_if_it_is_asked_for(
    session: type[Session], file: Any, monkeypatch: pytest.MonkeyPatch, has_graphs: bool
) -> None:
    done: list[Any] = []
    value = SimpleNamespace(
        ortvalue_from_numpy=lambda images, *_: ("images", images.shape),
        ortvalue_from_shape_and_type=lambda shape, kind, *place: ("rows", shape, kind, place),
    )
    monkeypatch.setattr(runtime.onnxruntime, "OrtValue", value)
    monkeypatch.setattr(session, "io_binding", lambda _: Binding(done), raising=False)
    settings = GpuSettings(has_cuda_graphs=has_graphs)
    graph = runtime.Runtime(file, device="cuda", settings=settings)
    ids = set()
    for size in (1, 4):
        done.clear()
        run = graph.bound((size, graphs.SIDE, graphs.SIDE, 3))
        rows = ("rows", (size, graphs.CLASSES), np.float32, ("cuda", 0))
        fixed = ("bind_ortvalue_output", "probabilities", rows)
        assert done[1] == (fixed if has_graphs else ("bind_output", "probabilities", "cuda"))
        if has_graphs:
            ids.add(run.options.get_run_config_entry("gpu_graph_id"))
        else:
            with pytest.raises(RuntimeError):
                run.options.get_run_config_entry("gpu_graph_id")
    assert ids == ({"1", "4"} if has_graphs else set())


def test_a_model_that_cannot_be_a_cuda_graph_is_refused_with_the_setting(
    session: type[Session], file: Any
) -> None:
    session.start = RuntimeError(
        "This session cannot use the graph capture feature as requested by the user as all compute "
        "graph nodes have not been partitioned to the CUDAExecutionProvider"
    )
    with pytest.raises(UnusableDeviceError, match="unset IMAGE_CLASSIFICATION_CUDA_GRAPHS"):
        runtime.Runtime(file, device="cuda", settings=GpuSettings(has_cuda_graphs=True))
    with pytest.raises(ArtifactError, match="graph capture"):
        runtime.Runtime(file, device="cuda")


class Cuda:
    """The CUDA runtime, which is loaded as a file of that name."""

    def __init__(self, status: int) -> None:
        self.status, self.locked, self.cleared = status, [], 0

    def cudaHostRegister(self, address: Any, size: Any, flags: int) -> int:
        self.locked.append((address.value, size.value, flags))
        return self.status

    def cudaGetLastError(self) -> int:
        self.cleared += 1
        return self.status


@pytest.mark.parametrize(("status", "warnings"), [(0, 0), (801, 1)])
def test_the_memory_of_batches_is_page_locked_where_cuda_can_and_used_anyway(
    *,
    session: type[Session],
    file: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    status: int,
    warnings: int,
) -> None:
    library, cuda = tmp_path / "libcudart.so.12", Cuda(status)
    library.write_bytes(b"\0" * 4096)
    opened: list[str] = []
    monkeypatch.setattr(runtime.ctypes, "CDLL", lambda name: (opened.append(name), cuda)[1])
    graph = runtime.Runtime(file, device="cuda")
    opened.clear()  # glibc, before
    with library.open("rb") as mapped, mmap.mmap(mapped.fileno(), 0, prot=mmap.PROT_READ):
        images = graph.host_buffer((2, graphs.SIDE, graphs.SIDE, 3))
    assert opened == [str(library)]
    assert cuda.locked == [(images.ctypes.data, images.nbytes, 0)] and not images.any()
    assert cuda.cleared == warnings  # the next run would find the error
    assert len(caplog.messages) == warnings and all("CUDA error 801" in m for m in caplog.messages)


def test_without_cudas_library_and_on_a_cpu_the_memory_of_batches_is_plain(
    session: type[Session], file: Any, caplog: pytest.LogCaptureFixture
) -> None:
    shape = (2, graphs.SIDE, graphs.SIDE, 3)
    assert runtime.Runtime(file, device="cuda").host_buffer(shape).shape == shape
    assert "libcudart is not loaded" in caplog.messages[0]
    session.providers = [runtime.CPU]
    assert runtime.Runtime(file).host_buffer(shape).shape == shape
    assert len(caplog.messages) == 1


# ---- the plan


@pytest.mark.parametrize(
    ("on_gpu", "settings", "expected"),
    [
        (True, {}, (1, 37, 32)),
        (False, {}, (1, 5, 1)),
        (True, {"MODEL_SERVER_WORKERS": "2"}, (1, 37, 32)),  # one owner of the device
        (True, {"IMAGE_CLASSIFICATION_BATCHING": "off"}, (1, 5, 1)),
        (True, {"SAGEMAKER_MULTI_MODEL": "true"}, (1, 5, 1)),
    ],
)
def test_a_plan_for_a_gpu_has_batches_and_one_process(
    monkeypatch: pytest.MonkeyPatch, on_gpu: bool, settings: dict[str, str], expected: Any
) -> None:
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    plan = choose_plan(4, 16 * 2**30, on_gpu=on_gpu)
    assert (plan.processes, plan.threads, plan.max_batch) == expected and plan.on_gpu == on_gpu


SETTINGS = {
    "IMAGE_CLASSIFICATION_SERVING_PRECISION": ("float16", GpuSettings(is_half=True)),
    "IMAGE_CLASSIFICATION_PREFER_NHWC": ("true", GpuSettings(prefers_nhwc=True)),
    "IMAGE_CLASSIFICATION_CUDA_GRAPHS": ("1", GpuSettings(has_cuda_graphs=True)),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_a_setting_of_a_gpu_is_off_by_default_and_refused_by_name_on_a_cpu(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    value, expected = SETTINGS[name]
    assert choose_plan(2, 2**34, on_gpu=True).gpu == GpuSettings()
    monkeypatch.setenv(name, value)
    plan = choose_plan(2, 2**34, on_gpu=True)
    assert plan.gpu == expected and str(plan) != str(replace(plan, gpu=GpuSettings()))
    with pytest.raises(UserError, match=f"{name}={value} needs a GPU"):
        choose_plan(2, 2**34)
    monkeypatch.setenv(name, "float8")
    with pytest.raises(UserError, match=f"{name} must be .*float8"):
        choose_plan(2, 2**34, on_gpu=True)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("IMAGE_CLASSIFICATION_BATCHING", "off"),
        ("IMAGE_CLASSIFICATION_MAX_BATCH_SIZE", "1"),
        ("SAGEMAKER_MULTI_MODEL", "true"),
    ],
)
def test_cuda_graphs_without_batches_are_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv("IMAGE_CLASSIFICATION_CUDA_GRAPHS", "true")
    monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="IMAGE_CLASSIFICATION_CUDA_GRAPHS=true needs batches"):
        choose_plan(2, 2**34, on_gpu=True)


def test_cuda_graphs_run_in_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMAGE_CLASSIFICATION_CUDA_GRAPHS", "true")
    assert batch_threads((224, 224, 3), choose_plan(2, 2**34, on_gpu=True)) == 1


def test_the_models_on_a_gpu_share_three_quarters_of_what_is_free_there() -> None:
    plan = choose_plan(2, 2**32, on_gpu=True)
    assert multi_model.memory_budget(plan, 4_000) == 3_000
    without = multi_model.memory_budget(plan)  # it changes with what this process uses
    assert multi_model.memory_budget(plan, 2**60) == pytest.approx(without, rel=0.01)


OLD = Machine(1, "470.256.02", (11, 4), (Gpu("Tesla T4", (7, 5), 2**34),))


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[Plan]:
    """A machine with a GPU and an old driver, in an image for CUDA; the plans of its servers."""
    plans: list[Plan] = []

    class Server:
        def __init__(self, settings: object, plan: Plan, artifact: object, form: str) -> None:
            plans.append(plan)

        def run(self) -> None:
            pass

    build = Build("ONNX Runtime", "1.26.0", (12, 8), "onnxruntime-gpu")
    monkeypatch.setattr(devices, "device_files", lambda: 1)
    monkeypatch.setattr(devices, "this_machine", lambda: OLD)
    monkeypatch.setattr(devices, "installed_build", lambda _: build)
    monkeypatch.setattr(server, "_Server", Server)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.delenv("IMAGE_CLASSIFICATION_BACKEND", raising=False)
    return plans


def test_a_server_does_not_start_on_a_gpu_that_it_cannot_use(
    served: list[Plan], tmp_path: Path
) -> None:
    with pytest.raises(UnusableDeviceError, match="InferenceAmiVersion=al2-ami-sagemaker"):
        server.serve(graphs.write_model(tmp_path, graphs.healthy()), "127.0.0.1", 0)
    assert served == []


def test_a_server_that_is_told_to_compute_on_the_cpu_plans_for_the_cpu(
    served: list[Plan],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("IMAGE_CLASSIFICATION_DEVICE", "cpu")
    server.serve(graphs.write_model(tmp_path, graphs.healthy()), "127.0.0.1", 0)
    (plan,) = served
    assert not plan.on_gpu and plan.max_batch == 1
    (line,) = caplog.messages
    assert "IMAGE_CLASSIFICATION_DEVICE=cpu: computing on the CPU" in line
