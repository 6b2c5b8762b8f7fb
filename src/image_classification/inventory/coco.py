"""COCO annotations: the classes of an image are the categories of its annotations.

In: an object with `images`, `annotations` and `categories`. Out: rows. Boxes and masks are not
used. If every image has one category, images have one class, else several.
Source: https://cocodataset.org/#format-data.
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from image_classification.errors import ListError, counted
from image_classification.inventory.rows import Row
from image_classification.labels.label_map import LabelMap

_log = logging.getLogger(__name__)


def is_coco(document: object) -> bool:
    """Return True for an object with a list of images and a list of annotations."""
    return isinstance(document, dict) and all(
        isinstance(document.get(name), list) for name in ("images", "annotations")
    )


def coco_rows(path: Path, document: Any) -> tuple[list[Row], LabelMap]:
    """Return one row per image, and the names of its categories in the order of their ids.

    A category that only groups others, as Roboflow writes it, is no class.

    An image without annotations has no class where images can have several; elsewhere it is left
    out with a warning.

    Raises:
        ListError: an image without a file name, an annotation without an image or category, or two
            images or categories with one id.
    """
    categories = document.get("categories") or _unnamed(path, document["annotations"])
    names = _category_names(path, categories)
    files: dict[Any, str] = {}
    for number, image in enumerate(document["images"], start=1):
        name = image.get("file_name") if isinstance(image, dict) else None
        if not isinstance(name, str) or not name or not isinstance(image.get("id"), (int, str)):
            raise ListError(f'{path}, image {number}: expected "id" and "file_name": "…"')
        if files.setdefault(image["id"], name) != name:
            raise ListError(
                f"{path}, image {number}: {name!r} has the id of {files[image['id']]!r}; give each "
                "image its own id; files that were merged often repeat ids"
            )
    classes: dict[Any, dict[str, None]] = {identifier: {} for identifier in files}
    boxes = 0
    for number, annotation in enumerate(document["annotations"], start=1):
        if not isinstance(annotation, dict):
            raise ListError(f"{path}, annotation {number}: expected an object")
        image, category = annotation.get("image_id"), annotation.get("category_id")
        if not isinstance(image, (int, str)) or image not in files:
            raise ListError(
                f"{path}, annotation {number}: image_id {image!r:.50} is not among the images"
            )
        if not isinstance(category, (int, str)) or category not in names:
            raise ListError(
                f"{path}, annotation {number}: category_id {category!r:.50} is not among the "
                "categories"
            )
        boxes += bool(annotation.get("bbox") or annotation.get("segmentation"))
        classes[image][names[category]] = None
    if boxes:
        _log.warning(
            "%s: %d annotations have boxes or masks, which are not used: the categories of an "
            "image are its classes",
            path,
            boxes,
        )
    used = {name for found in classes.values() for name in found}
    above = (category.get("supercategory") for category in categories)
    groups = {name for name in above if isinstance(name, str)}
    kept = [name for name in names.values() if name in used or name not in groups]
    return _rows(path, files, classes), LabelMap(tuple(kept))


def _unnamed(path: Path, annotations: Sequence[Any]) -> list[dict[str, Any]]:
    """Return the categories of annotations without names: their numbers, as in iNaturalist 2018."""
    numbers = {
        found
        for annotation in annotations
        if isinstance(annotation, dict)
        and isinstance(found := annotation.get("category_id"), (int, str))
    }
    if numbers:
        _log.warning(
            '%s: there are no "categories": the classes are named by their numbers; --labels names '
            "them",
            path,
        )
    return [{"id": number, "name": str(number)} for number in numbers]


def _category_names(path: Path, categories: object) -> dict[Any, str]:
    names: dict[Any, str] = {}
    for number, category in enumerate(categories if isinstance(categories, list) else [], start=1):
        name = category.get("name") if isinstance(category, dict) else None
        identifier = category.get("id") if isinstance(category, dict) else None
        if not isinstance(name, str) or not name or not isinstance(identifier, (int, str)):
            raise ListError(f'{path}, category {number}: expected "id" and "name"')
        if names.setdefault(identifier, name) != name:
            raise ListError(
                f"{path}, category {number}: {name!r} has the id of {names[identifier]!r}; give "
                "each category its own id"
            )
    if not names:
        raise ListError(
            f'{path}: expected "annotations" with the category of each image and "categories" with '
            '"id" and "name", found none; this may be the file of an unlabeled split'
        )
    if len(set(names.values())) < len(names):
        raise ListError(f"{path}: two categories have the same name; rename one of them")
    return dict(sorted(names.items(), key=lambda item: (isinstance(item[0], str), item[0])))


def _rows(
    path: Path, files: Mapping[Any, str], classes: Mapping[Any, Mapping[str, None]]
) -> list[Row]:
    is_single = all(len(found) < 2 for found in classes.values())
    rows, without = [], 0
    for number, (identifier, file) in enumerate(files.items(), start=1):
        found = tuple(classes[identifier])
        where = f"{path}, image {number}"
        if not is_single:
            rows.append(Row(where, file, "|".join(found), classes=found))
        elif found:
            rows.append(Row(where, file, found[0]))
        else:
            without += 1
    if not rows:
        raise ListError(
            f"{path}: expected annotations with the category of each image, but none of "
            f"{without} images has one; this may be the file of an unlabeled split"
        )
    if without:
        left_out = counted(without, "images have no annotation and are left out")
        _log.warning("%s: %s", path, left_out)
    return rows
