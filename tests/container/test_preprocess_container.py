"""The programs `preprocess` and `im2rec` of the train image, on mounted folders."""

from __future__ import annotations

from pathlib import Path

from image_classification.images.jpeg_regions import read_layout
from image_classification.records.reader import RecordFile
from tests.conftest import ClassFolders
from tests.container.engine import run
from tests.contract.jobs import run_command
from tests.contract.test_preprocess import tree_of, write_processing_job

HOSTS = {"one": ["algo-1"], "first": ["algo-1", "algo-2"], "second": ["algo-1", "algo-2"]}


def test_two_hosts_of_a_processing_job_write_the_same_files_as_one(
    image: str, write_class_folders: ClassFolders, tmp_path: Path
) -> None:
    outputs = {}
    for name, hosts in HOSTS.items():
        host = "algo-2" if name == "second" else "algo-1"
        base = write_processing_job(tmp_path / name, host, hosts)
        write_class_folders(base / "processing" / "input")
        done = run(
            image, "preprocess", "--resize", "32", "--shard-size", "0.01", volumes={base: "/opt/ml"}
        )
        assert done.returncode == 0, done.stdout + done.stderr
        outputs[name] = tree_of(base / "processing" / "output")
    alone, first, second = (
        {path: content for path, content in tree.items() if not path.startswith("findings")}
        for tree in outputs.values()
    )
    shards = [path for path in alone if path.endswith(".rec")]
    assert len(shards) >= 4
    assert all((path in first) != (path in second) for path in shards)
    assert first | second == alone


def test_the_image_writes_every_format(
    image: str, write_class_folders: ClassFolders, tmp_path: Path
) -> None:
    images = write_class_folders(tmp_path / "images")
    for name, pattern in (
        ("recordio", "*.rec"),
        ("folders", "*/*.jpg"),
        ("tfrecord", "*tfrecord*"),
    ):
        output = tmp_path / name
        output.mkdir()
        mounts = {images: "/opt/ml/processing/input", output: "/opt/ml/processing/output"}
        done = run(image, "preprocess", "--format", name, volumes=mounts)
        assert done.returncode == 0, done.stdout + done.stderr
        assert list((output / "train").glob(pattern)), name
        assert (output / "findings.html").is_file()


def test_the_image_can_write_segmented_records(
    image: str, write_class_folders: ClassFolders, tmp_path: Path
) -> None:
    images = write_class_folders(tmp_path / "images")
    output = tmp_path / "output"
    output.mkdir()
    mounts = {images: "/opt/ml/processing/input", output: "/opt/ml/processing/output"}
    done = run(image, "preprocess", "--segment", volumes=mounts)
    assert done.returncode == 0, done.stdout + done.stderr
    with RecordFile(output / "train" / "train.rec") as records:
        layout = read_layout(records.read_image(0).content)
    assert layout is not None and layout.interval


def test_im2rec_writes_the_same_bytes_in_the_image_and_outside(
    image: str, write_class_folders: ClassFolders, tmp_path: Path
) -> None:
    write_class_folders(tmp_path / "in" / "images")
    write_class_folders(tmp_path / "out" / "images")
    commands = (
        ["--list", "--recursive", "--train-ratio", "0.75", "set", "images"],
        ["--pass-through", "set_train", "images"],
    )
    for command in commands:
        mount = {tmp_path / "in": "/work"}
        done = run(image, "im2rec", *command, volumes=mount, options=["--workdir", "/work"])
        assert done.returncode == 0, done.stdout + done.stderr
        im2rec = "image_classification.cli.im2rec"
        done = run_command(*command, program=im2rec, folder=tmp_path / "out")
        assert done.returncode == 0, done.stderr
    inside, outside = tree_of(tmp_path / "in"), tree_of(tmp_path / "out")
    assert inside == outside
    assert {"set_train.lst", "set_val.lst", "set_train.rec", "set_train.idx"} <= set(inside)
    with RecordFile(tmp_path / "in" / "set_train.rec") as records:
        assert len(records) == 27
    assert (tmp_path / "in" / "set_train.rec").stat().st_mode & 0o666 == 0o666
