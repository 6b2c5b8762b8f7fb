"""Class folders become channels in which every image is once, with its name's number."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from image_classification.cli import main
from image_classification.errors import DataError, UsageError
from image_classification.images.header import read_header
from image_classification.inventory.folders import take_inventory
from image_classification.labels.lists import read_list
from image_classification.prepare.channels import ChannelPlan
from image_classification.prepare.channels import write_channels as write_inventory
from image_classification.prepare.encode import Transcoding
from image_classification.prepare.findings import Findings
from image_classification.records.reader import RecordFile
from tests.conftest import ClassFolders

SPLIT_NAMES = ("train", "validation")


def silent(done: int, total: int) -> None:
    assert 0 <= done <= total


def write_channels(root: Path, output: Path, plan: ChannelPlan, *_: object) -> Findings:
    return write_inventory(take_inventory(root), output, plan, silent)


def tree_of(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


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


def test_train_and_test_folders_are_used_as_they_are_and_a_note_names_the_missing_validation(
    tmp_path: Path, write_class_folders: ClassFolders, capsys: pytest.CaptureFixture[str]
) -> None:
    write_class_folders(tmp_path / "in" / "train", per_class=5)
    write_class_folders(tmp_path / "in" / "test", per_class=2, seed=1)
    command = ["preprocess", "--input", str(tmp_path / "in"), "--output", str(tmp_path / "out")]
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "train: 15 images" in said and "test: 6 images" in said and "validation: " not in said
    assert "no validation split" in said and "validation_split_ratio=0.2" in said
    assert sorted(path.name for path in (tmp_path / "out").iterdir() if path.is_dir()) == [
        "test",
        "train",
    ]


def test_a_train_ratio_draws_the_missing_validation_from_the_training_images_only(
    tmp_path: Path, write_class_folders: ClassFolders
) -> None:
    write_class_folders(tmp_path / "in" / "train", per_class=5)
    write_class_folders(tmp_path / "in" / "test", per_class=2, seed=1)
    findings = write_channels(tmp_path / "in", tmp_path / "out", ChannelPlan(0.8))
    assert {name: split.images for name, split in findings.splits.items()} == {
        "train": 12,
        "validation": 3,
        "test": 6,
    }
    listed = {name: read_list(tmp_path / "out" / name / f"{name}.lst") for name in findings.splits}
    assert all(entry.path.startswith("test/") for entry in listed["test"])
    drawn = [entry.path for name in SPLIT_NAMES for entry in listed[name]]
    assert len(set(drawn)) == 15 and all(path.startswith("train/") for path in drawn)
    assert (findings.settings["train_ratio"], findings.settings["test_ratio"]) == (0.8, 0.0)
    assert not any("no validation split" in remark for remark in findings.remarks())
    for ratios in ((0.8, 0.1), (None, 0.1), (None, 0.0)):
        with pytest.raises(UsageError, match="has splits of its own"):
            write_channels(tmp_path / "in", tmp_path / "no", ChannelPlan(*ratios))


def test_a_folder_without_its_flag_is_refused_with_the_whole_command(
    images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["preprocess", str(images)]) == 2
    said = capsys.readouterr().err
    assert f"image-classification preprocess --input {images} --output channels" in said


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


def test_a_failed_run_leaves_nothing_behind(images: Path, tmp_path: Path) -> None:
    (images / "red" / "red004.jpg").write_bytes(b"\xff\xd8 not a picture")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(DataError, match=r"red/red004\.jpg"):
        write_channels(images, tmp_path / "out", ChannelPlan(), silent)
    assert sorted(tmp_path.iterdir()) == before


def test_unusable_images_are_in_the_findings(images: Path, tmp_path: Path) -> None:
    (images / "red" / "red004.jpg").write_bytes(b"\xff\xd8 not a picture")
    write_channels(images, tmp_path / "out", ChannelPlan(max_bad=1), silent)
    findings = json.loads((tmp_path / "out" / "findings.json").read_text())
    left_out = [entry for split in findings["splits"].values() for entry in split["left_out"]]
    assert [entry["path"] for entry in left_out] == ["red/red004.jpg"]
    assert sum(split["images"] for split in findings["splits"].values()) == 29


def test_an_existing_empty_output_is_filled_because_a_container_mounts_one(
    images: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    output.mkdir()
    write_channels(images, output, ChannelPlan(), silent)
    names = sorted(path.name for path in output.iterdir())
    assert names == ["findings.html", "findings.json", "labels.json", "train", "validation"]
    with pytest.raises(UsageError, match="is not empty"):
        write_channels(images, output, ChannelPlan(), silent)


@pytest.mark.parametrize("ratios", [(0.8, 0.2), (1.0, 0.0), (float("nan"), 0.0), (0.0, 0.1)])
def test_ratios_that_leave_a_split_empty_are_refused(
    images: Path, tmp_path: Path, ratios: tuple[float, float]
) -> None:
    with pytest.raises(UsageError):
        write_channels(images, tmp_path / "out", ChannelPlan(*ratios), silent)
    assert not (tmp_path / "out").exists()


def test_mounted_folders_of_splits_are_filled_and_anything_else_in_the_output_is_refused(
    images: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    (output / "train").mkdir(parents=True)
    (output / "validation").mkdir()
    write_channels(images, output, ChannelPlan())
    assert (output / "train" / "train.rec").is_file()
    assert not [path for path in output.rglob("*") if "partial" in path.name]


@pytest.mark.parametrize("format_name", ["recordio", "folders", "tfrecord"])
def test_several_hosts_together_write_what_one_host_writes(
    images: Path, tmp_path: Path, format_name: str
) -> None:
    if format_name == "tfrecord":
        pytest.importorskip("google_crc32c")
    options = {"format": format_name, "shard_bytes": 20_000, "transcoding": Transcoding(resize=32)}
    write_channels(images, tmp_path / "one", ChannelPlan(**options))
    together: dict[str, bytes] = {}
    written: list[str] = []
    for host in range(3):
        output = tmp_path / f"host{host}"
        write_channels(images, output, ChannelPlan(**options, host=host, hosts=3))
        for name, content in tree_of(output).items():
            assert together.setdefault(name, content) == content, name
            written += [name] if name.endswith(".lst") else []
    assert len(written) == len(set(written)), "a shard is written by one host"
    alone = tree_of(tmp_path / "one")
    data = {name for name in alone if not name.startswith("findings")}
    assert data == {name for name in together if not name.startswith("findings")}
    assert all(alone[name] == together[name] for name in data)
    assert sum("train-0" in name and name.endswith(".lst") for name in data) >= 2
    assert {name for name in together if name.startswith("findings")} == {
        f"findings-{host}.{kind}" for host in range(3) for kind in ("json", "html")
    }


def test_shards_hold_the_list_in_order_and_differ_by_one_image_at_most(
    images: Path, tmp_path: Path
) -> None:
    write_channels(images, tmp_path / "one", ChannelPlan())
    write_channels(images, tmp_path / "many", ChannelPlan(shard_bytes=10_000))
    whole = read_list(tmp_path / "one" / "train" / "train.lst")
    parts = [read_list(p) for p in sorted((tmp_path / "many" / "train").glob("*.lst"))]
    assert [entry for part in parts for entry in part] == whole
    assert len(parts) > 2 and len({len(part) for part in parts}) <= 2


def test_class_folders_are_written_for_other_frameworks(images: Path, tmp_path: Path) -> None:
    plan = ChannelPlan(format="folders", transcoding=Transcoding(resize=20))
    write_channels(images, tmp_path / "out", plan)
    train = tmp_path / "out" / "train"
    assert sorted(p.name for p in train.iterdir() if p.is_dir()) == ["blue", "green", "red"]
    names = {entry.id: Path(entry.path).stem for entry in read_list(train / "train.lst")}
    written = list(train.rglob("*.jpg"))
    assert len(written) == 24
    for path in written:
        identifier, _, stem = path.stem.partition("-")
        assert names[int(identifier)] == stem and stem.startswith(path.parent.name)
        header = read_header(path.read_bytes())
        assert (header.format, header.height, header.width) == ("JPEG", 20, 24)


def test_files_with_equal_names_in_several_folders_are_all_written(
    images: Path, tmp_path: Path
) -> None:
    for name in ("blue", "green", "red"):
        for path in (images / name).iterdir():
            path.rename(path.with_name(path.name.replace(name, "same")))
    (images / "labels.csv").write_text(
        "file,label\n" + "\n".join(f"{p.relative_to(images)},all" for p in images.rglob("*.jpg"))
    )
    inventory = take_inventory(images, images / "labels.csv")
    write_inventory(inventory, tmp_path / "out", ChannelPlan(format="folders"), silent)
    assert len(list((tmp_path / "out").rglob("*.jpg"))) == 30


def test_equal_images_in_several_splits_are_reported_with_a_picture(
    images: Path, tmp_path: Path
) -> None:
    for split, number in (("train", 0), ("train", 1), ("validation", 2)):
        for name in ("blue", "red"):
            target = tmp_path / "given" / split / name / f"{number}.jpg"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((images / name / f"{name}000.jpg").read_bytes())
    findings = write_channels(tmp_path / "given", tmp_path / "out", ChannelPlan())
    assert len(findings.crossing) == 2
    assert any("identical images" in remark for remark in findings.remarks())
    page = (tmp_path / "out" / "findings.html").read_text()
    assert page.count("data:image/jpeg;base64,") == 2
    assert "validation/red/2.jpg" in page


def test_the_readable_part_of_a_truncated_picture_is_shown(images: Path, tmp_path: Path) -> None:
    path = images / "red" / "red000.jpg"
    path.write_bytes(path.read_bytes()[:-500])
    (images / "red" / "red001.jpg").write_bytes(b"no image")
    write_channels(images, tmp_path / "out", ChannelPlan(max_bad=2))
    page = (tmp_path / "out" / "findings.html").read_text()
    assert page.count("data:image/jpeg;base64,") == 1 and page.count("no preview") == 1


def test_a_file_that_cannot_be_decoded_is_unusable_without_transcoding_too(
    images: Path, tmp_path: Path
) -> None:
    path = images / "red" / "red000.jpg"
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 200] = b"\xff\xd8" * 100  # whole at both ends, broken inside
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"red/red000\.jpg: this JPEG .* truncated or corrupt"):
        write_channels(images, tmp_path / "out", ChannelPlan())


def test_the_page_escapes_file_names(images: Path, tmp_path: Path) -> None:
    (images / "red" / "<script>alert(1)<.jpg").write_bytes(b"no image")
    write_channels(images, tmp_path / "out", ChannelPlan(max_bad=1))
    page = (tmp_path / "out" / "findings.html").read_text()
    assert "&lt;script&gt;alert" in page and "<script" not in page


def test_every_format_keeps_names_that_are_not_utf_8(images: Path, tmp_path: Path) -> None:
    os.rename(images / "red" / "red003.jpg", os.fsencode(images / "red") + b"/\xe9.jpg")
    for name in ("recordio", "folders"):
        write_channels(images, tmp_path / name, ChannelPlan(format=name))
    lists = b"".join((tmp_path / "recordio" / s / f"{s}.lst").read_bytes() for s in SPLIT_NAMES)
    assert b"red/\xe9.jpg\n" in lists
    assert len(list((tmp_path / "folders").rglob("*-\\xe9.jpg"))) == 1


def test_a_class_that_cannot_be_a_folder_is_refused_before_anything_is_written(
    images: Path, tmp_path: Path
) -> None:
    lines = [f"{p.relative_to(images)},../{p.parent.name}" for p in images.rglob("*.jpg")]
    (images / "labels.csv").write_text("file,label\n" + "\n".join(lines))
    inventory = take_inventory(images, images / "labels.csv")
    with pytest.raises(UsageError, match=r"class '\.\./\w+' cannot be the name of a folder"):
        write_inventory(inventory, tmp_path / "out", ChannelPlan(format="folders"), silent)
    assert not (tmp_path / "out").exists()


def test_a_host_without_a_shard_logs_a_warning(
    images: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_channels(images, tmp_path / "out", ChannelPlan(host=3, hosts=4))
    assert "2 shards are too few for 4 hosts" in caplog.text
    assert sorted(p.name for p in (tmp_path / "out").iterdir())[-1] == "labels.json"


def test_hosts_with_their_own_images_write_files_with_their_own_names(
    images: Path, tmp_path: Path
) -> None:
    write_channels(images, tmp_path / "out", ChannelPlan(host=1, hosts=2, host_name="algo-2"))
    assert (tmp_path / "out" / "train" / "train-algo-2.rec").is_file()
    assert (tmp_path / "out" / "validation" / "validation-algo-2.rec").is_file()


@pytest.mark.parametrize("value", ["0", "101"])
def test_a_quality_outside_1_to_100_is_refused(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], value: str
) -> None:
    words = ["--input", str(images), "--output", str(tmp_path / "out"), "--quality", value]
    assert main(["preprocess", *words]) == 2
    assert f"got 0 and {value}" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("output", ["images", "images/red", "images/new/folder", "link/out"])
def test_an_output_below_the_input_is_refused(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], output: str
) -> None:
    (tmp_path / "link").symlink_to(images)
    before = tree_of(images)
    words = ["--input", str(images), "--output", str(tmp_path / output)]
    assert main(["preprocess", *words]) == 2
    assert "is inside the input" in capsys.readouterr().err
    assert tree_of(images) == before


def test_one_class_and_numbers_that_leave_gaps_are_remarks(tmp_path: Path, jpeg: bytes) -> None:
    for number in range(4):
        path = tmp_path / "in" / "images" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg + bytes([number]))
    findings = write_channels(tmp_path / "in", tmp_path / "one", ChannelPlan(0.5))
    remarks = "; ".join(findings.remarks())
    assert "all images are of the class images: training needs at least two classes" in remarks
    lines = (f"{n}\t{1 + n % 2}\timages/{n}.jpg\n" for n in range(4))
    (tmp_path / "in" / "all.lst").write_text("".join(lines))
    inventory = take_inventory(tmp_path / "in", tmp_path / "in" / "all.lst")
    findings = write_inventory(inventory, tmp_path / "gaps", ChannelPlan(0.5), silent)
    assert "the labels are 1 to 2, so no image has 0" in "; ".join(findings.remarks())


def test_a_class_without_a_usable_file_is_refused_and_nothing_is_written(
    images: Path, tmp_path: Path
) -> None:
    (images / "owl").mkdir()
    (images / "owl" / "1.xyz").write_bytes(b"\x01\x02")
    with pytest.raises(DataError, match=r"1 class folder without a usable image.*images/owl"):
        write_channels(images, tmp_path / "out", ChannelPlan())
    assert not (tmp_path / "out").exists()


def test_images_in_subfolders_and_without_a_known_extension_are_in_the_channels(
    images: Path, tmp_path: Path, jpeg: bytes
) -> None:
    (images / "red" / "2024").mkdir()
    (images / "red" / "2024" / "x.jfif").write_bytes(jpeg)
    findings = write_channels(images, tmp_path / "out", ChannelPlan())
    assert findings.class_totals() == [10, 10, 11] and not findings.not_taken


@pytest.mark.parametrize("ratios", [(0.8, None), (0.6, 0.2)])
def test_a_class_with_few_usable_images_is_in_every_split(
    images: Path, tmp_path: Path, ratios: tuple[float, float | None]
) -> None:
    usable = 2 if ratios[1] is None else 3
    for number, path in enumerate(sorted((images / "red").iterdir())):
        if number >= usable:
            path.write_bytes(b"damaged")
    plan = ChannelPlan(*ratios, max_bad=20)
    findings = write_channels(images, tmp_path / "out", plan)
    assert all(split.class_counts[2] == 1 for split in findings.splits.values())
    assert len(findings.left_out) == 10 - usable
    report = json.loads((tmp_path / "out" / "findings.json").read_text())
    assert sum(len(split["left_out"]) for split in report["splits"].values()) == 10 - usable
    assert sorted(path.name for path in (tmp_path / "out").rglob("*.rec")) == sorted(
        f"{name}.rec" for name in findings.splits
    )


def test_a_split_that_keeps_its_classes_is_not_drawn_again(
    images: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    next((images / "red").iterdir()).write_bytes(b"damaged")
    write_channels(images, tmp_path / "out", ChannelPlan(max_bad=1))
    assert "drawn again" not in caplog.text


def test_a_split_that_unusable_images_empty_is_gone_and_they_are_still_reported(
    tmp_path: Path, write_class_folders: ClassFolders, caplog: pytest.LogCaptureFixture
) -> None:
    images = write_class_folders(tmp_path / "images", per_class=3)
    plan = ChannelPlan(0.4, 0.3, max_bad=20)
    write_channels(images, tmp_path / "whole", plan)
    drawn = {
        name: read_list(tmp_path / "whole" / name / f"{name}.lst") for name in ("train", "test")
    }
    of_train = drawn["train"][0]
    others = [entry for entry in drawn["test"] if entry.labels != of_train.labels]
    for entry in (of_train, *others):
        (images / entry.path).write_bytes(b"damaged")
    findings = write_channels(images, tmp_path / "out", plan)
    assert "drawn again" in caplog.text and "no test split is written" in caplog.text
    assert list(findings.splits) == ["train", "validation"]
    assert len(findings.left_out) == 3


def test_a_test_split_that_no_class_can_fill_is_a_warning(
    tmp_path: Path, write_class_folders: ClassFolders, caplog: pytest.LogCaptureFixture
) -> None:
    images = write_class_folders(tmp_path / "images", per_class=2)
    findings = write_channels(images, tmp_path / "out", ChannelPlan(test_ratio=0.1))
    assert "test" not in findings.splits
    assert "expected a test split of 0.1, but no class has the three images" in caplog.text


def test_a_class_without_a_usable_image_is_an_error_that_names_one_of_them(
    images: Path, tmp_path: Path
) -> None:
    for path in (images / "red").iterdir():
        path.write_bytes(b"damaged")
    with pytest.raises(
        DataError, match=r"no image of class red is usable, for example red/.*leave"
    ):
        write_channels(images, tmp_path / "out", ChannelPlan(max_bad=20))
    assert not (tmp_path / "out").exists()
