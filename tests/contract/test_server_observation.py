"""What a server reports: the line at its start, the access log, metrics; and its one port."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.contract.jobs import Server, running_server


@pytest.fixture
def red(small_channels: dict[str, Path]) -> bytes:
    return (small_channels["validation"] / "red" / "red000.jpg").read_bytes()


def access_log(path: Path) -> list[dict[str, Any]]:
    lines = path.read_text().splitlines()
    return [json.loads(line) for line in lines if line.startswith('{"time"')]


def test_each_request_except_pings_is_one_line_of_json_with_its_id_and_times(
    trained_job: Path, tmp_path: Path, red: bytes
) -> None:
    log = tmp_path / "log"
    with running_server(trained_job / "model", log=log) as server:
        assert server.get("/ping").status == 200
        named = {"Content_Type": "image/jpeg", "X_Amzn_SageMaker_Inference_Id": "my-picture"}
        server.invoke(red, **named)
        server.invoke(b"no image", Content_Type="image/jpeg")
        assert server.get("/metrics").status == 404
    assert "SIGABRT" not in log.read_text()  # it ended by itself, not in a library's destructor
    good, bad = access_log(log)
    assert good["id"] == "my-picture" and len(bad["id"]) == 32
    assert (good["status"], bad["status"]) == (200, 400)
    assert (good["images"], good["batch_size"], bad["images"]) == (1, 1, 0)
    assert good["received_bytes"] == len(red) and good["sent_bytes"] > 100
    for stage in ("decode_ms", "compute_ms"):
        assert 0 < good[stage] <= good["total_ms"]
    start = next(line for line in log.read_text().splitlines() if "Serving resnet" in line)
    for fact in ("CPUExecutionProvider", r"\d+ threads", r"\d+ MiB of \d+ MiB"):
        assert re.search(fact, start), start


def test_the_access_log_can_be_switched_off(trained_job: Path, tmp_path: Path, red: bytes) -> None:
    log = tmp_path / "log"
    settings = {"IMAGE_CLASSIFICATION_ACCESS_LOG": "false"}
    with running_server(trained_job / "model", log=log, **settings) as server:
        assert server.invoke(red, Content_Type="image/jpeg").status == 200
    assert access_log(log) == []


def test_the_log_of_a_refusal_is_no_longer_than_its_answer(
    trained_job: Path, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    with running_server(trained_job / "model", log=log) as server:
        assert server.invoke(b"x", Content_Type="a" * 7000).status == 415
        assert server.get("/" + "a" * 3000).status == 404
    assert max(map(len, log.read_text().splitlines())) < 2500


def test_metrics_are_in_prometheus_format_if_they_are_switched_on(
    trained_job: Path, red: bytes
) -> None:
    from prometheus_client.parser import text_string_to_metric_families as parsed

    with running_server(trained_job / "model", IMAGE_CLASSIFICATION_METRICS="true") as server:
        for body in (red, red, b"no image"):
            server.invoke(body, Content_Type="image/jpeg")
        answer = server.get("/metrics")
    assert answer.headers["Content-Type"].startswith("text/plain")
    samples = {
        (sample.name.removeprefix("image_classification_"), *sample.labels.values()): sample.value
        for family in parsed(answer.body.decode())
        for sample in family.samples
    }
    assert samples["requests_total", "200"] >= 2 and samples["requests_total", "400"] == 1
    assert samples["images_total",] == 2 and samples["requests_lost_total",] == 0
    assert samples["stage_seconds_count", "compute"] == 2
    assert samples["resident_bytes",] > 10 * 2**20


def listening_ports(server: Server) -> set[int]:
    """The TCP ports that the server's processes listen on."""
    inodes = set()
    for pid in (server.process.pid, server.worker()):
        for link in Path(f"/proc/{pid}/fd").iterdir():
            inodes.update(re.findall(r"socket:\[(\d+)\]", str(link.readlink())))
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return {int(row[1].split(":")[1], 16) for row in rows if row[3] == "0A" and row[9] in inodes}


def test_the_server_listens_on_one_port_only(trained_job: Path) -> None:
    with running_server(trained_job / "model", SAGEMAKER_SAFE_PORT_RANGE="25000-25999") as server:
        assert listening_ports(server) == {server.port}


def test_requests_that_wait_together_run_as_one_batch_with_the_same_answers(
    trained_job: Path, tmp_path: Path, small_channels: dict[str, Path]
) -> None:
    from concurrent.futures import ThreadPoolExecutor

    images = [path.read_bytes() for path in sorted(small_channels["validation"].rglob("*.jpg"))]

    def answers(server: Server) -> list[Any]:
        with ThreadPoolExecutor(12) as pool:
            return list(
                pool.map(lambda i: server.invoke(i, Content_Type="image/jpeg").json(), images)
            )

    log = tmp_path / "log"
    settings = {
        "IMAGE_CLASSIFICATION_BATCHING": "on",
        "IMAGE_CLASSIFICATION_MAX_BATCH_SIZE": "8",
        "BUSY_SECONDS": "0",
    }
    model = trained_job / "model"
    with running_server(model) as server:
        alone = answers(server)
    with running_server(model, log=log, **settings) as server:
        together = [answers(server) for _ in range(4)]
    for batch in together:
        for one, other in zip(alone, batch, strict=True):
            assert one == pytest.approx(other, abs=1e-5)
    assert max(line["batch_size"] for line in access_log(log)) > 1
