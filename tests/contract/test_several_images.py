"""A real server answers several images in one request, in order, and names unusable ones."""

from __future__ import annotations

import base64
import csv
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from image_classification.records.format import RecordHeader, frame_parts, pack_image_record
from tests.contract.jobs import Server, running_server

CLASSES = ["blue", "green", "red"]
VERBOSE = "application/json;verbose"


@pytest.fixture(scope="module")
def server(trained_job: Path) -> Iterator[Server]:
    with running_server(trained_job / "model", MAX_CONTENT_LENGTH="200000") as running:
        yield running


@pytest.fixture(scope="module")
def files(small_channels: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """An image of each class, with a broken one in the middle."""
    broken = tmp_path_factory.mktemp("broken") / "broken.jpg"
    broken.write_bytes(b"\xff\xd8\xff\xe0 cut off")
    blue, green, red = (small_channels["validation"] / c / f"{c}000.jpg" for c in CLASSES)
    return [red, blue, broken, green]


EXPECTED = ["red", "blue", None, "green"]


def predicted(answers: list[dict[str, object]]) -> list[object]:
    """The label of each answer; None for an error."""
    for answer in answers:
        assert ("error" in answer) != ("predicted_label" in answer)
    return [answer.get("predicted_label") for answer in answers]


def lines(files: list[Path]) -> bytes:
    texts = [base64.b64encode(path.read_bytes()).decode() for path in files]
    return "".join(json.dumps({"image": text}) + "\n" for text in texts).encode()


def records(files: list[Path]) -> bytes:
    packed = [
        pack_image_record(RecordHeader(1.0, n), path.read_bytes()) for n, path in enumerate(files)
    ]
    return b"".join(b"".join(frame_parts(payload)) for payload in packed)


def test_curl_uploads_a_form_of_several_files(server: Server, files: list[Path]) -> None:
    command = ["curl", "--silent", "--header", f"Accept: {VERBOSE}"]
    for path in files:
        command += ["--form", f"image=@{path}"]
    url = f"http://127.0.0.1:{server.port}/invocations"
    done = subprocess.run([*command, url], capture_output=True, check=True)
    assert predicted(json.loads(done.stdout)) == EXPECTED


def test_records_are_answered_in_order(server: Server, files: list[Path]) -> None:
    answer = server.invoke(records(files), Content_Type="application/x-recordio", Accept=VERBOSE)
    assert predicted(answer.json()) == EXPECTED  # type: ignore[arg-type]


def test_each_of_many_images_gets_its_own_answer(server: Server, files: list[Path]) -> None:
    """More than run together, with broken ones at changing places."""
    many = [files[(3 * n + n // 7) % 4] for n in range(75)]
    said = server.invoke(records(many), Content_Type="application/x-recordio", Accept=VERBOSE)
    expected = [EXPECTED[files.index(path)] for path in many]
    assert predicted(said.json()) == expected  # type: ignore[arg-type]


def test_json_lines_are_answered_with_json_lines(server: Server, files: list[Path]) -> None:
    answer = server.invoke(lines(files), Content_Type="application/jsonlines")
    assert answer.headers["Content-Type"] == "application/jsonlines"
    said = [json.loads(line) for line in answer.body.splitlines()]
    assert [list(line) for line in said] == [
        ["prediction"],
        ["prediction"],
        ["error"],
        ["prediction"],
    ]


def test_an_array_of_base64_is_answered_with_an_array(server: Server, files: list[Path]) -> None:
    body = json.dumps([json.loads(line) for line in lines(files).splitlines()]).encode()
    answer = server.invoke(body, Content_Type="application/json", Accept=VERBOSE)
    assert predicted(answer.json()) == EXPECTED  # type: ignore[arg-type]


def test_one_base64_image_is_answered_as_its_bytes_are(server: Server, files: list[Path]) -> None:
    body = lines(files[:1]).strip()
    answer = server.invoke(body, Content_Type="application/json")
    assert answer.json() == server.invoke(files[0].read_bytes(), Content_Type="image/jpeg").json()
    broken = server.invoke(lines(files[2:3]).strip(), Content_Type="application/json")
    assert broken.status == 400


def test_csv_has_a_row_for_each_image_of_a_request(server: Server, files: list[Path]) -> None:
    answer = server.invoke(
        records(files), Content_Type="application/x-recordio", Accept="text/csv;top_k=1"
    )
    rows = list(csv.reader(answer.body.decode().splitlines()))
    assert [row[0] for row in rows[:2] + rows[3:]] == ["red", "blue", "green"]
    assert rows[2][0].startswith("error: ")


def test_a_form_larger_than_the_limit_is_413(server: Server) -> None:
    answer = server.invoke(b"-" * 200_001, Content_Type="multipart/form-data; boundary=B")
    assert answer.status == 413


def test_accept_or_the_environment_selects_classes(
    trained_job: Path, files: list[Path], server: Server
) -> None:
    red = files[0].read_bytes()
    chosen = server.invoke(red, Accept=f"{VERBOSE};top_k=2", Content_Type="image/jpeg").json()
    assert len(chosen["labels"]) == len(chosen["probabilities"]) == 2  # type: ignore[index,call-overload]
    with running_server(trained_job / "model", IMAGE_CLASSIFICATION_TOP_K="1") as limited:
        answer = limited.invoke(red, Accept=VERBOSE, Content_Type="image/jpeg").json()
        assert answer["labels"] == ["red"]  # type: ignore[index,call-overload]
        everything = limited.invoke(red, Content_Type="image/jpeg").json()
        assert len(everything) == 3  # type: ignore[arg-type]


def test_a_refusal_fits_into_what_the_platform_passes_on(server: Server) -> None:
    answer = server.invoke(b"x", Content_Type="image/jpeg", Accept="text/" + "x" * 4000)
    assert answer.status == 406 and len(answer.body) <= 2048 and json.loads(answer.body)["error"]


def test_custom_attributes_are_returned(server: Server, files: list[Path]) -> None:
    name = "X-Amzn-SageMaker-Custom-Attributes"
    red = files[0].read_bytes()
    headers = {"Content_Type": "image/jpeg", name: "trace=1; c000b4f9"}
    assert server.invoke(red, **headers).headers[name] == "trace=1; c000b4f9"
    assert name not in server.invoke(red, Content_Type="image/jpeg").headers
    refused = server.invoke(red, **(headers | {name: "x" * 1025}))
    assert refused.status == 400 and "1024" in refused.json()["error"]  # type: ignore[index,call-overload]


def test_a_transform_job_is_told_what_to_send(trained_job: Path, server: Server) -> None:
    answer = server.get("/execution-parameters")
    said = answer.json()
    assert answer.headers["Content-Type"] == "application/json" and isinstance(said, dict)
    assert said["BatchStrategy"] == "SINGLE_RECORD" and said["MaxPayloadInMB"] == 1
    limits = {"IMAGE_CLASSIFICATION_CPU_COUNT": "64", "SAGEMAKER_MAX_PAYLOAD_IN_MB": ""}
    with running_server(trained_job / "model", **limits) as large:
        said = json.loads(large.get("/execution-parameters").body)
        assert said["MaxConcurrentTransforms"] == 16 and said["MaxPayloadInMB"] == 6
    chosen = {
        "SAGEMAKER_MAX_CONCURRENT_TRANSFORMS": "3",
        "SAGEMAKER_MAX_PAYLOAD_IN_MB": "20",
        "SAGEMAKER_BATCH_STRATEGY": "MULTI_RECORD",
    }
    with running_server(trained_job / "model", SAGEMAKER_BATCH="true", **chosen) as job:
        assert json.loads(job.get("/execution-parameters").body) == {
            "MaxConcurrentTransforms": 3,
            "BatchStrategy": "MULTI_RECORD",
            "MaxPayloadInMB": 20,
        }
        body = b"\xff\xd8" + b"\0" * (18 << 20)  # larger than the limit without the job's payload
        assert job.invoke(body, Content_Type="image/jpeg").status == 400


def test_the_local_mode_of_the_sdk_is_told_in_its_own_spelling(trained_job: Path) -> None:
    """It sets True where the service sets true, and fails on the service's spelling."""
    with running_server(trained_job / "model", SAGEMAKER_BATCH="True") as job:
        said = json.loads(job.get("/execution-parameters").body)
        assert said["BatchStrategy"] == "SingleRecord"


def test_a_transform_job_with_placeholders_continues_after_a_bad_file(
    trained_job: Path, files: list[Path]
) -> None:
    settings = {"SAGEMAKER_BATCH": "true", "IMAGE_CLASSIFICATION_BATCH_PLACEHOLDER": "true"}
    with running_server(trained_job / "model", **settings) as job:
        for body in (files[2].read_bytes(), b"", b"Bud1 of a .DS_Store"):
            answer = job.invoke(body, Content_Type="application/x-image")
            assert answer.status == 200 and list(json.loads(answer.body)) == ["error"]
            assert answer.body.count(b"\n") == 1
        answer = job.invoke(files[0].read_bytes(), Content_Type="application/x-image")
        assert list(json.loads(answer.body)) == ["prediction"]
    settings["IMAGE_CLASSIFICATION_BATCH_PLACEHOLDER"] = "false"
    with running_server(trained_job / "model", **settings) as job:
        assert job.invoke(files[2].read_bytes(), Content_Type="image/jpeg").status == 400


@pytest.mark.shared
def test_every_hard_image_is_answered_as_its_manifest_says_alone_and_in_a_list(
    trained_job: Path, shared: Path
) -> None:
    hard = shared / "data" / "hard"
    entries = json.loads((hard / "manifest.json").read_text())["files"]
    expected = {"decode": {200}, "refuse": {400}, "either": {200, 400}}
    with running_server(trained_job / "model", MAX_CONTENT_LENGTH=str(64 << 20)) as server:
        statuses = []
        for entry in entries:
            body = (hard / entry["file"]).read_bytes()
            answer = server.invoke(body, Content_Type="application/x-image")
            assert answer.status in expected[entry["expect"]], (entry["file"], answer.body)
            statuses.append(answer.status)
        body = lines([hard / entry["file"] for entry in entries])
        together = server.invoke(body, Content_Type="application/jsonlines")
        said = ["error" in json.loads(line) for line in together.body.splitlines()]
        assert said == [status == 400 for status in statuses]
        assert server.get("/ping").status == 200
