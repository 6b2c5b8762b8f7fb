"""Images of several classes become channels: from lists, tables, manifests; every class counts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from image_classification.cli import main
from image_classification.errors import DataError, ListError, UsageError
from image_classification.evaluate import open_labeled
from image_classification.inventory.folders import take_inventory
from image_classification.inventory.rows import Inventory
from image_classification.labels.label_map import LabelMap
from image_classification.labels.lists import read_list
from image_classification.loading.records import RecordSource
from image_classification.prepare.channels import ChannelPlan, write_channels
from image_classification.prepare.findings import Findings

NAMES = ("cat", "dog", "emu")


def classes_of(number: int) -> tuple[int, int, int]:
    """Of 24 images: every second has a cat, every third a dog, two an emu, some nothing."""
    return (int(number % 2 == 0), int(number % 3 == 0), int(number in (5, 11)))


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(24):
        pixels = np.random.default_rng(number).integers(0, 255, (40, 40, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.jpg")
    return folder


def write_channels_of(inventory: Inventory, output: Path, **plan: Any) -> Findings:
    return write_channels(inventory, output, ChannelPlan(**plan), lambda *_: None)


def list_of(folder: Path) -> Path:
    path = folder / "all.lst"
    lines = ["\t".join(map(str, (n, *classes_of(n), f"{n}.jpg"))) for n in range(24)]
    path.write_text("\n".join(lines) + "\n")
    return path


def table_of(folder: Path, header: str, cell: Any) -> Path:
    path = folder / "all.csv"
    lines = [f"{n}.jpg,{cell(classes_of(n))}" for n in range(24)]
    path.write_text(f"{header}\n" + "\n".join(lines) + "\n")
    return path


def manifest_of(folder: Path, value: Any, **metadata: object) -> Path:
    path = folder / "all.manifest"
    lines = [
        {"source-ref": f"s3://bucket/{n}.jpg", "tags": value(classes_of(n))} | metadata
        for n in range(24)
    ]
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


def present(row: Sequence[int]) -> list[int]:
    return [index for index, value in enumerate(row) if value]


def named(row: Sequence[int]) -> list[str]:
    return [NAMES[index] for index in present(row)]


CLASS_MAP = {"tags-metadata": {"class-map": {str(i): name for i, name in enumerate(NAMES)}}}
FORMS: dict[str, tuple[Any, tuple[str, ...]]] = {
    "list": (list_of, ("0", "1", "2")),
    "columns": (lambda f: table_of(f, "image,cat,dog,emu", lambda r: ",".join(map(str, r))), NAMES),
    "bars": (lambda f: table_of(f, "image,label", lambda r: "|".join(named(r))), NAMES),
    "blanks": (lambda f: table_of(f, "image,tags", lambda r: " ".join(named(r))), NAMES),
    "several cells": (
        lambda f: table_of(f, "image,labels", lambda r: f'"{",".join(named(r))}"'),
        NAMES,
    ),
    "vectors": (lambda f: manifest_of(f, list), ("0", "1", "2")),
    "text of vectors": (lambda f: manifest_of(f, lambda r: str(list(r))), ("0", "1", "2")),
    "numbers": (lambda f: manifest_of(f, present), ("0", "1", "2")),
    "numbers with names": (lambda f: manifest_of(f, present, **CLASS_MAP), NAMES),
    "names": (lambda f: manifest_of(f, named), NAMES),
    "text of names": (lambda f: manifest_of(f, lambda r: "|".join(named(r))), NAMES),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_several_classes_is_the_same_inventory(images: Path, form: str) -> None:
    write, names = FORMS[form]
    inventory = take_inventory(images, write(images))
    assert inventory.is_multi_label and inventory.labels.names == names
    assert inventory.multi_hot is not None
    by_path = {e.path: e.labels for e in inventory.entries}
    assert by_path == {f"{n}.jpg": tuple(map(float, classes_of(n))) for n in range(24)}


def test_a_manifest_in_which_every_list_has_one_class_has_one_class_per_image(images: Path) -> None:
    lines = [{"source-ref": f"{n}.jpg", "label": [n % 3]} for n in range(24)]
    (images / "m.jsonl").write_text("\n".join(map(json.dumps, lines)))
    inventory = take_inventory(images)
    assert not inventory.is_multi_label
    assert inventory.class_indices.tolist() == [n % 3 for n in range(24)]


def test_given_names_number_the_classes_of_several(images: Path) -> None:
    order = LabelMap(("emu", "cat", "dog"))
    inventory = take_inventory(images, FORMS["bars"][0](images), labels=order)
    assert inventory.entries[0].labels == (0.0, 1.0, 1.0)
    with pytest.raises(ListError, match="a column 0 or 1 for each of 3 classes, but there are 2"):
        take_inventory(images, list_of(images), labels=LabelMap(("a", "b")))


def test_a_detection_list_is_refused_with_what_it_is(images: Path) -> None:
    (images / "d.lst").write_text("0\t2\t5\t1\t.1\t.1\t.5\t.5\t0.jpg\n")
    with pytest.raises(ListError, match="labels for object detection") as caught:
        take_inventory(images, images / "d.lst")
    assert "multi_label" not in str(caught.value)


def test_channels_hold_every_label_and_every_class_is_in_every_split(
    images: Path, tmp_path: Path
) -> None:
    inventory = take_inventory(images, FORMS["bars"][0](images))
    findings = write_channels_of(inventory, tmp_path / "out", train_ratio=0.7)
    found: dict[str, tuple[float, ...]] = {}
    for split in ("train", "validation"):
        source = RecordSource([tmp_path / "out" / split / f"{split}.rec"], is_multi_label=True)
        assert source.multi_hot is not None
        assert source.multi_hot.any(axis=0).all() and not source.multi_hot.any(axis=1).all()
        entries = read_list(tmp_path / "out" / split / f"{split}.lst")
        assert [entry.labels for entry in entries] == [tuple(row) for row in source.multi_hot]
        assert findings.splits[split].class_counts == source.multi_hot.sum(axis=0).tolist()
        found |= {entry.path: entry.labels for entry in entries}
        source.close()
    assert found == {f"{n}.jpg": tuple(map(float, classes_of(n))) for n in range(24)}
    report = json.loads((tmp_path / "out" / "findings.json").read_text())
    assert report["multi_label"] is True
    assert report["remarks"][0] == "images can have several classes: train with multi_label=1"
    without = sum(not any(classes_of(n)) for n in range(24))
    assert report["remarks"][1] == f"images of none of the classes: {without}"


def test_the_command_reads_tags_and_never_makes_them_one_class(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = FORMS["blanks"][0](images)
    words = ["--input", str(images), "--list", str(table), "--output", str(tmp_path / "out")]
    assert main(["preprocess", *words]) == 0
    assert "train with multi_label=1" in capsys.readouterr().out
    assert json.loads((tmp_path / "out" / "labels.json").read_text()) == {"labels": list(NAMES)}


def test_class_folders_cannot_hold_several_classes_and_tfrecords_can(
    images: Path, tmp_path: Path
) -> None:
    inventory = take_inventory(images, list_of(images))
    with pytest.raises(UsageError, match="use --format recordio or tfrecord"):
        write_channels_of(inventory, tmp_path / "out", format="folders")
    pytest.importorskip("google_crc32c")
    write_channels_of(inventory, tmp_path / "out", format="tfrecord")
    assert (tmp_path / "out" / "train" / "train.tfrecord").stat().st_size


def test_groups_of_images_with_several_classes_stay_together(images: Path, tmp_path: Path) -> None:
    path = images / "all.csv"
    lines = [f"{n}.jpg,{'|'.join(named(classes_of(n)))},p{n // 2}" for n in range(24)]
    path.write_text("image,label,patient\n" + "\n".join(lines) + "\n")
    inventory = take_inventory(images, path, group_by="patient")
    write_channels_of(inventory, tmp_path / "out", train_ratio=0.6)
    splits = [
        {int(e.path.removesuffix(".jpg")) // 2 for e in read_list(path)}
        for path in (tmp_path / "out").glob("*/*.lst")
    ]
    assert len(splits) == 2 and not splits[0] & splits[1]


def test_evaluate_reads_a_folder_whose_list_gives_images_several_classes(images: Path) -> None:
    list_of(images)
    source = open_labeled(images, LabelMap(NAMES), is_multi_label=True)
    assert source.multi_hot is not None
    assert source.multi_hot.tolist() == [list(classes_of(n)) for n in range(24)]
    assert source.read(3).multi_hot is not None
    (images / "all.lst").write_text("".join(f"{n}\t{n % 3}\t{n}.jpg\n" for n in range(24)))
    with pytest.raises(DataError, match="a list of all classes of each image"):
        open_labeled(images, LabelMap(NAMES), is_multi_label=True)
