"""Whatever form an input has, its images get the class, split and group that it says."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from image_classification.errors import DataError, ListError, UsageError
from image_classification.inventory.folders import take_inventory
from image_classification.inventory.rows import Inventory, Row, assemble
from image_classification.labels.label_map import LabelMap


def tree(root: Path, *paths: str) -> Path:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(path.encode())
    return root


def classes_of(inventory: Inventory) -> dict[str, str]:
    return {e.path: inventory.labels.names[int(e.labels[0])] for e in inventory.entries}


@pytest.fixture
def flat(tmp_path: Path) -> Path:
    return tree(tmp_path / "flat", "a1.jpg", "b2.JPG", "deep/c3.png", "extra.jpg")


def test_class_folders_need_no_list(tmp_path: Path) -> None:
    inventory = take_inventory(tree(tmp_path, "cat/1.jpg", "dog/2.jpg", "notes.csv"))
    assert classes_of(inventory) == {"cat/1.jpg": "cat", "dog/2.jpg": "dog"}
    assert not inventory.splits
    assert [what for what, _, _ in inventory.left_out] == [".csv files"]


@pytest.mark.parametrize("name", ["list.csv", "train.manifest", "train.lst"])
def test_a_list_in_its_folder_is_not_left_out(tmp_path: Path, name: str) -> None:
    tree(tmp_path, "1.jpg", "2.jpg", "notes.txt")
    content = {
        "list.csv": "file,label\n1.jpg,cat\n2.jpg,dog\n",
        "train.manifest": '{"source-ref": "1.jpg", "a": 0}\n{"source-ref": "2.jpg", "a": 1}',
        "train.lst": "0\t0\t1.jpg\n1\t1\t2.jpg\n",
    }
    (tmp_path / name).write_text(content[name])
    inventory = take_inventory(tmp_path, tmp_path / name)
    assert [what for what, _, _ in inventory.left_out] == [".txt files"]


def test_split_folders_keep_their_images_and_share_one_label_map(tmp_path: Path) -> None:
    paths = ("train/cat/1.jpg", "train/dog/2.jpg", "val/dog/3.jpg", "test/eel/4.jpg")
    inventory = take_inventory(tree(tmp_path, *paths))
    assert inventory.labels.names == ("cat", "dog", "eel")
    found = dict(zip(classes_of(inventory), inventory.splits, strict=True))
    assert found == dict(zip(paths, ("train", "train", "validation", "test"), strict=True))


def test_a_labels_file_decides_the_numbers_of_class_folders(tmp_path: Path) -> None:
    root = tree(tmp_path, "cat/1.jpg", "dog/2.jpg")
    LabelMap(("dog", "absent", "cat")).write(root / "labels.json")
    assert [entry.labels for entry in take_inventory(root).entries] == [(2.0,), (0.0,)]
    with pytest.raises(DataError, match="class 'cat' is not in the label map"):
        take_inventory(root, labels=LabelMap(("dog",)))


@pytest.mark.parametrize(
    "content",
    [
        "file,label\na1.jpg,cat\nb2.JPG,dog\ndeep/c3.png,cat\n",
        "\ufeffImage_Path;Class;Comment\r\n./a1.jpg;cat;x\r\nflat/b2.JPG;dog;\r\nc3.png;cat;\r\n",
        'id\tbreed\na1\tcat\n\nb2\tdog\n"c3"\t cat \n',
    ],
)
def test_tables_of_many_dialects_give_the_same_inventory(flat: Path, content: str) -> None:
    (flat / "labels.csv").write_bytes(content.encode())
    inventory = take_inventory(flat)
    assert classes_of(inventory) == {"a1.jpg": "cat", "b2.JPG": "dog", "deep/c3.png": "cat"}
    assert ("images that the list does not name", 1, "extra.jpg") in inventory.left_out


def test_numbers_as_class_names_are_in_the_order_of_their_values(flat: Path) -> None:
    (flat / "t.csv").write_text("file,label\na1.jpg,10\nb2.JPG,9\nc3.png,0\n")
    assert take_inventory(flat).labels.names == ("0", "9", "10")


def test_a_table_with_numbers_and_names_keeps_both(flat: Path) -> None:
    (flat / "t.csv").write_text("file,label,class_name\na1.jpg,2,cat\nb2.JPG,0,dog\n")
    assert take_inventory(flat).labels.names == ("dog", "1", "cat")


def test_a_table_gives_splits_and_groups(flat: Path) -> None:
    (flat / "t.csv").write_text(
        "file,label,Patient,split\na1.jpg,c,p1,Train\nb2.JPG,c,p1,val\nc3.png,c,p2,TEST\n"
    )
    inventory = take_inventory(flat, group_by="patient")
    assert inventory.splits == ["train", "validation", "test"]
    assert inventory.groups == ["p1", "p1", "p2"]


def test_groups_that_were_not_asked_for_do_not_change_given_splits(flat: Path) -> None:
    (flat / "t.csv").write_text("file,label,group,split\na1.jpg,c,g,train\nb2.JPG,c,g,val\n")
    assert take_inventory(flat).groups == ()
    assert take_inventory(flat, group_by="group").groups == ["g", "g"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "x,y\nu,v\n",
            r"expected a first line that names the columns file and label.*\['x', 'y'\]",
        ),
        ("file,size\na1.jpg,3\n", r"missing label: one of label, class"),
        ("file,label\na1.jpg\n", r"t\.csv, line 2: expected 2 fields .* got 1"),
        ("file,label\na1.jpg,\n", r"line 2: the label is empty"),
        ("file,label\n", "expected one line per image, found none"),
        ("", "expected a first line"),
        ('file,label\n"a1.jpg,cat\n', r"t\.csv, line \d"),
        (
            "file,label\na1.jpg,cat\na1.jpg,dog\n",
            r"line 3: a1\.jpg is 'dog', but 'cat' in .*line 2",
        ),
        ("file,label,split\na1.jpg,cat,later\n", "expected one of train, validation, test"),
        ("file,label,split\na1.jpg,cat,train\nb2.JPG,cat,\n", "line 3: expected one of train"),
    ],
)
def test_an_error_in_a_table_names_the_line(flat: Path, content: str, message: str) -> None:
    (flat / "t.csv").write_text(content)
    with pytest.raises(ListError, match=message):
        take_inventory(flat)


def test_a_name_that_fits_several_files_is_ambiguous_and_a_path_is_not(tmp_path: Path) -> None:
    root = tree(tmp_path, "x/1.jpg", "y/1.jpg")
    (root / "t.csv").write_text("file,label\n1.jpg,cat\n")
    with pytest.raises(ListError, match=r"line 2: '1\.jpg' could be any of x/1\.jpg, y/1\.jpg"):
        take_inventory(root, root / "t.csv")
    for path in ("y/1.jpg", "./y/1.jpg", "data/train/y/1.jpg", r"data\y\1.jpg"):
        (root / "t.csv").write_text(f"file,label\n{path},cat\n")
        assert classes_of(take_inventory(root, root / "t.csv")) == {"y/1.jpg": "cat"}


def test_a_list_keeps_its_ids_and_its_folders_name_the_classes(tmp_path: Path) -> None:
    root = tree(tmp_path, "dog/1.jpg", "cat/2.jpg")
    (root / "all.lst").write_text("7\t1.000000\tcat\\2.jpg\n3\t0\tdog/1.jpg\n")
    inventory = take_inventory(root, root / "all.lst")
    assert [(e.id, e.path) for e in inventory.entries] == [(7, "cat/2.jpg"), (3, "dog/1.jpg")]
    assert inventory.labels.names == ("dog", "cat")


def test_a_list_of_a_flat_folder_has_numbered_classes_or_those_of_labels_json(flat: Path) -> None:
    (flat / "all.lst").write_text("0\t1\ta1.jpg\n1\t0\tb2.JPG\n")
    assert take_inventory(flat).labels.names == ("0", "1")
    LabelMap(("no", "yes")).write(flat / "labels.json")
    assert take_inventory(flat).labels.names == ("no", "yes")
    LabelMap(("no",)).write(flat / "labels.json")
    with pytest.raises(ListError, match="has a label 1, but there are 1 class names"):
        take_inventory(flat)


@pytest.mark.parametrize("labels", ["-1", "0.5", "nan", "1\t2", "inf"])
def test_a_label_that_is_not_a_class_number_is_refused(flat: Path, labels: str) -> None:
    (flat / "all.lst").write_text(f"4\t{labels}\ta1.jpg\n")
    with pytest.raises(
        ListError, match=r"id 4: expected one class number|line 1: expected labels within float32"
    ):
        take_inventory(flat)


def manifest(flat: Path, *samples: object) -> Path:
    path = flat / "output.manifest"
    path.write_text("\n".join(json.dumps(sample) for sample in samples))
    return path


def test_a_labeling_jobs_manifest_gives_numbers_and_names(flat: Path) -> None:
    metadata = {"confidence": 0.9, "type": "groundtruth/image-classification"}
    manifest(
        flat,
        {
            "source-ref": "s3://bucket/some/flat/a1.jpg",
            "animals": 2,
            "animals-metadata": metadata | {"class-name": "dog"},
        },
        {
            "source-ref": "s3://bucket/some/deep/c3.png",
            "animals": 0,
            "animals-metadata": metadata | {"class-name": "cat"},
        },
    )
    inventory = take_inventory(flat)
    assert inventory.labels.names == ("cat", "1", "dog")
    assert classes_of(inventory) == {"a1.jpg": "dog", "deep/c3.png": "cat"}


def test_numbers_in_a_manifest_index_the_given_labels(flat: Path) -> None:
    manifest(
        flat,
        {"source-ref": "a1.jpg", "class-id": 1},
        {"source-ref": "b2.JPG", "class-id": 0},
    )
    inventory = take_inventory(flat, labels=LabelMap(("cat", "dog")))
    assert classes_of(inventory) == {"a1.jpg": "dog", "b2.JPG": "cat"}


@pytest.mark.parametrize(
    ("sample", "labels"),
    [
        ({"class-id": 0, "class-id-metadata": {"class-name": "cat"}}, ("bird", "cat")),
        ({"class-id": 2}, ("cat", "dog")),
    ],
)
def test_numbers_that_contradict_the_labels_are_refused(
    flat: Path, sample: dict[str, object], labels: tuple[str, ...]
) -> None:
    manifest(flat, {"source-ref": "a1.jpg"} | sample)
    with pytest.raises(ListError, match="use the labels that the list was made with"):
        take_inventory(flat, labels=LabelMap(labels))


@pytest.mark.parametrize("value", [1, 1.0, "1", [0, 1], "[0, 1, 0]"])
def test_the_forms_of_a_class_in_a_manifest_mean_the_same(flat: Path, value: object) -> None:
    manifest(
        flat,
        {"source-ref": "a1.jpg", "class-id": value},
        {"source-ref": "b2.JPG", "class-id": 0},
    )
    assert [entry.labels[0] for entry in take_inventory(flat).entries] == [1.0, 0.0]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 1: expected one JSON object per line"),
        ('{"label": 1}', 'line 1: expected an object with "source-ref"'),
        ('{"source-ref": "a1.jpg"}', "expected one attribute with the class, got none"),
        ('{"source-ref": "a1.jpg", "x": 1, "y": 2}', "got x, y; name it with --label-attribute"),
        ('{"source-ref": "a1.jpg", "label": [1, 2.5]}', "expected one class in 'label'"),
        ('{"source-ref": "a1.jpg", "label": -1}', "expected one class in 'label'"),
        ('{"source-ref": "a1.jpg", "label": true}', "expected one class in 'label'"),
        ('{"source-ref": "a1.jpg", "label": 1e999}', "expected one class in 'label'"),
    ],
)
def test_an_error_in_a_manifest_names_the_line(flat: Path, line: str, message: str) -> None:
    (flat / "m.jsonl").write_text(line)
    with pytest.raises(ListError, match=message):
        take_inventory(flat)


def test_a_manifest_in_which_only_some_images_have_a_group_is_refused(flat: Path) -> None:
    manifest(
        flat,
        {"source-ref": "a1.jpg", "label": 0, "group": 7},
        {"source-ref": "b2.JPG", "label": 0},
    )
    with pytest.raises(ListError, match="line 2: no group, but other lines have one"):
        take_inventory(flat)
    with pytest.raises(ListError, match="line 1: no attribute 'farm' to group by"):
        take_inventory(flat, group_by="farm")


def test_one_number_with_two_names_is_refused(flat: Path) -> None:
    manifest(
        flat,
        {"source-ref": "a1.jpg", "l": 0, "l-metadata": {"class-name": "cat"}},
        {"source-ref": "b2.JPG", "l": 0, "l-metadata": {"class-name": "dog"}},
    )
    with pytest.raises(ListError, match="class 0 is called 'dog' here and 'cat' before"):
        take_inventory(flat)


def test_options_that_do_not_apply_to_the_input_are_refused(tmp_path: Path, flat: Path) -> None:
    folders = tree(tmp_path / "folders", "a/1.jpg", "b/1.jpg")
    with pytest.raises(UsageError, match="--group-by x"):
        take_inventory(folders, group_by="x")
    with pytest.raises(UsageError, match="--label-attribute x"):
        take_inventory(folders, label_attribute="x")
    (flat / "a.csv").write_text("file,label\n")
    (flat / "b.csv").write_text("file,label\n")
    with pytest.raises(UsageError, match=r"2 lists \(a\.csv, b\.csv\): name one with --list"):
        take_inventory(flat)


def test_a_table_in_latin_1_is_refused_with_its_line_before_anything_is_written(
    flat: Path,
) -> None:
    (flat / "t.csv").write_bytes("file,label\na1.jpg,dog\nb2.JPG,Löwe\n".encode("latin-1"))
    with pytest.raises(ListError, match=r"line 3: the label .*save it as UTF-8"):
        take_inventory(flat)


def test_a_file_name_in_latin_1_is_found(flat: Path) -> None:
    name = os.fsdecode("Löwe.jpg".encode("latin-1"))
    (flat / name).touch()
    (flat / "t.csv").write_bytes("file,label\nLöwe.jpg,lion\n".encode("latin-1"))
    assert classes_of(take_inventory(flat)) == {name: "lion"}


@pytest.mark.parametrize("beginning", ["", '{"source-ref": "a1.jpg", "class": '])
def test_a_deeply_nested_manifest_is_refused_with_its_line(flat: Path, beginning: str) -> None:
    (flat / "output.manifest").write_text(beginning + "[" * 100_000 + "\n")
    with pytest.raises(ListError, match="line 1: expected one JSON object per line"):
        take_inventory(flat)


def test_a_repeated_column_is_refused(flat: Path) -> None:
    (flat / "t.csv").write_text("file,label,Label\na1.jpg,cat,dog\n")
    with pytest.raises(ListError, match="has 2 columns named 'label'"):
        take_inventory(flat)


def test_two_spellings_of_one_class_number_are_reported(
    flat: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (flat / "t.csv").write_text("file,label\na1.jpg,1\nb2.JPG,01\n")
    take_inventory(flat)
    assert "'01' and '1' are the same number but different classes" in caplog.text


def test_an_image_name_that_a_list_cannot_hold_is_reported(tmp_path: Path) -> None:
    tree(tmp_path, "cat/1.jpg", "dog/two\nlines.jpg")
    with pytest.raises(ListError, match=r"rename 'dog/two\\nlines\.jpg'"):
        take_inventory(tmp_path)


def test_images_with_several_classes_have_a_label_of_0_or_1_per_class(flat: Path) -> None:
    rows = [
        Row("line 1", "a1.jpg", "cat|dog", classes=("dog", "cat")),
        Row("line 2", "b2.JPG", "", classes=()),
    ]
    inventory = assemble(flat, flat / "t.csv", rows)
    assert inventory.is_multi_label
    assert inventory.labels.names == ("cat", "dog")
    assert [entry.labels for entry in inventory.entries] == [(1.0, 1.0), (0.0, 0.0)]
    assert inventory.multi_hot is not None
    assert inventory.multi_hot.tolist() == [[1, 1], [0, 0]]
    assert inventory.class_indices.tolist() == [0, 2]
