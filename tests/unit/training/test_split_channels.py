"""A root with the folders of splits, given as one channel, is used as its splits."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from image_classification.contract.channels import ChannelInput
from image_classification.contract.interface import INTERFACES
from image_classification.errors import ChannelError, DataError
from image_classification.evaluate import open_labeled
from image_classification.inventory.folders import take_inventory
from image_classification.inventory.splits import split_folders
from image_classification.labels.label_map import LabelMap
from image_classification.prepare.check.subsets import find_subsets
from image_classification.training.inputs import open_inputs, with_split_folders
from image_classification.training.settings import settings_of


def fill(root: Path, *folders: str) -> Path:
    for folder in folders:
        (root / folder).mkdir(parents=True, exist_ok=True)
        (root / folder / "1.jpg").write_bytes(folder.encode())
    return root


def expand(name: str = "train", **folders: Path) -> dict[str, Path]:
    channels = {name: ChannelInput(name, folder) for name, folder in folders.items()}
    found = with_split_folders(channels, name)
    assert all(name == channel.name for name, channel in found.items())
    return {name: channel.path for name, channel in found.items()}


@pytest.mark.parametrize(
    ("train", "validation", "test"),
    [
        ("train", "val", "test"),
        ("train", "valid", "test"),
        ("training", "validation", "testing"),
        ("Train", "Validation", "TEST"),
    ],
)
def test_split_folders_in_the_training_channel_become_the_channels(
    tmp_path: Path, train: str, validation: str, test: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    names = (train, validation, test)
    root = fill(tmp_path, *(f"{split}/{label}" for split in names for label in ("cat", "dog")))
    expected = {"validation": root / validation, "test": root / test}
    assert expand(train=root) == {"train": root / train, **expected}
    assert expand("training", training=root) == {"training": root / train, **expected}
    assert f"{root / validation} is the channel validation" in caplog.text


def test_records_of_splits_are_not_mixed_into_one_training_channel(tmp_path: Path) -> None:
    for split in ("train", "validation"):
        (tmp_path / split).mkdir()
        (tmp_path / split / "data.rec").write_bytes(b"")
    found = expand(train=tmp_path)
    assert found == {"train": tmp_path / "train", "validation": tmp_path / "validation"}


def test_a_channel_of_the_job_wins_over_a_folder_of_that_name(tmp_path: Path) -> None:
    root = fill(tmp_path / "r", "train/cat", "train/dog", "val/cat", "val/dog")
    other = fill(tmp_path / "other", "cat", "dog")
    assert expand(train=root, validation=other) == {"train": root / "train", "validation": other}
    found = expand(train=root, validation=root)  # the same root twice
    assert found == {"train": root / "train", "validation": root / "val"}


def test_splits_in_the_only_folder_of_an_unpacked_archive_are_found(tmp_path: Path) -> None:
    fill(tmp_path, "flowers/train/cat", "flowers/train/dog", "flowers/val/cat")
    (tmp_path / "__MACOSX").mkdir()
    assert expand(train=tmp_path)["train"] == tmp_path / "flowers" / "train"
    inventory = take_inventory(tmp_path)
    assert inventory.entries[0].path == "flowers/train/cat/1.jpg"
    assert inventory.labels.names == ("cat", "dog")


def test_folders_without_images_and_a_test_folder_without_classes_are_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = fill(tmp_path, "train/cat", "train/dog", "val/cat", "test")
    (root / "annotations").mkdir()
    assert expand(train=root) == {"train": root / "train", "validation": root / "val"}
    assert f"left out {root / 'test'}" in caplog.text
    caplog.clear()
    assert len(take_inventory(root).entries) == 3
    assert "test" in caplog.text


def test_class_folders_that_are_not_splits_stay_classes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    vehicles = fill(tmp_path / "vehicles", "train", "car", "bus")
    assert expand(train=vehicles) == {"train": vehicles} and not caplog.text
    deep = fill(tmp_path / "deep", "train/steam", "car/red", "bus")
    assert split_folders(deep) == {} and expand(train=deep) == {"train": deep}


def test_a_split_next_to_its_classes_does_not_become_a_class(tmp_path: Path) -> None:
    root = fill(tmp_path, "cat", "dog", "bird", "test/cat", "test/dog")
    message = rf"{root / 'test'}: named after a split, with the classes cat, dog.*move test out of"
    for read in (lambda: expand(train=root), lambda: take_inventory(root)):
        with pytest.raises(DataError, match=message):
            read()
    fill(root, "test/red")
    assert expand(train=root) == {"train": root}, "a class with folders of its own"


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (("train", "test"), r"test and train: named after splits, but with images directly"),
        (("train_images", "test_images"), r"test_images and train_images: named after splits"),
        (("Train/0", "Train/1", "Test", "Meta"), r"Test and Train: .*, but Meta holds images too"),
        (("train/a", "val/a", "unlabeled"), r"train and val: .*, but unlabeled holds images too"),
    ],
)
def test_folders_named_after_splits_are_never_classes(
    tmp_path: Path, folders: tuple[str, ...], message: str
) -> None:
    root = fill(tmp_path, *folders)
    with pytest.raises(DataError, match=message + ".*--list"):
        expand(train=root)
    with pytest.raises(DataError, match=message + ".*--list"):
        take_inventory(root)


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("training_set/training_set", "test_set/test_set"),
        ("seg_train/seg_train", "seg_test/seg_test"),
        ("train2017", "test2017"),
        ("train_images", "test-images"),
        ("cats/Training data", "cats/Testing data"),
    ],
)
def test_the_folders_of_splits_are_found_under_the_names_that_downloads_have(
    tmp_path: Path, train: str, test: str
) -> None:
    root = fill(tmp_path, f"{train}/cat", f"{train}/dog", f"{test}/cat", f"{test}/dog")
    assert expand(train=root) == {"train": root / train, "test": root / test}
    inventory = take_inventory(root)
    assert inventory.labels.names == ("cat", "dog")
    assert inventory.splits == ["train", "train", "test", "test"]


def test_a_root_that_lacks_the_split_of_its_channel_is_an_error(tmp_path: Path) -> None:
    root = fill(tmp_path / "r", "val/cat", "test/cat")
    with pytest.raises(ChannelError, match="holds the folders val, test, but none for train"):
        expand(train=root)
    both = fill(tmp_path / "both", "val/cat", "valid/cat", "train/cat")
    with pytest.raises(DataError, match="both val and valid"):
        expand(train=both)


def test_a_shard_of_split_folders_is_refused(tmp_path: Path) -> None:
    root = fill(tmp_path, "train/cat", "val/cat")
    with pytest.raises(ChannelError, match="FullyReplicated"):
        with_split_folders({"train": ChannelInput("train", root, is_sharded=True)}, "train")


def test_channels_with_a_list_and_pipes_stay_as_they_are(tmp_path: Path) -> None:
    root = fill(tmp_path, "train/cat", "val/cat")
    assert expand(train=root, train_lst=root)["train"] == root
    pipe = {"train": ChannelInput("train", root, mode="Pipe")}
    assert with_split_folders(pipe, "train") == pipe


def test_the_label_map_in_the_root_still_names_the_classes(tmp_path: Path) -> None:
    root = fill(tmp_path, "train/cat", "train/dog", "val/cat", "val/dog")
    LabelMap(("dog", "cat")).write(root / "labels.json")
    settings = settings_of(INTERFACES["mxnet"].parse({}))
    inputs = open_inputs({"train": ChannelInput("train", root)}, settings, "train")
    assert inputs.labels == LabelMap(("dog", "cat"))
    assert inputs.validation.name == str(root / "val")


def test_check_looks_at_the_splits_of_such_a_root(tmp_path: Path) -> None:
    root = fill(tmp_path, "train/cat", "train/dog", "val/cat", "val/dog")
    (root / "annotations").mkdir()
    assert [subset.name for subset in find_subsets(root)] == [f"{root}/train", f"{root}/val"]


def test_evaluate_takes_the_test_split_of_a_root_else_validation(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    labels = LabelMap(("cat", "dog"))
    root = fill(tmp_path, "train/cat", "train/dog", "val/cat", "val/dog")
    assert open_labeled(root, labels).name == str(root / "val")
    fill(root, "test/cat", "test/dog")
    assert open_labeled(root, labels).name == str(root / "test")
    assert f"evaluating on {root / 'test'}" in caplog.text
    (tmp_path / "data.zip").write_bytes(b"PK")
    with pytest.raises(DataError, match="a ZIP archive"):
        open_labeled(tmp_path / "data.zip", labels)


def test_images_next_to_split_folders_are_counted_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = fill(tmp_path, *(f"{s}/{label}" for s in ("train", "val") for label in ("cat", "dog")))
    (root / "loose.jpg").write_bytes(b"loose")
    (root / ".hidden").mkdir()
    (root / "README.md").write_text("a note")
    (root / "labels.json").write_text('{"labels": ["cat", "dog"]}')
    expected = {
        ("images outside a class folder", 1, str(root / "loose.jpg")),
        ("hidden files or folders", 1, str(root / ".hidden")),
        (".md files", 1, str(root / "README.md")),
    }
    assert set(take_inventory(root).left_out) == expected
    assert set(find_subsets(root)[0].left_out) == expected
    caplog.clear()
    expand(train=root)
    assert "1 image outside a class folder" in caplog.text


def test_a_link_to_the_folder_around_it_is_not_a_folder_next_to_the_splits(tmp_path: Path) -> None:
    root = fill(tmp_path, *(f"{s}/{label}" for s in ("train", "val") for label in ("cat", "dog")))
    (root / "loop").symlink_to(root)
    assert list(split_folders(root)) == ["train", "validation"]
    assert take_inventory(root).labels.names == ("cat", "dog")


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_a_hugging_face_imagefolder_as_channel_names_the_command_that_check_and_preprocess_read(
    tmp_path: Path, kind: str
) -> None:
    for split, names in (("train", ("a", "b")), ("validation", ("b", "a"))):
        folder = tmp_path / "splits" / split
        folder.mkdir(parents=True)
        rows = [(f"{number}.jpg", name) for number, name in enumerate(names)]
        lines = [f"{file},{name}" for file, name in rows]
        if kind == "jsonl":
            lines = [json.dumps({"file_name": file, "label": name}) for file, name in rows]
        text = "\n".join(["file_name,label"] * (kind == "csv") + lines)
        (folder / f"metadata.{kind}").write_text(text)
        for file, name in rows:
            (folder / file).write_bytes(name.encode())
    for root in (tmp_path / "splits", tmp_path / "splits" / "train"):
        cure = f"image-classification preprocess --input {root} "
        with pytest.raises(DataError, match=cure + ".*--output channels"):
            open_inputs(
                {"train": ChannelInput("train", root)},
                settings_of(INTERFACES["mxnet"].parse({})),
                "train",
            )
    inventory = take_inventory(tmp_path / "splits")
    assert list(inventory.splits) == ["train"] * 2 + ["validation"] * 2
    assert inventory.class_indices.tolist() == [0, 1, 1, 0]
    assert take_inventory(tmp_path / "splits" / "train").class_indices.tolist() == [0, 1]
    subsets = find_subsets(tmp_path / "splits")
    named = [[subset.class_of(n) for n in range(2)] for subset in subsets]
    assert named == [["a", "b"], ["b", "a"]]
