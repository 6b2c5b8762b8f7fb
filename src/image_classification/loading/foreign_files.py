"""Names what a folder of data holds in place of samples, and the command that helps.

In: a folder in which no sample was found, or a file given as data. Out: the end of a sentence. It
looks at the names of files, and at the first bytes of small ones, which can be pointers.
"""

import os
import re
import shlex
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from image_classification.errors import LFS_CURE, LFS_POINTER, ListError
from image_classification.labels.tree import IMAGE_EXTENSIONS, look_into

_MOST_FILES = 2000  # that are looked at
_MOST_DEPTH = 4  # folders in folders
_MOST_NAMED = 3  # kinds in one message: a failure file has 1,024 characters
_ADDRESS = re.compile(r"(?i)([a-z][a-z0-9+.-]+):/+(.*)")
_POINTER_BYTES = 1024  # a pointer is shorter

_UNPACK = "unpack it ({command}) and give the folder with the class folders"
_ARRAYS = "save each image as a PNG in a folder named after its class"
_PACK = "image-classification preprocess --input {folder} --list {path} --output channels"

_IMAGES = "images outside a class folder"
_SORT = (
    "move each into a folder named after its class, or give their classes in a table "
    "(image-classification preprocess --input {folder} --list TABLE.csv --output channels)"
)
_TABLE = "a table"
_POINTERS = (
    (b"version https://git-lfs", LFS_POINTER, LFS_CURE),
    (b"/annex/objects/", "a git-annex pointer, not the file itself", "run git annex get ."),
    (b"../", "a git-annex pointer, not the file itself", "run git annex get ."),
)

# A pattern of lower-case file names, what that is, and the cure; the first row that fits counts.
_FORMATS = tuple(
    (re.compile(pattern), kind, cure)
    for pattern, kind, cure in (
        (
            r".*\.(?:part|partial|crdownload|download|tmp|aria2)",
            "an unfinished download",
            "finish it",
        ),
        (r".*\.dvc|dvc\.(?:yaml|lock)", "a DVC file, not the data", "run dvc pull in its folder"),
        (
            r".*\.(?:tfrecords?|tfrec)(?:-\d+-of-\d+)?(?:\.gz)?",
            "a TFRecord file",
            "give its folder itself, with decompressed files (gunzip)",
        ),
        (r".*[.-]idx\d-ubyte(?:\.gz)?", "an IDX file of arrays, as of MNIST", _ARRAYS),
        (
            r".*\.(?:tar\.gz|tgz)",
            "a tar archive",
            _UNPACK.format(command="tar -xf {path} -C {folder}")
            + ", or decompress a shard of WebDataset (gunzip {path})",
        ),
        (
            r".*\.cls",
            "a label of WebDataset outside a tar",
            "pack the images with their labels (mkdir SHARDS; tar --sort=name -cf "
            "SHARDS/0.tar -C {folder} .) and give SHARDS",
        ),
        (
            r".*\.(?:tar(?:\.(?:gz|bz2|xz|zst|lz4))?|tgz|tbz2?|txz)",
            "a tar archive",
            _UNPACK.format(command="tar -xf {path} -C {folder}"),
        ),
        (
            r".*\.zip",
            "a ZIP archive",
            _UNPACK.format(command="python -m zipfile -e {path} {folder}"),
        ),
        (r".*\.7z(?:\.\d+)?", "a 7z archive", _UNPACK.format(command="7z x {path} -o{folder}")),
        (r".*\.rar", "a RAR archive", _UNPACK.format(command="unrar x {path} {folder}")),
        (
            r".*\.gz",
            "a gzip file",
            "decompress it (gunzip {path}), and unpack it if it is an archive",
        ),
        (
            r".*\.beton",
            "a file of FFCV, which only FFCV reads",
            "pack the images that it was made from (image-classification preprocess --input "
            "IMAGES --output channels)",
        ),
        (
            r".*\.(?:arrow|feather)",
            "an Arrow table, as of Hugging Face",
            "write it as Parquet (in Python, for each split: datasets.load_from_disk(FOLDER)"
            '["train"].to_parquet("DIR/train.parquet")) and write channels from that '
            "(image-classification preprocess --input DIR --output channels; it needs pip install "
            "pyarrow)",
        ),
        (
            r".*\.parquet",
            "a table with images inside, as of Hugging Face",
            "write channels from it (image-classification preprocess --input {folder} --output "
            "channels; it needs pip install pyarrow)",
        ),
        (r".*\.(?:h5|hdf5|hdf)", "an HDF5 file of arrays", _ARRAYS),
        (r".*\.(?:npz|npy)", "a file of NumPy arrays", _ARRAYS),
        (r".*\.mat", "a MATLAB file", _ARRAYS),
        (
            r".*\.(?:pkl|pickle|joblib|pt|pth)|data_batch_\d+|test_batch",
            "a pickle, which is not read because it can contain code",
            _ARRAYS,
        ),
        (r".*\.(?:mdb|lmdb)", "an LMDB database", _ARRAYS),
        (
            r".*\.(?:xlsx?|ods)",
            "a spreadsheet",
            "save it as CSV, next to the images, and pack them (image-classification preprocess "
            "--input {folder} --list FILE.csv --output channels)",
        ),
        (
            r".*\.(?:csv|tsv|jsonl|ndjson|manifest|coco\.json)",
            _TABLE,
            f"if it has the class of each image, pack them ({_PACK})",
        ),
        (
            r".*\.lst",
            "a list",
            "give its folder as the channel train_lst (validation_lst) too, or pack the images "
            f"({_PACK})",
        ),
        (r".*\.rec", "a record file", "it is packed already: train on it, or check it"),
        (r".*\.idx", "the index of record files", "add the .rec file itself"),
        (
            r".*\.(?:mp4|avi|mov|mkv|webm|mpe?g|m4v)",
            "a video",
            "save frames of it as JPEG in a folder named after their class",
        ),
        (
            r".*\.(?:onnx|safetensors|params|pb|keras|ckpt)",
            "a model",
            "give it as the channel model, and images as this one",
        ),
    )
)
_COMPANIONS = re.compile(
    r"(?:readme|licen[cs]e|changelog|citation|copying|notice|authors)(?:\..*)?"
    r"|.*\.(?:md|rst|html?|pdf|bib)|dataset_infos?\.json|metadata\.yaml|croissant\.json"
)


def describe_contents(folder: Path, otherwise: str = "") -> str:
    """Return what `folder`, in which no sample was found, holds, and the cure.

    Args:
        folder: the folder.
        otherwise: the text if no file in it is of a known kind but a table, whose files are not
            the trouble; "" counts the other files.
    """
    found: dict[tuple[str, str], tuple[int, Path]] = {}
    companions: list[str] = []
    other: dict[str, tuple[int, Path]] = {}
    is_cut = False
    for number, path in enumerate(islice(_files(folder), _MOST_FILES)):
        is_cut = number + 1 == _MOST_FILES
        named = _named(path, folder)
        if named is not None:
            count, first = found.get(named, (0, path))
            found[named] = (count + 1, first)
        elif _COMPANIONS.fullmatch(path.name.lower()):
            companions.append(path.name)
        else:
            kind = path.suffix.lower()
            count, first = other.get(kind, (0, path))
            other[kind] = (count + 1, first)
    if found and not (otherwise and all(kind == _TABLE for kind, _ in found)):
        if any(kind == _TABLE for kind, _ in found):
            found.pop((_IMAGES, _SORT), None)  # the cure of the table is theirs
        rows = sorted(found.items(), key=lambda row: -row[1][0])
        parts = [
            _sentence(kind, cure, count, path, folder, is_cut)
            for (kind, cure), (count, path) in rows[:_MOST_NAMED]
        ]
        return "; ".join(parts)
    if otherwise:
        return otherwise
    if other:
        count, first = max(other.values(), key=lambda row: row[0])
        files = "file" if count == 1 else "files"
        kind = f"{first.suffix} {files}" if first.suffix else f"{files} without an extension"
        what = look_into(str(first)).what
        shown = f"{str(first)!r}, {what}" if what else repr(str(first))
        return f"{'more than ' * is_cut}{count} {kind} (for example {shown})"
    if companions:
        shown = ", ".join(sorted(set(companions))[:5])
        return f"only {shown}: get the data itself, which is not in this folder"
    with os.scandir(folder) as entries:
        has_folder = any(entry.is_dir() for entry in entries)
    if has_folder:
        return "only empty or hidden folders and files: was the data copied completely?"
    return "nothing: the folder is empty"


def refuse_pointer(path: Path) -> None:
    """Raise a ListError if a list is a pointer to the file, such as Git LFS leaves."""
    if pointer := _pointer(path):
        raise ListError(f"{path}: expected a list of images, found {': '.join(pointer)}")


def describe_missing(path: Path) -> str:
    """Return the end of a sentence about data at a path where nothing is, and the cure."""
    if address := _ADDRESS.fullmatch(str(path)):
        uri = f"{address[1].lower()}://{address[2]}"  # a path loses one of the slashes
        command = "aws s3 sync" if uri.startswith("s3:") else "copy"
        return f"an address: download it first ({command} {shlex.quote(uri)} DIR) and give DIR"
    return "no such file or folder"


def describe_file(path: Path) -> str:
    """Return what a file that is given in place of a folder of data is, and the cure."""
    named = _named(path, path.parent)
    if named is None:
        return f"a file; give the folder that holds the data, such as {path.parent}"
    return _sentence(*named, 1, path, path.parent, is_cut=False)


def _sentence(kind: str, cure: str, count: int, path: Path, folder: Path, is_cut: bool) -> str:
    """Name `count` files of one kind, with an example, and the cure for it."""
    cure = cure.format(path=shlex.quote(str(path)), folder=shlex.quote(str(folder)))
    more = f"{'more than ' * is_cut}{count - 1} more like it"
    if not kind.startswith(("a ", "an ", "the ")):
        return f"{'more than ' * is_cut}{count} {kind} (for example {str(path)!r}): {cure}"
    return f"{kind} ({str(path)!r}{f', and {more}' if count > 1 else ''}): {cure}"


def _files(folder: Path) -> Iterator[Path]:
    """Yield the files below `folder`, also links to nowhere, without hidden ones, in name order."""
    for where, folders, names in os.walk(folder):
        depth = len(Path(where).relative_to(folder).parts)
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__MACOSX")))
        if depth >= _MOST_DEPTH:
            folders.clear()
        for name in sorted(names):
            if not name.startswith("."):
                yield Path(where, name)


def _named(path: Path, folder: Path) -> tuple[str, str] | None:
    """Return the kind of a file and its cure; None if neither name nor pointer says anything."""
    pointer = _pointer(path)
    if pointer is not None:
        return pointer
    name = path.name.lower()
    if os.path.splitext(name)[1] in IMAGE_EXTENSIONS:
        return (_IMAGES, _SORT) if path.parent == folder else None
    for pattern, kind, cure in _FORMATS:
        if pattern.fullmatch(name):
            return kind, cure
    return None


def _pointer(path: Path) -> tuple[str, str] | None:
    """Return what a small text or a link to nowhere stands for, if it is one of `_POINTERS`."""
    try:
        if path.is_symlink() and not path.exists():
            if "annex" in os.readlink(path):
                return _POINTERS[1][1:]
            return "links to nowhere", "copy the files that they point to"
        if not path.is_file() or not 0 < path.stat().st_size < _POINTER_BYTES:
            return None
        with path.open("rb") as file:
            head = file.read(_POINTER_BYTES)
    except OSError:
        return None
    for mark, kind, cure in _POINTERS:
        if head.startswith(mark) and (mark != b"../" or b"annex" in head):
            return kind, cure
    return None
