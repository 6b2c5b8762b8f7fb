"""`train DATA`: what it reads as which channels, where a run goes, and that no model is lost."""

from __future__ import annotations

import csv
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from image_classification.api.runs import resume_command, run_into, run_of_data
from image_classification.artifact import LABELS_FILE, MANIFEST_FILE, read_artifact, write_artifact
from image_classification.cli import main
from image_classification.errors import ChannelError, DataError, UsageError
from image_classification.images.preprocessing import Preprocessing
from image_classification.labels.label_map import LabelMap
from image_classification.training.inputs import Inputs, open_inputs
from image_classification.training.request import read_request
from tests.conftest import ClassFolders

CLASSES = ("blue", "green", "red")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory: runs go into it."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def flowers(tmp_path: Path, write_class_folders: ClassFolders) -> Path:
    return write_class_folders(tmp_path / "flowers", per_class=5)


def write_model(folder: Path, labels: tuple[str, ...]) -> None:
    """Write an artifact that no job needs to train."""
    description = {"interface": "mxnet", "backend": "torch", "backbone": "resnet20"}
    writers = {
        "model.onnx": lambda path: path.write_bytes(b"graph"),
        "weights.safetensors": lambda path: path.write_bytes(b"weights"),
    }
    write_artifact(folder, description, LabelMap(labels), Preprocessing(32, 32), writers)


def opened(data: Path, **given: str) -> tuple[str, Inputs]:
    """The interface and the data of the job that trains on `data`."""
    with run_of_data(data, Path("out"), given) as run:
        request = read_request(run.paths, run.settings)
        training = request.interface.training_channel
        return request.interface.name, open_inputs(request.channels, request.settings, training)


def sizes(inputs: Inputs) -> dict[str, int]:
    return {name: len(source) for name, source in inputs.splits.items()}


def test_class_folders_get_a_stratified_validation_split_that_never_changes(flowers: Path) -> None:
    _, first = opened(flowers)
    _, second = opened(flowers)
    assert sizes(first) == {"train": 12, "validation": 3}
    assert sorted(first.validation.class_indices.tolist()) == [0, 1, 2]
    assert [first.validation.key(i) for i in range(3)] == [
        second.validation.key(i) for i in range(3)
    ]


def test_an_unpacked_archive_is_read_one_folder_deeper(flowers: Path, tmp_path: Path) -> None:
    shutil.copytree(flowers, tmp_path / "download" / "flower_photos")
    (tmp_path / "download" / "LICENSE.txt").write_text("free")
    assert opened(tmp_path / "download")[1].labels.names == CLASSES


def test_the_folders_of_splits_are_the_channels_of_the_job(flowers: Path, tmp_path: Path) -> None:
    for split in ("train", "val", "test"):
        shutil.copytree(flowers, tmp_path / "root" / split)
    assert sizes(opened(tmp_path / "root")[1]) == {"train": 15, "validation": 15, "test": 15}


@pytest.mark.parametrize("names_the_table", [True, False])
def test_a_table_gives_the_classes_of_the_images_next_to_it(
    flowers: Path, tmp_path: Path, names_the_table: bool
) -> None:
    root = tmp_path / "photos"
    shutil.copytree(flowers, root / "images")
    rows = [(p.relative_to(root), p.parent.name.upper()) for p in sorted(root.rglob("*.jpg"))]
    flat = root / "flat"
    flat.mkdir()
    for path, _ in rows:
        (root / path).rename(flat / path.name)
    shutil.rmtree(root / "images")
    with (root / "labels.csv").open("w") as file:
        csv.writer(file).writerows([("file", "label"), *((p.name, label) for p, label in rows)])
    _, inputs = opened(root / "labels.csv" if names_the_table else root)
    assert inputs.labels.names == ("BLUE", "GREEN", "RED")
    assert sizes(inputs) == {"train": 12, "validation": 3}
    assert "blue" in inputs.training.key(0)  # the name of the file is not lost


def test_the_lists_of_labels_name_the_images_of_the_table_and_not_their_copies(
    flowers: Path, tmp_path: Path
) -> None:
    rows = [(p.relative_to(flowers), p.parent.name) for p in sorted(flowers.rglob("*.jpg"))]
    with (flowers / "labels.csv").open("w") as file:
        csv.writer(file).writerows([("file", "label"), *rows])
    with run_of_data(flowers / "labels.csv", Path("out")) as run:
        copies = sorted(path for path in run.paths.channel_folders["training"].rglob("*.jpg"))
        listing = Path("out/label-review-train.csv")
        lines = [f"{copy.parent.name}/{copy.name},{copy.parent.name},,,\n" for copy in copies]
        listing.write_text("path,label,problem,action,was\n" + "".join(lines))
        run.finish(is_complete=True)
    with listing.open(newline="") as file:
        found = {row["path"]: row["label"] for row in csv.DictReader(file)}
    assert found == {str(path): label for path, label in rows}


def test_a_table_of_several_classes_an_image_trains_a_model_with_several(
    flowers: Path, tmp_path: Path
) -> None:
    paths = sorted(p.relative_to(flowers) for p in flowers.rglob("*.jpg"))
    rows = [
        (path, f"{path.parent.name}|{'dim' if n % 2 else 'sharp'}") for n, path in enumerate(paths)
    ]
    with (flowers / "tags.csv").open("w") as file:
        csv.writer(file).writerows([("file", "tags"), *rows])
    interface, inputs = opened(flowers / "tags.csv")
    assert interface == "mxnet" and inputs.training.multi_hot is not None
    assert "(blue/blue" in inputs.training.key(0) + inputs.validation.key(0), "the original files"
    with run_of_data(flowers / "tags.csv", Path("out")) as run:
        assert run.settings["small_images"] == "enlarge"  # as for class folders
    assert inputs.labels.names == ("blue", "dim", "green", "red", "sharp")


def test_records_train_whether_their_folder_file_or_list_is_named(
    flowers: Path, tmp_path: Path
) -> None:
    channels = tmp_path / "channels"
    assert main(["preprocess", "--input", str(flowers), "--output", str(channels)]) == 0
    assert sizes(opened(channels)[1]) == {"train": 12, "validation": 3}
    for name in ("train", "train/train.rec", "train/train.lst"):
        _, inputs = opened(channels / name)
        assert inputs.labels.names == CLASSES, name
        assert sizes(inputs) == {"train": 9, "validation": 3}, name
    together = tmp_path / "together"
    together.mkdir()
    for split in ("train", "validation"):
        for ending in ("rec", "idx"):
            shutil.copy(channels / split / f"{split}.{ending}", together)
    shutil.copy(channels / LABELS_FILE, together)
    assert sizes(opened(together)[1]) == {"train": 12, "validation": 3}


def test_an_archive_or_nothing_is_refused_with_what_to_do_and_leaves_no_folder(
    flowers: Path, tmp_path: Path, elsewhere: Path
) -> None:
    archive = shutil.make_archive(str(tmp_path / "flowers"), "zip", flowers)
    with pytest.raises(ChannelError, match="unpack it"):
        opened(Path(archive))
    with pytest.raises(DataError, match="no such file or folder"):
        opened(tmp_path / "flower")
    with pytest.raises(DataError, match="expected one folder for each class"):
        (tmp_path / "empty").mkdir()
        opened(tmp_path / "empty")
    assert list(elsewhere.iterdir()) == []


def test_the_recipe_yields_to_the_users_own_hyperparameters(flowers: Path) -> None:
    def settings(**given: str) -> dict[str, str]:
        with run_of_data(flowers, Path("out"), given) as run:
            return dict(run.settings)

    assert settings() == {"preset": "transfer"}
    assert settings(epochs="3") == {"preset": "transfer", "epochs": "3"}
    assert settings(preset="scratch") == {"preset": "scratch"}
    assert settings(preset="") == {}


def test_each_run_has_the_next_number_also_where_an_older_one_is_gone(
    flowers: Path, elsewhere: Path
) -> None:
    for number in (1, 2, 7):
        (elsewhere / "runs" / f"flowers-{number}").mkdir(parents=True)
    (elsewhere / "runs" / "flowers-x9").mkdir()
    with run_of_data(flowers) as run:
        assert run.folder == Path("runs/flowers-8")
    odd = flowers.with_name("my fl:owers &")
    flowers.rename(odd)
    with run_of_data(odd) as run:
        assert run.folder == Path("runs/my-fl-owers-1")


def test_an_output_inside_the_data_is_refused(
    flowers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(flowers)
    with pytest.raises(UsageError, match="inside the data"), run_of_data(Path(".")):
        pass
    assert sorted(path.name for path in flowers.iterdir()) == list(CLASSES)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A folder with a model, and a file of the user."""
    write_model(tmp_path / "model", ("old", "older"))
    (tmp_path / "model" / "notes.txt").write_text("mine")
    return tmp_path / "model"


def test_a_model_is_not_overwritten_unless_the_user_asks_for_it(flowers: Path, model: Path) -> None:
    before = {path.name: path.read_bytes() for path in model.iterdir()}
    with pytest.raises(UsageError, match=r"holds a model already.*--overwrite"):
        with run_of_data(flowers, model):
            pass
    with pytest.raises(UsageError, match="holds a model already"), run_into(model):
        pass
    assert {path.name: path.read_bytes() for path in model.iterdir()} == before


def test_overwriting_replaces_the_model_at_the_end_and_keeps_the_users_files(
    flowers: Path, model: Path
) -> None:
    (model / "weights-last.safetensors").write_bytes(b"not listed: not ours")
    (model / "new.123.partial").mkdir()  # of a run that was killed
    with run_of_data(flowers, model, overwrites=True) as run:
        assert run.paths.artifact is not None and run.paths.artifact != model
        write_model(run.paths.artifact, ("new", "newer"))
        assert read_artifact(model).labels.names == ("old", "older")
        run.finish(is_complete=True)
    assert read_artifact(model).labels.names == ("new", "newer")
    assert (model / "notes.txt").read_text() == "mine"
    assert [path.name for path in model.iterdir() if path.is_dir()] == []


def test_a_job_that_fails_leaves_the_model_that_it_should_replace(
    flowers: Path, model: Path
) -> None:
    before = {path.name: path.read_bytes() for path in model.iterdir()}
    with pytest.raises(DataError), run_of_data(flowers, model, overwrites=True) as run:
        assert run.paths.artifact is not None
        write_model(run.paths.artifact, ("new", "newer"))
        (run.paths.artifact / MANIFEST_FILE).unlink()
        raise DataError("the disk is full")
    assert {path.name: path.read_bytes() for path in model.iterdir()} == before


def test_an_interrupted_run_is_resumed_on_request_and_never_begun_again_by_chance(
    flowers: Path, elsewhere: Path
) -> None:
    with pytest.raises(UsageError, match="no run of runs/flowers-"):
        with run_of_data(flowers, resumes=True):
            pass
    for number in (1, 2):
        with pytest.raises(KeyboardInterrupt), run_of_data(flowers) as run:
            assert run.paths.checkpoints is not None
            (run.paths.checkpoints / "checkpoint-0000.json").write_text("{}")
            raise KeyboardInterrupt
        assert run.folder == Path(f"runs/flowers-{number}")
    with pytest.raises(UsageError, match=r"interrupted run.*--resume"):
        with run_of_data(flowers, Path("runs/flowers-1")):
            pass
    with run_of_data(flowers, resumes=True) as run:
        assert run.folder == Path("runs/flowers-2")
        run.finish(is_complete=True)
    assert not (elsewhere / "runs" / "flowers-2" / "checkpoints").exists()
    with pytest.raises(UsageError, match="no checkpoint to resume from"):
        with run_of_data(flowers, Path("runs/flowers-2"), resumes=True):
            pass
    with run_of_data(flowers, Path("runs/flowers-1"), overwrites=True) as run:
        assert run.paths.checkpoints is not None and not list(run.paths.checkpoints.iterdir())


def test_a_command_that_cannot_resume_names_the_one_that_can(
    flowers: Path, elsewhere: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with run_of_data(flowers, can_resume=False) as run:
        assert run.paths.checkpoints is not None and run.folder is not None
        (run.paths.checkpoints / "checkpoint-0000.json").write_text("{}")
        command = resume_command(Path("my flowers"), run.folder, {"learning_rate": "0.09"})
        replace(run, command=command).finish(is_complete=False)
    assert command == (
        "image-classification train 'my flowers' --resume --output runs/flowers-1 "
        "--set learning_rate=0.09"
    )
    assert f"runs/flowers-1 holds the best epoch so far; {command} continues the run" in caplog.text
    with pytest.raises(UsageError, match="continue it with the command train … --resume"):
        with run_of_data(flowers, Path("runs/flowers-1"), can_resume=False):
            pass


@pytest.mark.parametrize(("seconds", "stays"), [(59.0, False), (60.5, True)])
def test_the_checkpoints_of_a_run_that_max_minutes_ended_stay_for_more_minutes(
    flowers: Path, elsewhere: Path, seconds: float, stays: bool, caplog: pytest.LogCaptureFixture
) -> None:
    with run_of_data(flowers, settings={"max_minutes": "1"}) as run:
        assert run.paths.checkpoints is not None
        content = json.dumps({"seconds": seconds})
        (run.paths.checkpoints / "checkpoint-0000.json").write_text(content)
        (run.paths.checkpoints / "checkpoint-0001.json").write_text("[]")  # of another program
        run.finish(is_complete=True)
    assert (elsewhere / "runs/flowers-1/checkpoints").exists() == stays
    line = (
        "the same command with --resume --output runs/flowers-1 with more max_minutes "
        "continues the run"
    )
    assert (line in caplog.text) == stays


def test_a_run_in_a_folder_in_which_another_one_is_going_on_is_refused(
    flowers: Path, elsewhere: Path
) -> None:
    with run_of_data(flowers) as first:
        assert first.paths.checkpoints is not None
        for written in (False, True):
            if written:
                (first.paths.checkpoints / "checkpoint-0000.json").write_text("{}")
            for options in ({"resumes": True}, {"overwrites": True}) if written else ({},):
                with pytest.raises(UsageError, match="flowers-1 is the output of a run that is"):
                    with run_of_data(flowers, first.folder, **options):
                        pass
            assert len(list(first.paths.checkpoints.iterdir())) == written
        with run_of_data(flowers) as second:
            assert second.folder == Path("runs/flowers-2")
        first.finish(is_complete=True)
    assert not (elsewhere / "runs").exists()


def test_folders_of_the_user_in_the_output_are_not_touched(flowers: Path, elsewhere: Path) -> None:
    shutil.copytree(flowers, elsewhere / "channels")
    (elsewhere / "checkpoints").mkdir()
    (elsewhere / "checkpoints" / "mine.txt").write_text("mine")
    (elsewhere / "checkpoints" / "checkpoint-500").mkdir()  # other trainers write such folders
    (elsewhere / "checkpoints" / "checkpoint-0000.json").write_text("{}")
    with run_of_data(Path("channels"), Path("."), overwrites=True) as run:
        run.finish(is_complete=True)
    assert len(list((elsewhere / "channels").rglob("*.jpg"))) == 15
    left = sorted(path.name for path in (elsewhere / "checkpoints").iterdir())
    assert left == ["checkpoint-500", "mine.txt"]
    assert sorted(path.name for path in elsewhere.iterdir()) == ["channels", "checkpoints"]


def test_the_checkpoints_next_to_a_model_of_named_channels_stay_when_it_is_replaced(
    flowers: Path, elsewhere: Path
) -> None:
    write_model(elsewhere / "m", CLASSES)
    (elsewhere / "m" / "checkpoints").mkdir()
    for name in ("checkpoint-0000.json", "checkpoint-0000.safetensors", "mine.txt"):
        (elsewhere / "m" / "checkpoints" / name).write_text("{}")
    with run_into(elsewhere / "m", {"training": flowers}, overwrites=True) as run:
        assert run.paths.artifact is not None
        write_model(run.paths.artifact, CLASSES)
        run.finish(is_complete=True)
    assert len(list((elsewhere / "m" / "checkpoints").iterdir())) == 3


def test_an_output_that_cannot_be_written_is_refused_and_the_data_stay_unread(
    flowers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("mine\n")
    for output, reason in (
        (file, "is a file"),
        (file / "model", "notes.txt is a file"),
        (tmp_path / ("n" * 300), "File name too long"),
        (tmp_path / "read-only", f"{tmp_path} is read-only for this user"),
    ):
        is_writable = "read-only" not in reason  # to root, every folder of a writable disk is
        monkeypatch.setattr(os, "access", lambda *_, answer=is_writable: answer)
        with pytest.raises(DataError, match=reason), run_of_data(flowers, output):
            pass
    assert file.read_text() == "mine\n" and not (tmp_path / "read-only").exists()


def test_an_address_in_place_of_data_is_named_as_one() -> None:
    with pytest.raises(DataError, match="is an address: download the images first"):
        with run_of_data(Path("s3://bucket/flowers"), Path("out")):
            pass


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("DATA", "--channel", "train=DATA"), "both name the data"),
        (("DATA", "--base-dir", "DATA"), "both name the data"),
        (("--overwrite",), "go with DATA or --output"),
        (("--resume", "--base-dir", "DATA"), "go with DATA or --output"),
        (("DATA", "--overwrite"), "--overwrite needs --output"),
        (("DATA", "--output", "o", "--overwrite", "--resume"), "keep one"),
    ],
)
def test_options_that_contradict_each_other_are_refused(
    flowers: Path, words: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if said == "keep one":
        Path("o/checkpoints").mkdir(parents=True)
        Path("o/checkpoints/checkpoint-0001.json").write_text("{}")
    assert main(["train", *(word.replace("DATA", str(flowers)) for word in words)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("ClientError: ") and said in error


def test_the_number_of_a_run_is_free_for_the_next_after_a_mistake(
    flowers: Path, elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", str(flowers), "--set", "epoch=3"]) == 2
    assert "epochs" in capsys.readouterr().err
    assert list(elsewhere.iterdir()) == []
