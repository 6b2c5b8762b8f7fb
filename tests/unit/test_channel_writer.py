"""Class folders become channels in which every image is once, with its name's number."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from image_classification.data.channel_writer import ChannelPlan, write_channels
from image_classification.data.listing import read_list
from image_classification.data.recordio import RecordFile
from image_classification.errors import DataError, UsageError
from tests.conftest import ClassFolders


def silent(done: int, total: int) -> None:
    assert 0 <= done <= total


@pytest.fixture
def images(tmp_path: Path, write_class_folders: ClassFolders) -> Path:
    return write_class_folders(tmp_path / "images", per_class=10)


def test_every_image_is_in_one_split_and_every_split_has_every_class(
    images: Path, tmp_path: Path
) -> None:
    write_channels(images, tmp_path / "out", ChannelPlan(0.6, 0.2), silent)
    paths: list[str] = []
    for split, count in (("train", 18), ("validation", 6), ("test", 6)):
        folder = tmp_path / "out" / split
        entries = read_list(folder / f"{split}.lst")
        assert len(entries) == count
        assert json.loads((folder / "labels.json").read_text())["labels"] == [
            "blue",
            "green",
            "red",
        ]
        with RecordFile(folder / f"{split}.rec") as records:
            for number, entry in enumerate(entries):
                record = records.read_image(number)
                assert record.content == (images / entry.path).read_bytes()
                assert ("blue", "green", "red")[int(record.header.labels[0])] in entry.path
        paths += [entry.path for entry in entries]
    assert sorted(paths) == sorted(str(p.relative_to(images)) for p in images.rglob("*.jpg"))


def test_records_are_shuffled_because_many_readers_shuffle_in_a_small_window_only(
    images: Path, tmp_path: Path
) -> None:
    write_channels(images, tmp_path / "out", ChannelPlan(), silent)
    classes = [e.labels[0] for e in read_list(tmp_path / "out" / "train" / "train.lst")]
    assert classes != sorted(classes)


def test_the_same_seed_gives_the_same_bytes_and_another_seed_another_split(
    images: Path, tmp_path: Path
) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_channels(images, tmp_path / name, ChannelPlan(seed=seed), silent)
    a, b, c = ((tmp_path / n / "train" / "train.rec").read_bytes() for n in "abc")
    assert a == b != c


def test_a_failure_leaves_nothing_behind(images: Path, tmp_path: Path) -> None:
    (images / "red" / "red004.jpg").write_bytes(b"\xff\xd8 not a picture")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(DataError, match=r"red/red004\.jpg"):
        write_channels(images, tmp_path / "out", ChannelPlan(), silent)
    assert sorted(tmp_path.iterdir()) == before


def test_what_is_left_out_is_in_the_findings(images: Path, tmp_path: Path) -> None:
    (images / "red" / "red004.jpg").write_bytes(b"\xff\xd8 not a picture")
    write_channels(images, tmp_path / "out", ChannelPlan(max_bad=1), silent)
    findings = json.loads((tmp_path / "out" / "findings.json").read_text())
    left_out = [entry for split in findings["splits"].values() for entry in split["left_out"]]
    assert [entry["path"] for entry in left_out] == ["red/red004.jpg"]
    assert sum(split["images"] for split in findings["splits"].values()) == 29


def test_an_existing_empty_output_is_filled_as_a_containers_mount_is(
    images: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    output.mkdir()
    write_channels(images, output, ChannelPlan(), silent)
    names = sorted(path.name for path in output.iterdir())
    assert names == ["findings.json", "labels.json", "train", "validation"]
    with pytest.raises(UsageError, match="is not empty"):
        write_channels(images, output, ChannelPlan(), silent)


@pytest.mark.parametrize("ratios", [(0.8, 0.2), (1.0, 0.0), (float("nan"), 0.0), (0.0, 0.1)])
def test_ratios_that_leave_a_split_empty_are_refused(
    images: Path, tmp_path: Path, ratios: tuple[float, float]
) -> None:
    with pytest.raises(UsageError):
        write_channels(images, tmp_path / "out", ChannelPlan(*ratios), silent)
    assert not (tmp_path / "out").exists()
