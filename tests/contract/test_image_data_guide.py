"""The steps of the image data guide, row by row of docs/image-data-guide.md, on a few pictures."""

from __future__ import annotations

import csv
import re
import shutil
from pathlib import Path

import pytest

from image_classification.cli import im2rec, main
from image_classification.loading.records import RecordSource
from image_classification.records.tfrecord import encode_example, frame_tfrecord
from tests.conftest import ClassFolders
from tests.contract.jobs import run_train, write_job

REPOSITORY = Path(__file__).parents[2]
CLASSES = ("bear", "cat", "frog")
JOB_OF_THE_BUILT_IN = {  # smaller images and one epoch; the rest is the notebook's
    "num_layers": 18,
    "augmentation_type": "crop_color_transform",
    "image_shape": "3,32,32",
    "num_classes": 3,
    "num_training_samples": 24,
    "mini_batch_size": 8,
    "epochs": 1,
    "learning_rate": 0.001,
    "precision_dtype": "float32",
}


@pytest.fixture(scope="module")
def structured(tmp_path_factory: pytest.TempPathFactory, write_class_folders: ClassFolders) -> Path:
    """The class folders that `preprocess` makes of a folder of images and a table."""
    root = tmp_path_factory.mktemp("guide")
    write_class_folders(root / "classes", CLASSES[:2], per_class=10, size=(90, 120))
    write_class_folders(root / "frogs", CLASSES[2:], per_class=10, size=(32, 32), seed=1)
    sample = root / "data_sample"
    sample.mkdir()
    with (root / "classes.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["file", "class"])
        for path in sorted(root.glob("*/*/*.jpg")):
            shutil.copy(path, sample)
            rows.writerow([path.name, path.parent.name])
    given = ["--input", str(sample), "--list", str(root / "classes.csv"), "--test-ratio", "0.1"]
    output = root / "data_structured"
    assert main(["preprocess", *given, "--format", "folders", "--output", str(output)]) == 0
    return output


@pytest.fixture(scope="module")
def records(structured: Path) -> Path:
    """The lists and records that `im2rec` makes of the class folders."""
    folder = structured.with_name("data_recordio")
    folder.mkdir()
    for split in ("train", "validation"):
        prefix, root = str(folder / split), str(structured / split)
        assert im2rec.main(["--list", "--recursive", prefix, root]) == 0
        options = ["--resize", "224", "--quality", "90", "--num-thread", "16"]
        assert im2rec.main([*options, prefix, root]) == 0
    return folder


def test_the_images_are_split_into_class_folders(structured: Path) -> None:
    counts = {
        split: [len(list((structured / split / name).iterdir())) for name in CLASSES]
        for split in ("train", "validation", "test")
    }
    assert counts == {"train": [8] * 3, "validation": [1] * 3, "test": [1] * 3}


def test_lists_and_records_are_im2recs(records: Path) -> None:
    line = (records / "train.lst").read_text().splitlines()[0]
    assert re.fullmatch(r"\d+\t\d\.0+\t(bear|cat|frog)/[\w-]+\.jpg", line)
    source = RecordSource([records / "train.rec"])
    assert len(source) == 24
    source.close()


def test_a_list_by_hand_makes_records(structured: Path, tmp_path: Path) -> None:
    lines = [
        f"{number:010d}\t{CLASSES.index(path.parent.name)}\tdata_structured/train/"
        f"{path.parent.name}/{path.name}\n"
        for number, path in enumerate(sorted((structured / "train").rglob("*.jpg")))
    ]
    (tmp_path / "train.lst").write_text("".join(lines))
    assert im2rec.main([str(tmp_path / "train"), str(structured.parent)]) == 0
    source = RecordSource([tmp_path / "train.rec"])
    assert len(source) == 24
    source.close()


def test_the_job_of_the_built_in_trains(records: Path, tmp_path: Path) -> None:
    channels = {}
    for split in ("train", "validation"):
        channels[split] = tmp_path / split
        channels[split].mkdir()
        shutil.copy(records / f"{split}.rec", channels[split])
    kinds = dict.fromkeys(channels, "application/x-recordio")
    base = write_job(tmp_path / "ml", JOB_OF_THE_BUILT_IN, channels, kinds)
    done = run_train(base)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Validation-accuracy=" in done.stdout and (base / "model" / "model.onnx").is_file()


def test_the_guides_tfrecords_train(structured: Path, tmp_path: Path) -> None:
    channels = {}
    for split, name in (("train", "train"), ("validation", "val")):
        channels[split] = tmp_path / split
        channels[split].mkdir()
        examples = [
            encode_example(
                {
                    "height": [244],
                    "width": [244],
                    "depth": [3],
                    "label": [CLASSES.index(path.parent.name)],
                    "image_raw": [path.read_bytes()],
                }
            )
            for path in sorted((structured / split).rglob("*.jpg"))
        ]
        packed = b"".join(map(frame_tfrecord, examples))
        (channels[split] / f"{name}.tfrecord").write_bytes(packed)
    base = write_job(tmp_path / "ml", JOB_OF_THE_BUILT_IN | {"num_layers": 20}, channels)
    done = run_train(base)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (base / "model" / "model.onnx").is_file()


def test_images_are_resized_for_pytorch(structured: Path, tmp_path: Path) -> None:
    from PIL import Image

    given = ["--format", "folders", "--resize", "224", "--output", str(tmp_path / "data_resized")]
    assert main(["preprocess", "--input", str(structured), *given]) == 0
    paths = list((tmp_path / "data_resized").rglob("*.jpg"))
    assert len(paths) == 30
    for path in paths:
        with Image.open(path) as picture:
            assert min(picture.size) == 224


def test_every_row_of_the_page_names_a_test_that_exists() -> None:
    page = (REPOSITORY / "docs" / "image-data-guide.md").read_text("utf-8")
    named = set(re.findall(r"`(test_\w+)` \|$", page, re.MULTILINE))
    files = ("contract/test_image_data_guide.py", "container/test_image_guide.py")
    texts = "".join((REPOSITORY / "tests" / name).read_text("utf-8") for name in files)
    assert len(named) == 8 and all(f"def {name}(" in texts for name in named)
    rows = [line for line in page.splitlines() if line.startswith("| 0")]
    assert {row.split("|")[1].split()[0] for row in rows} == {
        *("01", "02", "03a", "03b", "03c", "04a", "04b", "04c")
    }
