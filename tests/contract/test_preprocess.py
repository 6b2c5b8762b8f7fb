"""The program `preprocess` as a Processing job runs it, alone and on several hosts."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import ClassFolders
from tests.contract.jobs import run_command


def write_processing_job(
    base: Path, host: str, hosts: list[str], distribution: str = "FullyReplicated"
) -> Path:
    """A made-up /opt/ml of a Processing job, its outputs mounted as the platform does."""
    config = base / "config"
    config.mkdir(parents=True)
    (config / "resourceconfig.json").write_text(json.dumps({"current_host": host, "hosts": hosts}))
    source = {
        "S3Uri": "s3://bucket/images",
        "LocalPath": str(base / "processing" / "input"),
        "S3DataDistributionType": distribution,
    }
    job = {"ProcessingInputs": [{"InputName": "images", "S3Input": source}]}
    (config / "processingjobconfig.json").write_text(json.dumps(job))
    (base / "processing" / "output").mkdir(parents=True)
    return base


def tree_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_two_hosts_together_write_what_one_host_writes(
    tmp_path: Path, write_class_folders: ClassFolders
) -> None:
    hosts = {"one": ["algo-1"], "first": ["algo-1", "algo-2"], "second": ["algo-1", "algo-2"]}
    outputs = {}
    for name, names in hosts.items():
        host = "algo-2" if name == "second" else "algo-1"
        base = write_processing_job(tmp_path / name, host, names)
        write_class_folders(base / "processing" / "input")
        done = run_command(
            "preprocess", "--base-dir", base, "--resize", "32", "--shard-size", "0.01"
        )
        assert done.returncode == 0, done.stderr
        outputs[name] = tree_of(base / "processing" / "output")
    alone, first, second = outputs.values()
    shards = [name for name in alone if name.endswith(".rec")]
    assert len(shards) >= 4
    assert all((name in first) != (name in second) for name in shards)
    assert first.keys() & second.keys() >= {"labels.json"}
    together = {n: c for n, c in (first | second).items() if not n.startswith("findings")}
    assert together == {n: c for n, c in alone.items() if not n.startswith("findings")}


def test_hosts_with_their_own_images_need_the_classes_and_share_them(
    tmp_path: Path, write_class_folders: ClassFolders
) -> None:
    names = ["algo-1", "algo-2"]
    for host, classes in zip(names, (("blue", "green"), ("green", "red")), strict=True):
        base = write_processing_job(tmp_path / host, host, names, "ShardedByS3Key")
        write_class_folders(base / "processing" / "input", classes)
        refused = run_command("preprocess", "--base-dir", base)
        assert refused.returncode == 2
        assert "give the classes with --labels" in refused.stderr
        done = run_command("preprocess", "--base-dir", base, "--labels", "blue,green,red")
        assert done.returncode == 0, done.stderr
        output = base / "processing" / "output"
        assert (output / "train" / f"train-{host}.rec").is_file()
        assert json.loads((output / "labels.json").read_text())["labels"] == [
            "blue",
            "green",
            "red",
        ]


def test_a_host_without_images_writes_no_shard_and_succeeds(
    tmp_path: Path,
) -> None:
    base = write_processing_job(tmp_path, "algo-2", ["algo-1", "algo-2"], "ShardedByS3Key")
    done = run_command("preprocess", "--base-dir", base, "--labels", "a,b")
    assert done.returncode == 0, done.stderr
    assert "this host has no images" in done.stderr
    names = sorted(path.name for path in (base / "processing" / "output").iterdir())
    assert names == ["findings-algo-2.html", "findings-algo-2.json", "labels.json"]


def test_a_table_with_groups_becomes_channels_in_one_command(
    tmp_path: Path, write_class_folders: ClassFolders
) -> None:
    images = write_class_folders(tmp_path / "images")
    paths = sorted(images.rglob("*.jpg"))
    lines = [
        f"{path.name},{path.parent.name},patient{int(path.stem[-3:]) // 2}{path.parent.name[0]}"
        for path in paths
    ]
    listing = tmp_path / "labels.csv"
    listing.write_text("file,label,patient\n" + "\n".join(lines))
    output = tmp_path / "out"
    done = run_command(
        *("preprocess", "--input", images, "--list", listing, "--group-by", "patient"),
        *("--output", output, "--format", "folders", "--resize", "24"),
    )
    assert done.returncode == 0, done.stderr
    groups = dict(line.split(",")[::2] for line in lines)
    found = {
        split: {groups[p.name.partition("-")[2]] for p in (output / split).rglob("*.jpg")}
        for split in ("train", "validation")
    }
    assert found["train"] and found["validation"]
    assert not found["train"] & found["validation"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--shard-size", "-1"], "--shard-size -1.0: expected 0 or more megabytes"),
        (["--shard-size", "nan"], "--shard-size nan"),
        (["--list", "absent.csv"], "--list absent.csv: no such file, here or in"),
        (["--group-by", "x"], "--group-by x: only a CSV or a manifest"),
        (["--labels", "blue,green"], "class 'red' is not in the label map"),
        (["--labels", "[1]"], "expected class names as a JSON list"),
    ],
)
def test_an_error_on_the_command_line_is_reported_and_nothing_is_written(
    tmp_path: Path, write_class_folders: ClassFolders, arguments: list[str], message: str
) -> None:
    images = write_class_folders(tmp_path / "images", per_class=3)
    output = tmp_path / "out"
    done = run_command("preprocess", "--input", images, "--output", output, *arguments)
    assert done.returncode == 2
    assert "ClientError: " in done.stderr and message in done.stderr
    assert not output.exists()


def test_a_ratio_for_an_input_with_splits_is_refused(
    tmp_path: Path, write_class_folders: ClassFolders
) -> None:
    write_class_folders(tmp_path / "in" / "train", per_class=3)
    write_class_folders(tmp_path / "in" / "val", per_class=1, seed=1)
    command = ("preprocess", "--input", tmp_path / "in", "--output", tmp_path / "out")
    refused = run_command(*command, "--train-ratio", "0.5")
    assert refused.returncode == 2 and "has splits of its own" in refused.stderr
    done = run_command(*command)
    assert done.returncode == 0, done.stderr
    assert "train: 9 images" in done.stdout and "validation: 3 images" in done.stdout


def test_an_output_name_that_is_not_utf_8_is_in_the_summary(
    tmp_path: Path, write_class_folders: ClassFolders
) -> None:
    images = write_class_folders(tmp_path / "images")
    output = tmp_path / os.fsdecode(b"out-\xe9")
    command = ("preprocess", "--input", images, "--output", output, "--resize", "32")
    done = run_command(*command, PYTHONIOENCODING="utf-8:strict")
    assert done.returncode == 0, done.stderr
    assert "out-\\udce9/train" in done.stdout and (output / "train").is_dir()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_job_that_is_stopped_leaves_nothing_half_written(
    tmp_path: Path, write_class_folders: ClassFolders, number: signal.Signals
) -> None:
    images = write_class_folders(tmp_path / "images", per_class=60)
    (tmp_path / "out").mkdir()
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "image_classification", "preprocess"),
            *("--input", images, "--output", tmp_path / "out"),
            *("--resize", "1500", "--workers", "1", "--shard-size", "0"),
        ],
        stderr=subprocess.PIPE,
    )
    deadline = time.monotonic() + 30
    while not any((tmp_path / "out").rglob("*.partial")) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(number)
    process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("format_name", ["recordio", "folders"])
def test_a_full_disk_is_a_clear_error_and_nothing_is_left(
    tmp_path: Path, write_class_folders: ClassFolders, format_name: str
) -> None:
    images = write_class_folders(tmp_path / "images", per_class=12, size=(200, 200))
    command = [
        *(sys.executable, "-m", "image_classification", "preprocess", "--input", str(images)),
        *("--output", str(tmp_path / "out"), "--format", format_name),
    ]
    # A limit of 16 KB a file stands in for a full disk.
    script = f"ulimit -f 16; exec {shlex.join(command)}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert "ClientError: " in done.stderr and "cannot be written: File too large" in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images"]
