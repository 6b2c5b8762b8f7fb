"""Parquet tables with the images inside, as Hugging Face's datasets stores them.

In: a table with a column of images, `struct<bytes, path>` or bytes, and one of labels. Out: a
`PackedImage` for each row; the images are copied into a file, because a table is only read in large
pieces. Needs pyarrow. Source: datasets `Features` in the schema's metadata, key `huggingface`.
"""

import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from image_classification.errors import LabelError, RecordError, UsageError
from image_classification.records.format import map_file
from image_classification.records.packed_labels import (
    PackedImage,
    PackedLabel,
    label_of_value,
)

_IMAGES = ("image", "img", "picture", "photo", "jpg", "png", "image_bytes", "bytes")
_LABELS = (
    *("label", "labels", "class", "fine_label", "target", "class_label", "category"),
    *("label_name", "class_name", "label_id", "class_id", "tags", "classes"),
)
_ROWS = 64  # that are in memory at a time


def is_table(path: Path) -> bool:
    """Return whether a file is named as a Parquet table."""
    return path.suffix.lower() == ".parquet"


def scan_table(path: Path, copy: BinaryIO) -> Iterator[PackedImage]:
    """Write the images of a table into `copy`, and yield where each one is, with its label.

    Raises:
        UsageError: pyarrow is not installed.
        RecordError: the table is damaged, has no images, or names image files elsewhere.
        LabelError: a row has no class.
        OSError: there is no space for the copy.
    """
    table = _open(path)
    image, label = _columns(path, table.schema_arrow)
    names = _class_names(table.schema_arrow.metadata or {}, label)
    row = position = 0
    try:
        for batch in table.iter_batches(batch_size=_ROWS, columns=[image, label]):
            columns = [batch.column(batch.schema.get_field_index(name)) for name in (image, label)]
            for picture, value in zip(*(column.to_pylist() for column in columns), strict=True):
                content = picture.get("bytes") if isinstance(picture, dict) else picture
                where = f"{path}: row {row}"
                if not isinstance(content, bytes):
                    raise RecordError(
                        f"{where}: expected the bytes of an image in the column {image}, got "
                        f"{picture!r:.100}; store the files themselves (datasets: embed_external_"
                        "files=True)"
                    )
                found = _label(where, value, names)
                copy.write(content)
                yield PackedImage((position, position + len(content)), (0, 0), f"#{row}", found)
                position += len(content)
                row += 1
    except (RecordError, LabelError):
        raise
    except Exception as error:  # pyarrow's own, for each kind of damage
        if isinstance(error, OSError) and error.errno is not None:  # of the disk
            raise
        reason = " ".join(str(error).split())[:200]
        raise RecordError(f"{path}: damaged after row {row}: {reason}; copy it again") from error


def _open(path: Path) -> Any:
    map_file(path)  # refuses a pointer to the file, or a page about it
    try:
        parquet = importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise UsageError(
            f"{path}: reading Parquet tables needs pyarrow: pip install pyarrow"
        ) from error
    try:
        return parquet.ParquetFile(path)
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise RecordError(f"{path}: not a Parquet table, or a damaged one: {reason}") from error


def _columns(path: Path, schema: Any) -> tuple[str, str]:
    """Return the names of the columns with the images and with the labels."""
    known = {name.lower(): name for name in schema.names}
    found = [next((known[n] for n in names if n in known), "") for names in (_IMAGES, _LABELS)]
    if not all(found):
        raise RecordError(
            f"{path}: expected a column with the images ({', '.join(_IMAGES[:3])}, …) and one with "
            f"the classes ({', '.join(_LABELS[:4])}, …), found {', '.join(schema.names[:20])}"
        )
    return found[0], found[1]


def _class_names(metadata: dict[bytes, bytes], label: str) -> list[str]:
    """Return the names of the class numbers; [] if the metadata has none."""
    try:
        features = json.loads(metadata.get(b"huggingface", b"{}"))["info"]["features"]
        feature = features[label]
        inner = feature.get("feature", feature) if isinstance(feature, dict) else feature[0]
        names = inner["names"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return []
    if isinstance(names, list) and all(isinstance(name, str) for name in names):
        return names
    return []


def _label(where: str, value: object, names: list[str]) -> PackedLabel:
    label = label_of_value(where, value)
    if isinstance(value, str) or not names:
        return label
    if label.number is not None and label.number < len(names):
        return label._replace(name=names[label.number])
    numbers = [item for item in label.several or () if isinstance(item, int) and item < len(names)]
    is_complete = len(numbers) == len(label.several or ())
    return label._replace(names=tuple(names[n] for n in numbers) if is_complete else ())
