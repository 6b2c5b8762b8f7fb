"""A multi-model endpoint: five routes, their codes, and models loaded and unloaded under load."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import tarfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
from onnx import numpy_helper

from tests import graphs
from tests.contract.jobs import Answer, Server, running_server
from tests.contract.raw_http import connected
from tests.contract.test_server_faults import BUSY, FAULTY, GRAY


@pytest.fixture(scope="module")
def server(trained_job: Path) -> Iterator[Server]:
    settings = {
        "SAGEMAKER_MULTI_MODEL": "true",
        "IMAGE_CLASSIFICATION_MODEL_MEMORY_MB": "100",  # five of about 18 MiB
        "SAGEMAKER_GUNICORN_THREADS": "2",
        "BUSY_SECONDS": "3",
    }
    with running_server(Path("/nonexistent"), program=FAULTY, **settings) as running:
        yield running


@pytest.fixture
def model(trained_job: Path) -> Path:
    return trained_job / "model"


def load(server: Server, name: str, url: Path) -> Answer:
    body = json.dumps({"model_name": name, "url": str(url)}).encode()
    return server.send("POST", "/models", body, Content_Type="application/json")


def invoke(server: Server, name: str, body: bytes) -> Answer:
    return server.send("POST", f"/models/{name}/invoke", body, Content_Type="image/png")


def unload(server: Server, name: str) -> Answer:
    return server.send("DELETE", f"/models/{name}")


def listed(server: Server, query: str = "") -> dict[str, object]:
    answer = server.get(f"/models{query}").json()
    assert isinstance(answer, dict)
    return answer


def test_a_ping_is_200_without_a_model_and_invocations_name_the_right_route(server: Server) -> None:
    assert server.get("/ping").status == 200
    answer = server.invoke(GRAY, Content_Type="image/png")
    assert answer.status == 404 and b"/models/<name>/invoke" in answer.body


def test_a_model_is_loaded_described_invoked_and_unloaded(server: Server, model: Path) -> None:
    assert load(server, "a1", model).status == 200
    described = {"modelName": "a1", "modelUrl": str(model)}
    assert server.get("/models/a1").json() == described
    assert listed(server) == {"models": [described]}
    answer = invoke(server, "a1", GRAY).json()
    assert isinstance(answer, list) and len(answer) == 3
    assert load(server, "a1", model).status == 409
    assert unload(server, "a1").status == 200
    for gone in (unload(server, "a1"), server.get("/models/a1"), invoke(server, "a1", GRAY)):
        assert gone.status == 404 and b"'a1' is not loaded" in gone.body


def test_simultaneous_loads_fill_the_memory_and_the_rest_get_507(
    server: Server, model: Path
) -> None:
    names = [f"m{number}" for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda name: load(server, name, model), names))
    statuses = sorted(answer.status for answer in answers)
    assert statuses == [200] * 5 + [507] * 3
    refused = next(answer for answer in answers if answer.status == 507)
    assert b"of 100 MiB" in refused.body
    loaded = [name for name, answer in zip(names, answers, strict=True) if answer.status == 200]
    assert unload(server, loaded[0]).status == 200
    assert load(server, "another", model).status == 200
    for name in [*loaded[1:], "another"]:
        assert unload(server, name).status == 200


def test_an_archive_takes_the_memory_of_what_is_unpacked_from_it(
    server: Server, tmp_path: Path
) -> None:
    zeros = numpy_helper.from_array(np.zeros(15_000_000, np.float32), "unused")
    graph = graphs.healthy()
    graph.graph.initializer.append(zeros)
    folder = graphs.write_model(tmp_path / "model", graph)
    with tarfile.open(tmp_path / "model.tar.gz", "w:gz") as tar:
        tar.add(folder, arcname=".")
    assert (tmp_path / "model.tar.gz").stat().st_size < 100_000
    for _ in range(2):  # what was accounted is given back
        answer = load(server, "zeros", tmp_path / "model.tar.gz")
        assert (
            answer.status == 507 and b"needs about 130 MiB; 0 models take 0 of 100" in answer.body
        )


def test_an_archive_of_a_thousand_empty_files_is_400(server: Server, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "model.tar.gz", "w:gz") as tar:
        for number in range(1_001):
            tar.addfile(tarfile.TarInfo(f"code/{number}"))
    answer = load(server, "files", tmp_path / "model.tar.gz")
    assert answer.status == 400 and b"at most 1000 files and folders" in answer.body


def test_the_list_of_models_has_pages(server: Server, model: Path) -> None:
    for name in ("p1", "p2", "p3"):
        assert load(server, name, model).status == 200
    seen, token = [], ""
    while True:
        page = listed(server, f"?limit=2&next_page_token={token}")
        seen += [entry["modelName"] for entry in page["models"]]  # type: ignore[attr-defined]
        if "nextPageToken" not in page:
            break
        token = str(page["nextPageToken"])
    assert seen == ["p1", "p2", "p3"]
    for name in seen:
        unload(server, name)
    for limit in ("none", "0", "101", "9" * 4000, "%D9%A1", "%C2%B2", "-1", "1_0", "+1", ""):
        assert server.get(f"/models?limit={limit}").status == 400


def test_unloading_waits_for_the_request_that_runs(server: Server, model: Path) -> None:
    assert load(server, "busy", model).status == 200
    with connected(server) as client, ThreadPoolExecutor(1) as pool:
        head = f"POST /models/busy/invoke HTTP/1.1\r\nHost: x\r\nContent-Length: {len(BUSY)}\r\n"
        client.send(head.encode() + b"Content-Type: image/png\r\n\r\n" + BUSY)
        time.sleep(0.3)  # it runs for three seconds
        unloading = pool.submit(unload, server, "busy")
        while invoke(server, "busy", GRAY).status != 404:
            pass
        wait([unloading], timeout=0.5)
        assert not unloading.done()
        assert client.answer().status == 200
        assert unloading.result().status == 200


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"[" * 100_000,
        b'{"model_name": "a"}',
        b'{"model_name": "a/b", "url": "/x"}',
        b'{"model_name": "\\ud800", "url": "/x"}',
        b'{"model_name": "a", "url": "/x\\u0000y"}',
        b'{"model_name": "' + b"a" * 1025 + b'", "url": "/x"}',
    ],
)
def test_a_load_without_name_or_url_is_400(server: Server, body: bytes) -> None:
    answer = server.send("POST", "/models", body)
    assert answer.status == 400 and b"model_name" in answer.body


@pytest.mark.parametrize("url", ["/", "//", "/tmp/..", "../../../../../../../../../../.."])
def test_a_model_is_not_looked_for_in_the_whole_file_system(server: Server, url: str) -> None:
    body = json.dumps({"model_name": "a", "url": url})
    answer = server.send("POST", "/models", body.encode())
    assert answer.status == 400 and b"expected the folder of one model" in answer.body


def test_loading_something_else_than_an_artifact_is_400_and_leaves_nothing_behind(
    server: Server, model: Path, tmp_path: Path
) -> None:
    linked = tmp_path / "linked"
    shutil.copytree(model, linked)
    (linked / "model.onnx").unlink()
    (linked / "model.onnx").symlink_to(model / "model.onnx")
    changed = tmp_path / "changed"
    shutil.copytree(model, changed)
    (changed / "model.onnx").write_bytes(b"changed")
    pickled = tmp_path / "pickled"
    pickled.mkdir()
    (pickled / "model.pkl").write_bytes(pickle.dumps({"weights": 1}))
    outside = tmp_path / "outside.tar.gz"
    with tarfile.open(outside, "w:gz") as tar:
        tar.add(model, arcname="../../model")
    os.mkfifo(tmp_path / "pipe")
    paths = (linked, changed, pickled, outside, tmp_path / "pipe", tmp_path / "nothing")
    more = ("/dev/zero", "/proc/kmsg", "/proc/self/mem", "/proc/self/task", "/usr", "/etc/hosts")
    for url in (*paths, tmp_path / ("n" * 300), *map(Path, more)):
        answer = load(server, "bad", url)
        assert answer.status == 400 and b"cannot be served" in answer.body, (url, answer)
    assert load(server, "bad", model).status == 200
    assert unload(server, "bad").status == 200


def test_a_name_may_have_any_characters_except_a_slash(server: Server, model: Path) -> None:
    for name in ("модель 1", "a%2Fb", "?limit=1", "é" * 512):
        assert load(server, name, model).status == 200
        path = f"/models/{quote(name, safe='')}"
        answer = server.get(path).json()
        assert isinstance(answer, dict) and answer["modelName"] == name
        assert server.send("POST", f"{path}/invoke", GRAY, Content_Type="image/png").status == 200
        assert server.send("DELETE", path).status == 200


def test_the_server_ends_when_the_process_with_the_models_dies(model: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    settings = {"SAGEMAKER_MULTI_MODEL": "true"}
    with running_server(model, log=log, exit_code=1, **settings) as server:
        assert load(server, "a", model).status == 200
        os.kill(server.worker(), signal.SIGKILL)
        assert server.process.wait(30) == 1
    assert "the process that held the loaded models has ended" in log.read_text()


def test_memory_is_freed_when_models_are_unloaded(server: Server, model: Path) -> None:
    def resident() -> int:
        return int(Path(f"/proc/{server.worker()}/statm").read_text().split()[1]) * 4096

    def load_and_unload() -> None:
        for name in ("g1", "g2", "g3"):
            assert load(server, name, model).status == 200
            assert invoke(server, name, GRAY).status == 200
        for name in ("g1", "g2", "g3"):
            assert unload(server, name).status == 200

    load_and_unload()
    before = resident()
    for _ in range(5):
        load_and_unload()
    assert resident() - before < 16 * 2**20
