"""Failures that users of the built-ins report tell what to do, in the first 1,024 characters.

Public issues quote the reasons in `DescribeTrainingJob`; these tests cause the same failures.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.contract import jobs
from tests.contract.conftest import HYPERPARAMETERS
from tests.contract.jobs import run_command, run_train, running_server, write_job, write_pipe

Given = dict[str, object]


def empty_record_file(base: Path) -> None:
    """Preprocessing that found no image."""
    folder = base / "input" / "data" / "train"
    replace_by(folder, "train.rec", b"")


def record_file_without_magic(base: Path) -> None:
    """Images or text under the name of a record file; a manifest without RecordWrapperType."""
    replace_by(base / "input" / "data" / "train", "train.rec", b'{"source-ref": "s3://b/1.jpg"}\n')


def empty_channel(base: Path) -> None:
    """An S3 prefix with nothing below it."""
    replace_by(base / "input" / "data" / "train", None, b"")


def list_of_commas(base: Path) -> None:
    """A list that a spreadsheet has saved."""
    lists = base / "input" / "data" / "train_lst"
    lists.mkdir()
    rows = sorted((base / "input" / "data" / "train").rglob("*.jpg"))
    lines = (f"{number},0,{path.name}\n" for number, path in enumerate(rows))
    (lists / "train.lst").write_text("".join(lines))
    change_channels(base, train_lst={}, validation_lst={})
    validation = base / "input" / "data" / "validation_lst"
    validation.mkdir()
    (validation / "validation.lst").write_text("0\t0\tred/red000.jpg\n")


def manifest_without_record_wrapper(base: Path) -> None:
    """A manifest's lines come through the pipe as they are."""
    folder = base / "input" / "data" / "train"
    replace_by(folder, None, b"")
    folder.rmdir()
    os.mkfifo(folder.with_name("train_0"))
    write_pipe(folder.with_name("train_0"), b'{"source-ref": "s3://bucket/1.jpg", "class": 0}\n')
    change_channels(base, train={"TrainingInputMode": "Pipe"})


def change_channels(base: Path, **channels: dict[str, str]) -> None:
    config = base / "input" / "config" / "inputdataconfig.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | channels))


def no_change(base: Path) -> None:
    """What is wrong is in the hyperparameters."""


def replace_by(folder: Path, name: str | None, content: bytes) -> None:
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    if name:
        (folder / name).write_bytes(content)


@pytest.mark.parametrize(
    ("spoil", "given", "names", "remedy"),
    [
        (empty_record_file, {}, r"Empty .rec file in train channel", r"train\.rec"),
        (record_file_without_magic, {}, r"train\.rec", r"[Mm]agic|not a record"),
        (empty_channel, {}, r"train", r"found none|no image|empty"),
        (list_of_commas, {"num_classes": 3}, r"train\.lst, line 1", r"TAB"),
        (
            manifest_without_record_wrapper,
            {"num_classes": 3, "num_training_samples": 36, "labels": "blue,green,red"},
            r"train_0.*expected the magic 0a23d7ce",
            r"RecordWrapperType=RecordIO",
        ),
        (
            no_change,
            {"mini_batchsize": 8},
            r"Additional hyperparameters are not allowed \('mini_batchsize' was unexpected\)",
            r"did you mean 'mini_batch_size'",
        ),
        (no_change, {"image_shape": "4,32,32"}, r"image_shape='4,32,32'", r"3,224,224"),
        (no_change, {"optimizer": "adamw"}, r"optimizer='adamw'", r"one of sgd"),
        (no_change, {"learning_rate": "fast"}, r"learning_rate='fast'", r"a number"),
        (no_change, {"num_classes": 2}, r"num_classes", r"3 class folders"),
        (no_change, {"backbone": "resnet19"}, r"resnet19", r"resnet18"),
        (
            no_change,
            {"backbone": "resnet18", "use_pretrained_model": 1},
            r"no pretrained weights for resnet18",
            r"set use_pretrained_model=0",
        ),
    ],
    ids=lambda value: value.__name__ if callable(value) else None,
)
def test_a_user_error_is_a_client_error_that_tells_what_to_do(
    tmp_path: Path,
    small_channels: dict[str, Path],
    spoil: Callable[[Path], None],
    given: Given,
    names: str,
    remedy: str,
) -> None:
    base = write_job(tmp_path / "ml", HYPERPARAMETERS | given, small_channels)
    spoil(base)
    done = run_train(base)
    assert done.returncode == 2, done.stdout + done.stderr
    reason = (base / "output" / "failure").read_text()[:1024]
    assert reason.startswith("ClientError: ") and reason.count("\n") == 1
    assert re.search(names, reason), reason
    assert re.search(remedy, reason), reason
    assert "Traceback" not in reason + done.stderr


def test_bad_first_weights_are_found_before_the_framework_is_imported(
    tmp_path: Path, small_channels: dict[str, Path], trained_job: Path
) -> None:
    broken = tmp_path / "packages" / jobs.BACKEND
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text("raise RuntimeError('the framework was imported')")
    path = os.pathsep.join([str(broken.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    with_model = small_channels | {"model": trained_job / "model"}
    cases: list[tuple[Given, dict[str, Path], str]] = [
        (
            {"max_bad_samples": "abc"},
            small_channels,
            "max_bad_samples: expected a count .*got 'abc'",
        ),
        ({"num_layers": 32}, with_model, "backbone resnet20, the job resnet32"),
        ({"use_pretrained_model": 1}, small_channels, "no pretrained weights for resnet20"),
        ({}, small_channels | {"model": small_channels["train"]}, "expected an artifact"),
    ]
    if jobs.BACKEND != "reference":  # which has none
        cases.append(({}, with_model, "the framework was imported"))
    for number, (given, channels, reason) in enumerate(cases):
        base = write_job(tmp_path / str(number), HYPERPARAMETERS | given, channels)
        done = run_command("train", "--base-dir", base, PYTHONPATH=path)
        assert done.returncode == 2, done.stdout + done.stderr
        assert re.search(reason, (base / "output" / "failure").read_text())


def test_a_job_with_fewer_images_than_a_batch_trains(
    tmp_path: Path, small_channels: dict[str, Path]
) -> None:
    given = HYPERPARAMETERS | {"mini_batch_size": 512, "epochs": 1}
    base = write_job(tmp_path / "ml", given, small_channels)
    done = run_train(base)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_gray_model_is_served(tmp_path: Path, small_channels: dict[str, Path]) -> None:
    given = HYPERPARAMETERS | {"image_shape": "1,32,32", "epochs": 1}
    base = write_job(tmp_path / "ml", given, small_channels)
    assert run_train(base).returncode == 0
    image = next((base / "input" / "data" / "validation").rglob("*.jpg"))
    with running_server(base / "model") as server:
        answer = server.invoke(image.read_bytes(), Content_Type="image/jpeg")
    assert answer.status == 200 and len(answer.json()) == 3  # type: ignore[arg-type]


def test_no_secret_is_logged_or_kept(tmp_path: Path, small_channels: dict[str, Path]) -> None:
    secrets = {"AWS_SECRET_ACCESS_KEY": "hunter2", "HF_TOKEN": "hunter2", "DB_PASSWORD": "hunter2"}
    base = write_job(tmp_path / "ml", HYPERPARAMETERS | {"epochs": 1}, small_channels)
    done = run_command("train", "--base-dir", base, **secrets)
    assert done.returncode == 0
    written = [path for folder in ("model", "output") for path in (base / folder).rglob("*")]
    kept = b"".join(path.read_bytes() for path in written if path.is_file())
    assert "hunter2" not in done.stdout + done.stderr and b"hunter2" not in kept

    given = HYPERPARAMETERS | {"aws_secret_access_key": "hunter2", "epochs": 1}
    base = write_job(tmp_path / "unknown", given, small_channels)
    done = run_command("train", "--base-dir", base, **secrets)
    assert done.returncode == 2
    failure = (base / "output" / "failure").read_text()
    assert "aws_secret_access_key" in failure
    assert "hunter2" not in failure + done.stdout + done.stderr
