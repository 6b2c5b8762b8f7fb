"""Folders of class folders with odd names, odd files and damaged images."""

from __future__ import annotations

import os
import random
from pathlib import Path

from generated import edits, pictures
from generated.case import Case, Item

_CLASSES = (
    *("cat", "dog", "0", "1", "10", "2", "Ünï", "ace of clubs", "x.lst", "labels.json", "a.b"),
    *("-x", "#1", "a,b", "a;b", 'q"q', "it's", "猫", "😀", "e\u0301", "é", "train", "test", "None"),
    *("data.rec", "x.tfrecord", "y.tar", "%41", "a|b", "CON", " a", "z ", "a..", "~", "$HOME"),
    *("nan", "true", "1.0", "01", "x" * 200, "a\\b", "[a]", "*", "?", "class", "file:"),
)
_RAW_CLASSES = (b"caf\xe9", b"\xff\xfe", b"\x80", b"caf\xc3\xa9")
_REFUSED_CLASSES = ("a\tb", "a\nb", "a\rb")
_SUFFIXES = ("", "", "", ".jfif", ".jpe", ".JPG", ".png", ".gif", ".txt", ".bin", ".dat", ".lst")
_STEMS = (
    *("img", "1", "001", "a b", "é", "e\u0301", "#", "a,b", "-rf", "x.y", "%20", "'", '"', "~"),
    *("IMG_0001 (2)", "😀", "a\\b", "label", "*", "猫", "nul", "a;b", "&amp;", "{}", "$x"),
)
_SYSTEM = (".DS_Store", "Thumbs.db", "._x.jpg", "desktop.ini")
_NOTES = ("README.md", "notes.txt", "a.csv", "x.json", "LICENSE", "data.xml", "log")


def make(chance: random.Random, folder: Path) -> Case:
    """Write class folders, perhaps in split folders, with odd names and files."""
    root = folder / "photos"
    names = _class_names(chance)
    case = Case(chance.choice(("preprocess", "preprocess", "check", "channel")), root, [])
    case.is_sound = not any(name in _REFUSED_CLASSES for name in names)
    left = pictures.draw(chance, 40)
    has_splits = chance.random() < 0.2 and case.command != "channel"
    splits = chance.choice((("train", "val"), ("Train", "DEV"), ("train", "valid", "test")))
    for split in splits if has_splits else ("",):
        for name in names:
            least = 1 + (name == names[0])  # a validation split needs a class of two images
            _write_class(case, chance, root / split / os.fsdecode(name), left, least)
    if chance.random() < 0.3:
        _add_others(case, chance, root)
    if chance.random() < 0.1:  # in no class, but counted
        content = pictures.sound()[-1][1]
        (root / "loose.jpg").write_bytes(content)
        case.items.append(Item("loose.jpg", content, "", True))
    if chance.random() < 0.3:
        (root / chance.choice(("empty", "Empty 2"))).mkdir(exist_ok=True)
    if chance.random() < 0.1:
        (root / "loop").symlink_to(root)
    if case.command == "preprocess":
        ratios = [] if has_splits else ["--train-ratio", "0.6", "--test-ratio", "0.2"]
        case.options = chance.choice(([], ["--max-bad", "100%"], ratios))
        case.options += chance.choice(([], [], ["--format", "folders"], ["--resize", "32"]))
        if "folders" in case.options and "labels.json" in names:  # it stands next to the classes
            case.is_sound, case.named = False, ("class 'labels.json' cannot be",)
    case.what = f"{len(names)} classes" + (f" in {splits}" if has_splits else "")
    return case


def _class_names(chance: random.Random) -> list[bytes | str]:
    names: list[bytes | str] = list(chance.sample(_CLASSES, chance.choice((2, 2, 3, 4))))
    if {"train", "test"} <= set(names):  # they would be splits
        names.remove("test")
        names += [] if "0" in names else ["0"]
    if chance.random() < 0.15:
        names.append(chance.choice(_RAW_CLASSES))
    if chance.random() < 0.05:
        names.append(chance.choice(_REFUSED_CLASSES))
    return names


def _label(path: Path) -> str:
    return os.fsencode(path.name).decode("utf-8", "backslashreplace")


def _write_class(
    case: Case, chance: random.Random, top: Path, left: list[tuple[str, bytes]], least: int
) -> None:
    top.mkdir(parents=True)
    label = _label(top)
    for _ in range(max(least, chance.choice((1, 2, 3)))):
        inner = top
        while chance.random() < 0.15:
            inner = inner / chance.choice(("more", "2", "é", "x.lst", "train", "a b"))
        inner.mkdir(parents=True, exist_ok=True)
        extension, content = left.pop()
        suffix = chance.choice(_SUFFIXES) or f".{extension}"
        path = inner / f"{chance.choice(_STEMS)}{suffix}"
        if path.exists() or path.name.startswith("."):
            path = inner / f"{len(left)}.{extension}"
        if chance.random() < 0.05:
            target = case.path.parent / f"elsewhere{len(left)}"
            target.write_bytes(content)
            path.symlink_to(target)
        else:
            path.write_bytes(content)
        case.items.append(Item(path.name, content, label))
    if chance.random() < 0.25:
        _add_others(case, chance, top)


def _add_others(case: Case, chance: random.Random, folder: Path) -> None:
    """Add files that are no images: some are counted, those of systems are not."""
    kind = chance.randrange(5)
    if kind == 0:
        (folder / chance.choice(_SYSTEM)).write_bytes(b"Bud1")
    elif kind == 1:
        path = folder / chance.choice(_NOTES)
        if path.exists() or (folder == case.path and path.suffix in (".csv", ".json")):
            return
        path.write_text("a note about the images\n")
        case.others += 1
    elif kind == 2:
        (folder / ".hidden").mkdir(exist_ok=True)
        (folder / ".hidden" / "1.jpg").write_bytes(pictures.sound()[0][1])
        case.others += 1
    elif kind == 3:
        link = folder / "broken.jpg"
        if not link.is_symlink():
            link.symlink_to("nowhere.jpg")
    else:
        path = folder / "page.jpg"
        if path.exists() or folder == case.path:
            return
        content = chance.choice(pictures.NOT_IMAGES)
        path.write_bytes(content)
        case.items.append(Item(path.name, content, "", True))
        case.is_sound = False
    case.named = (*case.named, folder.name, "page.jpg")


def make_damaged(chance: random.Random, folder: Path) -> Case:
    """Write class folders in which the bytes of some images are mutated."""
    root = folder / "photos"
    case = Case(chance.choice(("preprocess", "preprocess", "check")), root, [])
    found = pictures.draw(chance, chance.choice((4, 6, 9)))
    for number, (extension, content) in enumerate(found):
        label = ("cat", "dog")[number % 2]
        path = root / label / f"{number}.{extension}"
        path.parent.mkdir(parents=True, exist_ok=True)
        is_touched = number > 1 and chance.random() < 0.6
        if is_touched and chance.random() < 0.15:
            content = chance.choice(pictures.NOT_IMAGES)
        elif is_touched:
            for _ in range(chance.choice((1, 1, 2, 5))):
                near = len(content) if chance.random() < 0.4 else min(len(content), 120)
                content = edits.applied(content, edits.edit_bytes(content, chance, 0, near))
        path.write_bytes(content)
        case.items.append(Item(path.name, content, label, is_touched))
    if case.command == "preprocess":
        # Images that are encoded again have other bytes, so that only their number is known.
        case.options = chance.choice((["--max-bad", "100%"], ["--max-bad", "100%"], []))
        case.options = case.options + chance.choice(([], ["--resize", "24"]))
    case.named = tuple(item.name for item in case.items)
    case.what = f"{sum(item.is_touched for item in case.items)} mutated images"
    return case
