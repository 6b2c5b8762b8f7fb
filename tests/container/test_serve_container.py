"""The serve image with `docker run`, as an unprivileged container."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from image_classification.records.format import RecordHeader, frame_parts, pack_image_record
from tests.container.engine import HARDENED, docker, inspect, run, running, serving
from tests.contract.jobs import Answer

TIGHT = [*HARDENED, "--memory", "400m", "--memory-swap", "400m", "--pids-limit", "128"]


@pytest.fixture(scope="module")
def photo(trained: Path) -> bytes:
    """A photograph of the class green."""
    folder = trained / "input" / "data" / "validation" / "green"
    return next(folder.iterdir()).read_bytes()


def test_an_unprivileged_container_with_a_read_only_root_returns_labels(
    serve_image: str, trained: Path, photo: bytes, record_figure: Callable[[str, str], None]
) -> None:
    with serving(serve_image, trained / "model") as server:
        answer = server.invoke(
            photo, Content_Type="image/jpeg", Accept="application/json;verbose"
        ).json()
        assert answer["labels"] == ["blue", "green", "red"]  # type: ignore[index]
        assert answer["predicted_label"] == "green"  # type: ignore[index]
        record_figure(
            "docker run serve to the first ping of 200", f"{server.seconds_to_ping:.2f} s"
        )


def test_the_serve_image_serves_without_an_argument(serve_image: str, trained: Path) -> None:
    mount = ["-v", f"{trained / 'model'}:/opt/ml/model:ro"]
    with running(serve_image, options=mount) as container:
        container.wait_for("(?i)serving|listening", 30)
        assert container.stop(30) == 0


def test_sagemaker_bind_to_port_sets_the_port(serve_image: str, trained: Path) -> None:
    options = ["-v", f"{trained / 'model'}:/opt/ml/model:ro", "-e", "SAGEMAKER_BIND_TO_PORT=9000"]
    code = "import urllib.request as r; print(r.urlopen('http://127.0.0.1:9000/ping').status)"
    with running(serve_image, "serve", options=options) as container:
        deadline = time.monotonic() + 30
        while (done := docker("exec", container.name, "python3", "-c", code)).returncode:
            assert time.monotonic() < deadline, container.log()
        assert done.stdout.strip() == "200"


def test_many_large_photographs_at_once_stay_within_400_mb(
    serve_image: str, trained: Path, photo: bytes, tmp_path: Path
) -> None:
    large = _photograph(4000, 3000, tmp_path)
    with serving(serve_image, trained / "model", TIGHT) as server:
        with ThreadPoolExecutor(24) as pool:
            bodies = [large, photo] * 24
            answers = list(pool.map(lambda b: server.invoke(b, Content_Type="image/jpeg"), bodies))
        assert {answer.status for answer in answers} <= {200, 503}
        assert sum(answer.status == 200 for answer in answers) > 24
        state = inspect("container", server.container.name)["State"]
        assert state["Running"] and not state["OOMKilled"]
        assert server.invoke(photo, Content_Type="image/jpeg").status == 200


def _photograph(width: int, height: int, folder: Path) -> bytes:
    from PIL import Image

    path = folder / "large.jpg"
    noise = Image.effect_noise((width // 4, height // 4), 60).resize((width, height))
    noise.convert("RGB").save(path, quality=85)  # about 2 MB for 12 megapixels
    return path.read_bytes()


def test_sigterm_finishes_running_requests_and_exits_with_code_0(
    serve_image: str, trained: Path, tmp_path: Path
) -> None:
    large = _photograph(4000, 3000, tmp_path)
    answers: list[Answer] = []
    with serving(serve_image, trained / "model", [*HARDENED, "--cpus", "0.5"]) as server:
        senders = [
            threading.Thread(
                target=lambda: answers.append(server.invoke(large, Content_Type="image/jpeg"))
            )
            for _ in range(4)
        ]
        for sender in senders:
            sender.start()
        time.sleep(0.2)  # four decodes of 12 megapixels take half a CPU more than a second
        assert server.container.stop(30) == 0, server.container.log()
        for sender in senders:
            sender.join()
    assert [answer.status for answer in answers] == [200] * 4


def test_the_page_is_off_on_the_platform(serve_image: str, trained: Path) -> None:
    with serving(serve_image, trained / "model") as server:
        for path in ("/", "/page.js"):
            assert server.get(path).status == 404
    wanted = [*HARDENED, "-e", "IMAGE_CLASSIFICATION_PAGE=true"]
    with serving(serve_image, trained / "model", wanted) as server:
        page = server.get("/")
        assert page.status == 200 and b"Choose images" in page.body
        assert page.headers["Content-Security-Policy"].startswith("default-src 'none'")
        assert server.get("/page.js").status == server.get("/page.css").status == 200


def test_a_transform_job_reads_the_execution_parameters_and_sends_several_images(
    serve_image: str, trained: Path, photo: bytes
) -> None:
    given = ["SAGEMAKER_BATCH=true", "IMAGE_CLASSIFICATION_BATCH_PLACEHOLDER=true"]
    options = [*HARDENED, "--cpus", "2", *(word for name in given for word in ("-e", name))]
    records = [pack_image_record(RecordHeader(0.0, 1), photo), b"no image", photo]
    body = b"".join(b"".join(frame_parts(record)) for record in records)
    with serving(serve_image, trained / "model", options) as server:
        said = json.loads(server.get("/execution-parameters").body)
        assert said == {
            "MaxConcurrentTransforms": 2,
            "BatchStrategy": "SINGLE_RECORD",
            "MaxPayloadInMB": 16,
        }
        answer = server.invoke(body, Content_Type="application/x-recordio")
        lines = [json.loads(line) for line in answer.body.splitlines()]
        assert [list(line) for line in lines] == [["prediction"], ["error"], ["prediction"]]
        single = server.invoke(b"Bud1", Content_Type="application/x-image")
        assert single.status == 200 and list(json.loads(single.body)) == ["error"]


def test_own_handlers_run_in_the_unchanged_image(
    serve_image: str, trained: Path, photo: bytes, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    shutil.copytree(trained / "model", model)
    (model / "code").mkdir()
    (model / "code" / "inference.py").write_text(
        "from sagemaker_inference import encoder\n\n\n"
        "def output_fn(results, accept):\n"
        "    return encoder.encode([len(r.probabilities) for r in results], accept)\n"
    )
    options = [*TIGHT, "-e", "SAGEMAKER_PROGRAM=inference.py"]
    with serving(serve_image, model, options) as server:
        answer = server.invoke(photo, Content_Type="image/jpeg")
        classes = len(json.loads((model / "labels.json").read_text())["labels"])
        assert (answer.status, json.loads(answer.body)) == (200, [classes])


def test_an_invalid_model_ends_the_container_with_a_message(
    serve_image: str, tmp_path: Path
) -> None:
    (tmp_path / "model").mkdir()
    done = run(serve_image, "serve", volumes={tmp_path / "model": "/opt/ml/model"})
    assert done.returncode == 2
    assert "ClientError: " in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def test_train_in_the_serve_image_names_the_train_image(serve_image: str) -> None:
    done = run(serve_image, "train")
    assert done.returncode == 2
    assert "image-classification-train" in done.stderr


@pytest.mark.shared
def test_every_hard_image_gets_the_status_in_its_manifest(
    serve_image: str, trained: Path, shared: Path
) -> None:
    hard = shared / "data" / "hard"
    files = json.loads((hard / "manifest.json").read_text())["files"]
    expected = {"decode": {200}, "refuse": {400}, "either": {200, 400}}
    # A progressive JPEG of 17 megapixels among them costs 106 MB, which fits from 512 MiB on.
    larger = [word.replace("400m", "512m") for word in TIGHT]
    with serving(serve_image, trained / "model", larger) as server:
        for entry in files:
            body = (hard / entry["file"]).read_bytes()
            status = server.invoke(body, Content_Type="application/x-image").status
            assert status in expected[entry["expect"]], entry
        assert server.get("/ping").status == 200
