"""Tables of well-known data sets and tools are read as they are, or refused with the flags."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from image_classification.errors import DataError, ListError, UsageError
from image_classification.inventory.column_kinds import ColumnOptions
from image_classification.inventory.folders import take_inventory
from image_classification.inventory.rows import Inventory
from image_classification.inventory.tags import read_class_names

IMAGES = 9


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return named(tmp_path / "images", *(f"{i:05d}.jpg" for i in range(IMAGES)))


def named(root: Path, *paths: str) -> Path:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()
    return root


def table(root: Path, header: str, row: str, encoding: str = "utf-8") -> Path:
    """Write a table; in `row`, {i} is the number of the image, {k} its class of three."""
    lines = [header] if header else []
    bits = ["{a}", "{b}", "{c}"]
    for i in range(IMAGES):
        line = row
        for number, bit in enumerate(bits):
            line = line.replace(bit, str(int(i % 3 == number)))
        lines.append(line.replace("{i}", f"{i:05d}").replace("{k}", str(i % 3)))
    path = root.parent / "table.csv"
    path.write_bytes("\n".join([*lines, ""]).encode(encoding))
    return path


def read(root: Path, path: Path, **options: str) -> Inventory:
    return take_inventory(root, path, columns=ColumnOptions(**options))


def classes_of(inventory: Inventory) -> list[str]:
    """The class of each image; of several, joined by +."""
    names = inventory.labels.names
    if inventory.is_multi_label:
        return [
            "+".join(name for name, bit in zip(names, entry.labels, strict=True) if bit)
            for entry in inventory.entries
        ]
    return [names[int(entry.labels[0])] for entry in inventory.entries]


def expected(*names: str) -> list[str]:
    return [names[i % 3] for i in range(IMAGES)]


def paths_of(inventory: Inventory) -> list[str]:
    return [entry.path for entry in inventory.entries]


LAYOUTS = {
    "dog breeds": ("id,breed", "{i},c{k}"),
    "whales": ("Image,Id", "{i}.jpg,c{k}"),
    "Hugging Face metadata.csv": ("file_name,label", "{i}.jpg,c{k}"),
    "HAM10000": (
        "lesion_id,image_id,dx,dx_type,age,sex,localization",
        "HAM_0{k},{i},c{k},histo,5{k}.0,male,back",
    ),
    "APTOS": ("id_code,diagnosis", "{i},c{k}"),
    "EyePACS": ("image,level", "{i},c{k}"),
    "GTSRB of one class": (
        "Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId",
        "{i}.jpg;29;30;5;6;24;25;c{k}",
    ),
    "GTSRB as one table": (
        "Width,Height,Roi.X1,Roi.Y1,Roi.X2,Roi.Y2,ClassId,Path",
        "27,26,5,5,22,20,c{k},Train/20/{i}.jpg",
    ),
    "SIIM-ISIC": (
        "image_name,patient_id,sex,age_approx,anatom_site_general_challenge,diagnosis,"
        "benign_malignant,target",
        "{i},IP_{i},male,45.0,torso,unknown,benign,c{k}",
    ),
    "autogluon's image,labels": ("image,labels", "{i}.jpg,c{k}"),
    "autogluon's img,lbl": ("img,lbl", "{i}.jpg,c{k}"),
    "Azure's image_url": ("image_url,label", "AmlDatastore://data/x/{i}.jpg,c{k}"),
    "no header": ("", "{i}.jpg,c{k}"),
    "no header, ids": ("", "{i},c{k}"),
    "no header, the class first": ("", "c{k},{i}.jpg"),
    "Vertex without a split": ("", "gs://bucket/a/{i}.jpg,c{k}"),
    "DIGITS' text list": ("", "images/{i}.jpg c{k}"),
    "an index of pandas": (",Filename,Label", "{k}{i},{i}.jpg,c{k}"),
    "unknown names": ("plate,result of the biologist", "{i}.jpg,c{k}"),
    "unknown names among descriptions": ("plate,sex,age,outcome", "{i}.jpg,f,6{k},c{k}"),
    "ISIC, a column per class": ("image,c0,c1,c2", "{i},{a}.0,{b}.0,{c}.0"),
    "Plant Pathology": ("image_id,c0,c1,c2", "{i},{a},{b},{c}"),
    "Roboflow's _classes.csv": ("filename, c0, c1, c2", "{i}.jpg, {a}, {b}, {c}"),
    "booleans of pandas": ("filename,c0,c1,c2", "{i}.jpg,{a},{b},{c}"),
    "lists with one item": ("file,labels", "{i}.jpg,['c{k}']"),
    "one vector": ("file,label", '{i}.jpg,"[{a}, {b}, {c}]"'),
    "a header of Excel": ("sep=;\nfile;klass", "{i}.jpg;c{k}"),
    "ChestX-ray14": (
        "Image Index,Finding Labels,Follow-up #,Patient Age,OriginalImage[Width,Height],"
        "Spacing[x,y],",
        "{i}.jpg,c{k},1,5{k},2682,2749,0.1{k},0.1{k},",
    ),
    "a path with a blank": ("", "my images/{i}.jpg c{k}"),
    "absolute paths": ("", "/a/b/{i}.jpg c{k}"),
    "the class in the path": ("", "train/c{k}/{i}"),
    "vertical bars": ("file|label", "{i}.jpg|c{k}"),
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_well_known_table_gives_each_image_its_class(images: Path, layout: str) -> None:
    inventory = read(images, table(images, *LAYOUTS[layout]))
    names = ("0", "1", "2") if layout == "one vector" else ("c0", "c1", "c2")
    assert inventory.labels.names == names
    assert classes_of(inventory) == expected(*names)
    assert paths_of(inventory) == [f"{i:05d}.jpg" for i in range(IMAGES)]
    assert not inventory.splits


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_a_table_in_the_encodings_of_spreadsheets_is_read(images: Path, encoding: str) -> None:
    path = table(images, "image\tlabels", "{i}.jpg\tLöwe{k}", encoding=encoding)
    assert classes_of(read(images, path)) == expected("Löwe0", "Löwe1", "Löwe2")


def test_cassava_takes_the_names_of_its_numbers_from_the_json_file(images: Path) -> None:
    path = table(images, "image_id,label", "{i}.jpg,{k}")
    names = {"0": "Blight", "1": "Streak", "2": "Mottle", "3": "Healthy"}
    (images.parent / "label_num_to_disease_map.json").write_text(json.dumps(names))
    inventory = read(images, path)
    assert inventory.labels.names == ("Blight", "Streak", "Mottle", "Healthy")
    assert classes_of(inventory) == expected("Blight", "Streak", "Mottle")
    (images / "settings.json").write_text(json.dumps({"seed": 0, "epochs": 1, "workers": 2}))
    assert read(images, path).labels == inventory.labels
    (images / "class_indices.json").write_text(json.dumps({"a": 0, "b": 1, "c": 2}))
    with pytest.raises(ListError, match="name the classes differently; keep one"):
        read(images, path)


def test_a_json_file_of_numbers_and_names_gives_class_names_in_their_order(tmp_path: Path) -> None:
    path = tmp_path / "classes.json"
    for document in ({"1": "dog", "0": "cat"}, {"dog": 1, "cat": 0}, {"labels": ["cat", "dog"]}):
        path.write_text(json.dumps(document))
        assert read_class_names(path).names == ("cat", "dog")
    path.write_text(json.dumps({"1": "dog", "2": "cat"}))
    with pytest.raises(DataError, match=r"the numbers 0 to 1, got \[1, 2\]"):
        read_class_names(path)


def test_an_empty_cell_of_pandas_is_no_class(images: Path) -> None:
    path = table(images, "id,label", "{i},c{k}")
    path.write_text(path.read_text().replace("c2", "NaN"))
    with pytest.raises(ListError, match="line 4: the label is 'NaN', which stands for nothing"):
        read(images, path)
    path = table(images, "id,cat,dog", "{i},{a}.0,{b}.0")
    path.write_text(path.read_text().replace(",0.0", ",nan"))
    assert classes_of(read(images, path)) == expected("cat", "dog", "")


def test_a_column_with_the_names_of_splits_sets_the_splits(tmp_path: Path) -> None:
    root = named(tmp_path, "train/ACE/1.jpg", "valid/ACE/1.jpg", "test/ACE/1.jpg")
    path = root / "birds.csv"
    path.write_text(
        "class id,filepaths,labels,card type,data set\n"
        "1,train/ACE/1.jpg,ACE OF CLUBS,ace,train\n"
        "1,valid/ACE/1.jpg,ACE OF CLUBS,ace,valid\n"
        "0,test/ACE/1.jpg,ACE OF HEARTS,ace,test\n"
    )
    inventory = read(root, path)
    assert inventory.splits == ["train", "validation", "test"]
    assert classes_of(inventory) == ["ACE OF CLUBS", "ACE OF CLUBS", "ACE OF HEARTS"]
    assert read(root, path, split="none").splits == []
    assert read(root, path, split="data set", label="card type").labels.names == ("ace",)


def test_vertex_has_the_split_first_and_several_labels_last(images: Path) -> None:
    uses = ("TRAIN", "VALIDATION", "TEST")
    lines = [f"{uses[i % 3]},gs://b/{i:05d}.jpg,c{i % 2}" for i in range(IMAGES)]
    path = images.parent / "vertex.csv"
    path.write_text("\n".join(lines))
    inventory = read(images, path)
    assert inventory.splits == [("train", "validation", "test")[i % 3] for i in range(IMAGES)]
    assert inventory.labels.names == ("c0", "c1")
    assert not inventory.is_multi_label
    lines[4] += ",c1"
    path.write_text("\n".join(lines))
    inventory = read(images, path)
    assert inventory.is_multi_label
    assert classes_of(inventory)[3:6] == ["c1", "c0+c1", "c1"]
    lines = ["UNASSIGNED" + line[line.index(",") :] for line in lines]
    path.write_text("\n".join(lines))
    assert not read(images, path).splits


JSON_LINES = {
    "Hugging Face": '{"file_name": "%05d.jpg", "label": "c%d"}',
    "Azure ML": '{"image_url": "AmlDatastore://x/%05d.jpg", "label": "c%d", "image_details": '
    '{"format": "jpg", "width": "9px"}}',
    "Vertex": '{"imageGcsUri": "gs://b/%05d.jpg", "classificationAnnotation": {"displayName": '
    '"c%d"}, "dataItemResourceLabels": {"aiplatform.googleapis.com/ml_use": "training"}}',
    "a list of one": '{"file_name": "%05d.jpg", "labels": ["c%d"]}',
}


@pytest.mark.parametrize("tool", JSON_LINES)
def test_json_lines_of_many_tools_are_tables(images: Path, tool: str) -> None:
    path = images / "metadata.jsonl"
    path.write_text("\n".join(JSON_LINES[tool] % (i, i % 3) for i in range(IMAGES)))
    inventory = read(images, path)
    assert classes_of(inventory) == expected("c0", "c1", "c2")


@pytest.mark.parametrize(
    "document",
    [
        [{"file": f"{i:05d}.jpg", "label": f"c{i % 3}"} for i in range(IMAGES)],
        {"data": [{"path": f"x/{i:05d}.jpg", "class": f"c{i % 3}"} for i in range(IMAGES)]},
        {f"{i:05d}.jpg": f"c{i % 3}" for i in range(IMAGES)},
        {"classes": ["c0", "c1", "c2"], "labels": {f"{i:05d}": i % 3 for i in range(IMAGES)}},
    ],
)
def test_a_json_document_that_pairs_files_and_classes_is_a_table(
    images: Path, document: object
) -> None:
    path = images.parent / "classes.json"
    path.write_text(json.dumps(document, indent=1))
    assert classes_of(read(images, path)) == expected("c0", "c1", "c2")


def test_metadata_in_each_split_folder_sets_splits_and_shares_one_label_map(tmp_path: Path) -> None:
    for split, classes in {"train": "ab", "validation": "cb"}.items():
        root = named(tmp_path / split, "1.png", "2.png")
        lines = [f"{i}.png,{name}\n" for i, name in enumerate(classes, start=1)]
        (root / "metadata.csv").write_text("".join(["file_name,label\n", *lines]))
    inventory = take_inventory(tmp_path)
    assert inventory.labels.names == ("a", "b", "c")
    assert classes_of(inventory) == ["a", "b", "c", "b"]
    assert inventory.splits == ["train", "train", "validation", "validation"]
    assert paths_of(inventory)[2] == "validation/1.png"


def test_a_split_folder_without_a_table_is_left_out_and_the_other_is_divided(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    named(tmp_path, "train/1.png", "train/2.png", "test/3.png")
    (tmp_path / "train/metadata.csv").write_text("file_name,label\n1.png,a\n2.png,b\n")
    inventory = take_inventory(tmp_path)
    assert classes_of(inventory) == ["a", "b"]
    assert not inventory.splits
    assert "left out test, which has no table" in caplog.text


def test_folders_of_splits_without_class_folders_are_never_the_classes(tmp_path: Path) -> None:
    named(tmp_path, "train/1.png", "train/2.png", "test/3.png")
    with pytest.raises(DataError, match=r"test and train: named after splits.*--list"):
        take_inventory(tmp_path)
    (tmp_path / "train.csv").write_text("id,label\n1,a\n2,b\n")
    assert classes_of(take_inventory(tmp_path)) == ["a", "b"]
    (tmp_path / "sample_submission.csv").write_text("id,label\n3,a\n")
    with pytest.raises(UsageError, match=r"2 lists \(sample_submission\.csv, train\.csv\)"):
        take_inventory(tmp_path)


def write_coco(root: Path, *pairs: tuple[int, int], **box: object) -> Path:
    path = root / "annotations.json"
    images = [{"id": 10 + i, "file_name": f"{i:05d}.jpg"} for i in range(3)]
    annotations = [{"image_id": 10 + i, "category_id": k, **box} for i, k in pairs]
    categories = [{"id": 7, "name": "zebra"}, {"id": 3, "name": "ape"}]
    document = {"images": images, "annotations": annotations, "categories": categories}
    path.write_text(json.dumps(document))
    return path


def test_coco_annotations_give_an_image_its_category(
    images: Path, caplog: pytest.LogCaptureFixture
) -> None:
    inventory = read(images, write_coco(images, (0, 7), (1, 3), (1, 3)))
    assert inventory.labels.names == ("ape", "zebra")
    assert classes_of(inventory) == ["zebra", "ape"]
    assert "1 image has no annotation and is left out" in caplog.text
    inventory = read(images, write_coco(images, (0, 7), (0, 3), (1, 3), bbox=[1, 2, 3, 4]))
    assert inventory.is_multi_label
    assert classes_of(inventory) == ["ape+zebra", "ape", ""]
    assert "3 annotations have boxes or masks, which are not used" in caplog.text
    with pytest.raises(ListError, match=r"annotation 1: category_id 5 is not among"):
        read(images, write_coco(images, (0, 5)))


def test_the_coco_files_of_roboflow_are_splits_and_their_group_of_categories_is_no_class(
    tmp_path: Path,
) -> None:
    categories = [
        {"id": 0, "name": "pets", "supercategory": "none"},
        {"id": 1, "name": "cat", "supercategory": "pets"},
        {"id": 2, "name": "dog", "supercategory": "pets"},
    ]
    for split in ("train", "valid"):
        root = named(tmp_path / split, "0.jpg", "1.jpg")
        images = [{"id": i, "file_name": f"{i}.jpg"} for i in range(2)]
        annotations = [{"id": i, "image_id": i, "category_id": i + 1} for i in range(2)]
        document = {"images": images, "annotations": annotations, "categories": categories}
        (root / "_annotations.coco.json").write_text(json.dumps(document))
    inventory = take_inventory(tmp_path)
    assert inventory.labels.names == ("cat", "dog")
    assert classes_of(inventory) == ["cat", "dog", "cat", "dog"]
    assert inventory.splits == ["train", "train", "validation", "validation"]


SEVERAL = {
    "a column per class": ("image,cat,dog", ["1,0", "1,1", "0,0", "0,1"]),
    "a labels column with bars": ("image,labels", ["cat", "cat|dog", "", "dog"]),
    "tags": ("image,tags", ["cat", "cat dog", "", "dog"]),
    "a list of Python": ("image,genre", ["['cat']", "\"['cat', 'dog']\"", "[]", "['dog']"]),
    "several label columns": ("image,first,second", ["cat,", "dog,cat", ",", "dog,"]),
}


@pytest.mark.parametrize("layout", SEVERAL)
def test_a_table_with_several_labels_per_image_is_read_as_such(images: Path, layout: str) -> None:
    header, rows = SEVERAL[layout]
    path = images.parent / "table.csv"
    path.write_text("\n".join([header, *(f"{i:05d},{row}" for i, row in enumerate(rows))]))
    options = {"label": "first,second"} if layout == "several label columns" else {}
    inventory = read(images, path, **options)
    assert inventory.is_multi_label
    assert inventory.labels.names == ("cat", "dog")
    assert classes_of(inventory) == ["cat", "cat+dog", "", "dog"]


def test_in_chexpert_uncertain_and_empty_cells_count_as_0_and_are_counted(
    images: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = images.parent / "train.csv"
    path.write_text(
        "Path,Sex,Age,Frontal/Lateral,AP/PA,No Finding,Edema,Fracture\n"
        "CheXpert/train/00000.jpg,Female,68,Frontal,AP,1.0,,\n"
        "CheXpert/train/00001.jpg,Male,31,Lateral,,,-1.0,0.0\n"
        "CheXpert/train/00002.jpg,Male,31,Frontal,PA,,1.0,1.0\n"
    )
    with caplog.at_level(logging.INFO):
        inventory = read(images, path)
    assert inventory.labels.names == ("No Finding", "Edema", "Fracture")
    assert classes_of(inventory) == ["No Finding", "", "Edema+Fracture"]
    said = "files from column 'Path', classes from columns 'No Finding', 'Edema', 'Fracture'"
    assert said in caplog.text
    assert "1 cells are -1 (uncertain) and count as 0" in caplog.text


def test_the_columns_of_chexpert_are_classes_whatever_words_are_in_their_names(
    images: Path,
) -> None:
    path = images.parent / "train.csv"
    names = ("No Finding", "Lung Lesion", "Support Devices", "Pleural Other", "H")
    path.write_text(
        f"Path,Sex,Age,Frontal/Lateral,AP/PA,{','.join(names)}\n"
        "train/00000.jpg,Female,68,Frontal,AP,1.0,,,,\n"
        "train/00001.jpg,Male,31,Lateral,,,1.0,0.0,,1.0\n"
        "train/00002.jpg,Male,31,Frontal,PA,,,1.0,1.0,0.0\n"
    )
    inventory = read(images, path)
    assert inventory.labels.names == names
    assert classes_of(inventory) == ["No Finding", "Lung Lesion+H", "Support Devices+Pleural Other"]


def test_where_minus_1_is_the_only_other_value_it_is_no(
    images: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = images.parent / "list_attr_celeba.txt"
    path.write_text("3\nSmiling Young\n00000.jpg  1  1\n00001.jpg -1  1\n00002.jpg -1 -1\n")
    assert classes_of(read(images, path)) == ["Smiling+Young", "Young", ""]
    assert "uncertain" not in caplog.text


def test_a_class_of_several_words_is_one_class_and_a_combination_of_classes_is_several(
    images: Path,
) -> None:
    cards = ["ace of clubs", "ace of spades", "two of clubs"]
    path = table(images, "file,labels", "{i}.jpg,{k}")
    for k, name in enumerate(cards):
        path.write_text(path.read_text().replace(f".jpg,{k}\n", f".jpg,{name}\n"))
    assert classes_of(read(images, path)) == expected(*cards)
    path.write_text(path.read_text().replace(cards[0], "rust").replace(cards[1], "scab"))
    path.write_text(path.read_text().replace(cards[2], "scab rust"))
    assert classes_of(read(images, path)) == expected("rust", "scab", "rust+scab")


@pytest.mark.parametrize("mark", [", ", "+", "/", " & ", ";", "|"])
def test_labels_that_also_occur_alone_are_several_whatever_separates_them(
    images: Path, mark: str
) -> None:
    path = images.parent / "table.csv"
    names = ["rust", "scab", f"scab{mark}rust"]
    path.write_text("file\tclass\n" + "".join(f"{i:05d}\t{names[i % 3]}\n" for i in range(IMAGES)))
    assert classes_of(read(images, path)) == expected("rust", "scab", "rust+scab")


def test_rows_that_are_longer_than_the_header_are_refused(images: Path) -> None:
    with pytest.raises(ListError, match="line 2: expected 2 fields as in the first line, got 3"):
        read(images, table(images, "file,label", "{i},c{k},"))


def test_a_cell_with_two_readings_is_refused_until_a_flag_decides(images: Path) -> None:
    path = table(images, "Id,Label", "{i},cat dog{k}")
    path.write_text(path.read_text().replace(" dog1", ""))
    with pytest.raises(ListError, match=r"'cat dog0' .* is one class, or 2.*--label-separator"):
        read(images, path)
    assert classes_of(read(images, path, separator="none"))[:2] == ["cat dog0", "cat"]
    assert classes_of(read(images, path, separator="blank"))[:2] == ["cat+dog0", "cat"]


@pytest.mark.parametrize(
    ("header", "row", "flags"),
    [
        ("plate,outcome,opinion", "{i}.jpg,{k}a,{a}b", "'outcome'.*'opinion'.*--label-column"),
        ("plate,mild,severe,outcome", "{i}.jpg,{a},{b},{k}a", "two readings.*--label-column"),
        ("id,masterCategory,subCategory", "{i},m{a},s{k}", "'masterCategory'.*--label-column"),
        ("", "{i}.jpg,u{k},v{a}", "'2'.*'3'.*--label-column '2'"),
    ],
)
def test_two_possible_readings_are_refused_with_the_flag_that_decides(
    images: Path, header: str, row: str, flags: str
) -> None:
    with pytest.raises(ListError, match=flags):
        read(images, table(images, header, row))


def test_two_columns_of_different_files_are_refused_and_two_of_the_same_files_are_not(
    images: Path,
) -> None:
    path = images.parent / "table.csv"
    others = [f"{i:05d}.jpg,{8 - i:05d}.jpg,{i % 3}" for i in range(IMAGES)]
    path.write_text("\n".join(["left,right,label", *others]))
    with pytest.raises(ListError, match=r"'left'.*'right'.*--file-column"):
        read(images, path)
    assert paths_of(read(images, path, file="right"))[0] == "00008.jpg"
    inventory = read(images, table(images, "left,right,label", "{i}.jpg,x/{i}.jpg,{k}"))
    assert classes_of(inventory) == expected("0", "1", "2")


def test_the_flags_name_columns_or_their_numbers(images: Path) -> None:
    path = table(images, "left,right,mild,severe,part", "{i}.jpg,00000.jpg,{a},{b},train")
    options = {"file": "Left", "label": "mild,severe", "split": "5"}
    inventory = read(images, path, **options)
    assert classes_of(inventory) == expected("mild", "severe", "")
    assert set(inventory.splits) == {"train"}
    for flag in ("file", "label", "split"):
        with pytest.raises(ListError, match=f"no column 'x', as --{flag}-column says; it has"):
            read(images, path, **(options | {flag: "x"}))


def test_fractions_and_columns_that_only_describe_an_image_are_no_classes(images: Path) -> None:
    for header, row in (("file,quality", "{i}.jpg,0.{k}7"), ("file,width", "{i}.jpg,{k}")):
        with pytest.raises(ListError, match="name the class with --label-column"):
            read(images, table(images, header, row))


@pytest.mark.parametrize(
    ("row", "suggestion"),
    [("{k},x", "00000.jpg"), ("{i}.JPG,x", "00000.jpg"), ("{i}.png,x", "00000.jpg"),
     ("{k}.0,x", "00000.jpg")],
)  # fmt: skip
def test_a_file_that_is_not_there_is_an_error_that_suggests_the_one_that_is(
    images: Path, row: str, suggestion: str
) -> None:
    path = table(images, "id,label", row)
    with pytest.raises(ListError, match=f"did you mean '{suggestion}'") as error:
        read(images, path)
    assert f"all 9 files are not in {images}" in str(error.value)
    assert "line 2" in str(error.value)


def test_files_of_another_folder_are_named_with_what_is_there(images: Path) -> None:
    with pytest.raises(ListError, match=r"looked for 'dog-\w+\.jpg'.*called '00000\.jpg'.*--file"):
        read(images, table(images, "id,label", "dog-{i}.jpg,{k}"))


def test_a_few_missing_files_are_a_warning_and_stay_in_the_inventory(
    images: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (images / "00004.jpg").unlink()
    assert len(read(images, table(images, "id,label", "{i},{k}")).entries) == IMAGES
    assert "1 of 9 files are not in" in caplog.text
    assert "looked for '00004'" in caplog.text


def test_a_listed_file_without_the_name_of_an_image_is_found(tmp_path: Path) -> None:
    root = named(tmp_path, "1.jfif2", "sub/2")
    (root / "t.csv").write_text("file,label\n1.jfif2,a\nsub/2,b\n")
    assert paths_of(take_inventory(root)) == ["1.jfif2", "sub/2"]


@pytest.mark.parametrize(
    ("content", "cure"),
    [
        (b"PK\x03\x04rest", "save the sheet as CSV"),
        (b"PAR1rest", "write it as CSV"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"\x1f\x8brest", "gunzip"),
    ],
)
def test_a_file_that_is_no_text_is_named_with_its_cure(
    images: Path, content: bytes, cure: str
) -> None:
    (images.parent / "t.csv").write_bytes(content)
    with pytest.raises(ListError, match=cure):
        read(images, images.parent / "t.csv")


def test_flags_for_columns_are_refused_where_there_are_none(tmp_path: Path) -> None:
    folders = named(tmp_path, "a/1.jpg", "b/1.jpg")
    with pytest.raises(UsageError, match="--file-column x: only a table has columns"):
        take_inventory(folders, columns=ColumnOptions(file="x"))
    coco = write_coco(tmp_path / "a", (0, 7))
    with pytest.raises(DataError, match="COCO annotations have no columns"):
        take_inventory(folders, coco, columns=ColumnOptions(label="x"))


def test_a_label_of_two_words_in_a_text_list_is_one_class(images: Path) -> None:
    path = table(images, "", "images/{i}.jpg brown bear{k}")
    assert classes_of(read(images, path))[0] == "brown bear0"


def test_columns_with_different_values_in_every_row_are_no_classes(images: Path) -> None:
    for row in ("{i} images/{i}.jpg", "images/{i}.jpg n02 {i} 6{i}"):
        with pytest.raises(ListError, match="--label-column"):
            read(images, table(images, "", row))


def test_a_column_of_0_and_1_that_may_describe_the_image_is_refused_with_both_choices(
    images: Path,
) -> None:
    path = table(images, "filename, camera, phone, cup", "{i}.jpg, {a}, {b}, {c}")
    with pytest.raises(ListError, match=r"'camera,phone,cup'\).*'phone,cup'\)"):
        read(images, path)
    inventory = read(images, path, label="camera,phone,cup")
    assert classes_of(inventory) == expected("camera", "phone", "cup")


def test_the_first_line_is_data_if_it_names_a_file_or_repeats_a_value(images: Path) -> None:
    path = table(images, "", "{i},c{k}")
    path.write_text("missing-one,c0\n" + path.read_text())
    assert len(read(images, path).entries) == IMAGES + 1


@pytest.mark.parametrize("name", ["a\0b.jpg", "/", "."])
def test_a_cell_that_cannot_be_the_name_of_a_file_is_refused_with_its_line(
    images: Path, name: str
) -> None:
    path = table(images, "file,label", "{i}.jpg,c{k}")
    path.write_text(path.read_text() + f"{name},c0\n")
    refused = "(expected the name of an |line contains NUL)"  # Python 3.10's csv says that
    with pytest.raises(ListError, match=rf"{path}, line {IMAGES + 2}: {refused}"):
        read(images, path)


def test_a_name_that_is_too_long_for_a_file_is_a_missing_file(
    images: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = table(images, "file,label", "{i}.jpg,c{k}")
    path.write_text(path.read_text() + f"{'a' * 300},c0\n")
    assert len(read(images, path).entries) == IMAGES + 1
    assert "1 of" in caplog.text and "looked for 'aaaa" in caplog.text


def test_one_damaged_line_does_not_make_the_others_a_single_column(images: Path) -> None:
    for separator in ",;\t|":
        lines = [f"breed{separator}image"]
        lines += [f"c{i % 3}{separator}sub/{i:05d}.jpg" for i in range(IMAGES)]
        path = images.parent / "table.csv"
        for number in (0, 1, 4):
            damaged = [
                line if i != number else line.replace(separator, "") for i, line in enumerate(lines)
            ]
            path.write_text("\n".join(damaged))
            with pytest.raises(ListError, match="fields as in the first line"):
                read(images, path)
            path.write_text("\n".join([*lines[:3], lines[3] + separator + lines[4], *lines[5:]]))
            with pytest.raises(ListError, match="fields as in the first line, got 4"):
                read(images, path)


def test_a_damaged_line_does_not_make_the_words_of_a_class_several_classes(images: Path) -> None:
    lines = [f"{i:05d}.jpg {('ace of clubs', 'joker')[i % 2]}" for i in range(IMAGES)]
    path = images.parent / "list.txt"
    path.write_text("\n".join(lines))
    assert set(classes_of(read(images, path))) == {"ace of clubs", "joker"}
    for number, line in ((IMAGES - 1, ".jpg joker"), (0, "00000.jpg "), (3, "00003.jpg")):
        path.write_text("\n".join([*lines[:number], line, *lines[number + 1 :]]))
        with pytest.raises(ListError, match=rf"line {number + 1}: expected the name .* then its "):
            read(images, path)


OBJECTS = {
    "Azure ML": {
        "image_url": "azureml://x/{}.jpg",
        "label": [{"label": "can", "topX": 0.1, "topY": 0.1, "bottomX": 0.3, "isCrowd": 0}],
    },
    "Hugging Face": {
        "file_name": "{}.jpg",
        "objects": {"bbox": [[1, 2, 3, 4]], "categories": ["can"]},
    },
}


@pytest.mark.parametrize("tool", OBJECTS)
def test_json_lines_of_objects_give_an_image_the_classes_of_its_objects_with_a_warning(
    images: Path, tool: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = images.parent / "objects.jsonl"
    line = json.dumps(OBJECTS[tool])
    other = line.replace("can", "cup").replace("{}", "00001")
    path.write_text(line.replace("{}", "00000") + "\n" + other + "\n")
    assert classes_of(read(images, path)) == ["can", "cup"]
    assert "has boxes, as for object detection, which are not used" in caplog.text


def test_an_image_without_a_label_among_images_with_one_is_an_error(images: Path) -> None:
    path = images.parent / "vertex.csv"
    path.write_text("gs://b/00000.jpg,rose\ngs://b/00001.jpg,tulip\ngs://b/00002.jpg\n")
    with pytest.raises(ListError, match="line 3: the label is empty"):
        read(images, path)
    path.write_text("gs://b/00000.jpg,rose,tulip\ngs://b/00001.jpg,tulip\ngs://b/00002.jpg\n")
    assert classes_of(read(images, path)) == ["rose+tulip", "tulip", ""]


def test_an_empty_split_among_splits_is_refused_with_the_flag_that_ignores_them(
    images: Path,
) -> None:
    path = images.parent / "vertex.csv"
    path.write_text(
        "TRAIN,gs://b/00000.jpg,rose\nTEST,gs://b/00001.jpg,tulip\n"
        "UNASSIGNED,gs://b/00002.jpg,rose\n"
    )
    with pytest.raises(ListError, match=r"line 3: .*or unassigned; .*--split-column none"):
        read(images, path)
    assert not read(images, path, split="none").splits


@pytest.mark.parametrize("name", ["HAM10000_metadata", "labels.tab", "labels.data"])
def test_a_table_may_have_any_name_if_it_is_text(images: Path, name: str) -> None:
    path = images.parent / name
    path.write_text("image_id,dx\n00000,nv\n00001,mel\n")
    assert classes_of(read(images, path)) == ["nv", "mel"]
    path.write_bytes(b"\xff\xd8\xff\xe0\0\x10JFIF\0")
    with pytest.raises(UsageError, match="expected a list as text"):
        read(images, path)


def test_a_separator_at_the_end_of_the_first_line_is_no_column(images: Path) -> None:
    path = images.parent / "cars.csv"
    path.write_text("x1,class,image,\n3,BMW X3,00000.jpg\n4,Audi S4,00001.jpg\n")
    assert classes_of(read(images, path)) == ["BMW X3", "Audi S4"]


def test_a_json_object_of_classes_and_their_files_is_a_table(images: Path) -> None:
    path = images.parent / "train.json"
    path.write_text('{"rose": ["rose/00000", "rose/00001"], "tulip": ["tulip/00002"]}')
    assert classes_of(read(images, path)) == ["rose", "rose", "tulip"]


def test_annotations_without_category_names_take_their_numbers(
    images: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = images.parent / "train2018.json"
    document = {
        "images": [{"id": i, "file_name": f"x/{i:05d}.jpg"} for i in range(3)],
        "annotations": [{"image_id": i, "category_id": (31, 900, 5)[i]} for i in range(3)],
    }
    path.write_text(json.dumps(document))
    assert classes_of(read(images, path)) == ["31", "900", "5"]
    assert "--labels names them" in caplog.text
    path.write_text(
        json.dumps(document | {"annotations": [], "categories": [{"id": 1, "name": "a"}]})
    )
    with pytest.raises(ListError, match=r"none of 3 images has one; .*unlabeled split"):
        read(images, path)
