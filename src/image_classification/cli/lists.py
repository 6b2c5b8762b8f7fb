"""`image-classification list`: the images of a folder tree as lists (.lst) with their classes."""

import argparse
import logging
import sys
from pathlib import Path

from image_classification.cli import command_line
from image_classification.errors import counted
from image_classification.labels.label_map import LABELS_FILE
from image_classification.labels.lists import divide_list, shuffled, write_list
from image_classification.labels.tree import IM2REC_EXTENSIONS, ImageTree, walk

_log = logging.getLogger(__name__)


def add_commands(commands: command_line.Commands) -> None:
    """Add `list`."""
    command = command_line.add_command(
        commands,
        "list",
        "write lists (.lst) of the images below a folder",
        """image-classification list data/flowers images/
      data/flowers.lst (shuffled) and data/labels.json, one class per folder
  image-classification list data/flowers images/ --train-ratio 0.8
      data/flowers_train.lst and data/flowers_val.lst""",
        "Number the images below ROOT, and number their folders as classes. Write the lists\n"
        "with labels.json next to them, and print FOLDER NUMBER for each class.",
    )
    add = command.add_argument
    add(
        "prefix", metavar="PREFIX", help="prefix of the list files: PREFIX.lst, PREFIX_train.lst, …"
    )
    add("root", type=Path, metavar="ROOT", help="the folder of class folders")
    add(
        "--recursive",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="visit subfolders, one class each; --no-recursive: the images in ROOT, one class",
    )
    add(
        "--shuffle",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="shuffle as im2rec does, identically on every run; --no-shuffle keeps folders "
        "together",
    )
    add("--chunks", type=int, default=1, metavar="N", help="cut the list into N lists")
    add(
        "--train-ratio",
        type=float,
        default=1.0,
        metavar="R",
        help="share of the training list; the validation list gets the rest",
    )
    add("--test-ratio", type=float, default=0.0, metavar="R", help="share of the test list")
    add(
        "--exts",
        nargs="+",
        default=list(IM2REC_EXTENSIONS),
        metavar="EXT",
        help=f"file extensions of images, ignoring case (default: {' '.join(IM2REC_EXTENSIONS)})",
    )
    add(
        "--include-hidden",
        action="store_true",
        help="include names that begin with a dot, as im2rec does",
    )
    add(
        "--exact-im2rec-ratios",
        action="store_true",
        help="compute split sizes as im2rec does, which drops images when the ratios add up to 1",
    )
    command.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    write_lists(args.prefix, args, include_hidden=args.include_hidden)
    return 0


def write_lists(prefix: str, args: argparse.Namespace, *, include_hidden: bool) -> ImageTree:
    """Write the lists and `labels.json` next to them; print the class table as im2rec does.

    Args:
        prefix: of the list files.
        args: the options that `list` and `im2rec --list` share.
        include_hidden: include names that begin with a dot.

    Raises:
        DataError: as `walk`, or a `labels.json` with other classes is there already.
    """
    tree = walk(
        args.root, recursive=args.recursive, extensions=args.exts, include_hidden=include_hidden
    )
    lists = divide_list(
        shuffled(tree.entries) if args.shuffle else tree.entries,
        chunks=args.chunks,
        train_ratio=args.train_ratio,
        test_ratio=args.test_ratio,
        exact_im2rec_ratios=args.exact_im2rec_ratios,
    )
    tree.labels.check_beside(Path(prefix).with_name(f"{Path(prefix).name}.lst"))
    for suffix, entries in lists.items():
        path = Path(f"{prefix}{suffix}.lst")
        write_list(path, entries)
        sys.stderr.write(f"{path}: {counted(len(entries), 'images')}\n")
    tree.labels.write(Path(prefix).with_name(LABELS_FILE))
    nested = [name for name in tree.labels.names if "/" in name]
    if nested:
        _log.warning(
            "%s and %d more folders inside other folders are classes of their own, as in im2rec; "
            "train, check and preprocess on %s give their images the class of the top folder (%s)",
            *(nested[0], len(nested) - 1, args.root, nested[0].partition("/")[0]),
        )
    if args.recursive:
        command_line.say(*(f"{folder} {number}" for number, folder in enumerate(tree.labels.names)))
    return tree
