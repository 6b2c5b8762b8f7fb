"""What is known of columns before a table is read: the user's choice, usual names, kinds of cells.

`inventory.columns` decides by these what the columns of one table mean.
"""

import posixpath
import re
from collections.abc import Sequence
from dataclasses import dataclass

from image_classification.inventory.grid import IMAGE_NAME, Grid
from image_classification.inventory.matching import FileIndex

NONE = "none"
"""The value of a flag that switches a meaning off."""

FILES = (
    "file", "filename", "filepath", "path", "image", "imagepath", "imagename", "img", "imageid",
    "id", "idcode", "files", "filenames", "filepaths", "paths", "images", "imagefile", "imgpath",
    "imgname", "imgfile", "imgid", "imageindex", "imageurl", "imageuri", "imagegcsuri", "gcsuri",
    "gcsfilepath", "url", "uri", "photo", "photoid", "picture", "fileid", "fname", "key", "name",
)  # fmt: skip
# Usual names of the class, the surest first; of two in a row, the earlier one is taken.
LABELS = (
    ("label", "class", "classname", "category", "target", "labelname", "breed"),
    ("labels", "classes", "categories", "targets", "tag", "tags", "lbl", "classid", "classlabel",
     "labelid", "categoryid", "categoryname", "findinglabels", "y", "groundtruth",
     "classificationannotationdisplayname", "classificationannotationsdisplayname",
     "labellabel", "labelslabel", "objectslabel", "objectslabels", "objectscategory",
     "objectscategories", "objectsclass", "annotationslabel", "annotationscategory"),
    ("diagnosis", "dx", "level", "grade", "species", "disease", "findings", "variety", "cultivar",
     "emotion", "genre", "genres", "severity", "annotation", "annotations", "choice",
     "choices"),
)  # fmt: skip
LABEL_WORDS = {"label", "labels", "class", "classes", "category", "target", "diagnosis", "tags"}
CLASS_NAMES = ("classname", "labelname")
SPLITS = ("split", "set", "subset", "partition", "dataset")
BOXES = {
    "bbox", "bboxes", "box", "boxes", "polygon", "polygons", "segmentation", "topx", "xmin", "x1",
}  # fmt: skip
MORE_SPLITS = ("mluse", "usage", "phase", "fold")
GROUPS = ("group", "groupid")
# Words in the names of columns that describe an image, but are no classes of it.
DESCRIPTIONS = {
    "sex", "gender", "age", "view", "position", "patient", "width", "height", "date", "time",
    "site", "location", "localization", "size", "orientation", "laterality", "frontal", "lateral",
    "ap", "pa", "camera", "device", "photographer", "source", "license", "author", "url", "lat",
    "lon", "latitude", "longitude", "x", "y", "w", "h", "x1", "x2", "y1", "y2", "xmin", "xmax",
    "ymin", "ymax", "roi", "bbox", "confidence", "score", "count", "md5", "hash", "sha1", "index",
    "number", "caption", "text", "description", "comment", "note", "notes", "remark", "version",
    "format", "depth", "channels", "unnamed", "lesion", "annotator",
    "created", "updated", "lead", "approx", "month", "year", "day",
    "seed", "row", "weight", "crowd", "study", "series", "exam", "hospital", "subject", "visit",
}  # fmt: skip
SPLIT_CELLS = {
    "train", "training", "tr", "val", "valid", "validation", "dev", "test", "testing",
    "unassigned", "",
}  # fmt: skip

_BITS = {"0", "1", "0.0", "1.0", "-1", "-1.0", "", "nan", "true", "false"}


@dataclass(frozen=True)
class ColumnOptions:
    """What the user says about the columns: names, or numbers from 1.

    Attributes:
        file: the column that names the files.
        label: the column of the class; several, separated by commas, for one column per class.
        split: the column of the split, or "none".
        group: the column of the groups.
        separator: what separates several labels in a cell, or "none".
    """

    file: str | None = None
    label: str | None = None
    split: str | None = None
    group: str | None = None
    separator: str | None = None

    def flags(self) -> list[tuple[str, str]]:
        """Return the flags that were given, with their values."""
        named = {
            "--file-column": self.file,
            "--label-column": self.label,
            "--split-column": self.split,
            "--label-separator": self.separator,
        }
        return [(flag, value) for flag, value in named.items() if value is not None]


def key_of(name: str) -> str:
    """Return a name for comparisons: `Image_ID`, `imageId` and `image id` are one."""
    return re.sub(r"[\W_]+", "", name.casefold())


def is_description(name: str) -> bool:
    """Return True if a column of this name describes an image: its size, its owner, its id."""
    words = set(words_of(name))
    return not words - {"id"} or bool(DESCRIPTIONS & words)


def is_flag(name: str) -> bool:
    """Return True if a column of 0 and 1 of this name describes an image, rather than a class.

    Every word does: "camera" can be both, but "Lung Lesion" is a finding. One letter, such as the
    H of hypertension, measures nothing if it is 0 or 1.
    """
    return set(words_of(name)) <= DESCRIPTIONS | {"id", "is"} and len(name.strip()) > 1


def with_header(grid: Grid, files: FileIndex) -> Grid:
    """Return the grid with its first row as the header, unless that row is data."""
    if not grid.may_have_header or not grid.rows:
        return grid
    first = [cell.strip() for cell in grid.rows[0]]
    keys = {key_of(cell) for cell in first}
    known = {*FILES, *(name for row in LABELS for name in row)}
    if any(IMAGE_NAME.search(cell) or "://" in cell for cell in first):
        return grid
    if keys & known:
        return grid.with_header()
    if any(files.holds(cell) for cell in first if cell):
        return grid
    for position, cell in enumerate(first):  # a value of its own column is not its name
        if cell and sum(cell == other.strip() for other in grid.column(position)) > 1:
            return grid
    if all(re.fullmatch(r"-?\d+(\.\d+)?", cell) for cell in first):
        return grid
    return grid.with_header()


def words_of(name: str) -> list[str]:
    """Return the words of a column's name, in lower case: `Roi.X1` and `ClassId` have two."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    return re.findall(r"[^\W_]+", spaced.casefold())


def is_bits(column: Sequence[str]) -> bool:
    """Return True for a column of 0 and 1; cells may be empty, or -1."""
    cells = {cell.strip().casefold() for cell in set(column)}
    return cells <= _BITS and bool(cells - {"", "nan"})


def is_number(column: Sequence[str]) -> bool:
    """Return True if every cell is a number."""
    return all(re.fullmatch(r"-?\d+(\.\d+)?", cell) for cell in set(column))


def is_measure(column: Sequence[str]) -> bool:
    """Return True if a cell is a fraction: 0.37 is no class."""
    return any(re.fullmatch(r"-?\d*\.\d*[1-9]\d*", cell) for cell in set(column))


def stems(column: Sequence[str]) -> list[str]:
    """Return the name of each file without its folder and extension."""
    return [posixpath.splitext(posixpath.basename(cell))[0] for cell in column]


def has_paths(column: Sequence[str]) -> bool:
    """Return True if most cells are names of image files, or URIs."""
    paths = sum(bool(IMAGE_NAME.search(cell)) or "://" in cell for cell in column)
    return 2 * paths > len(column)
