"""`image-classification list`: the images of a folder tree as lists (.lst) with their classes."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from image_classification.cli.command_line import say
from image_classification.labels.label_map import LABELS_FILE
from image_classification.labels.lists import divide_list, shuffled, write_list
from image_classification.labels.tree import IM2REC_EXTENSIONS, ImageTree, walk

if TYPE_CHECKING:
    from argparse import _SubParsersAction


_EPILOG = """\
examples:
  image-classification list data/flowers images/
      data/flowers.lst (shuffled) and data/labels.json from one folder a class
  image-classification list data/flowers images/ --train-ratio 0.8
      data/flowers_train.lst and data/flowers_val.lst
"""


def add_commands(subparsers: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `list`."""
    command = subparsers.add_parser(
        "list",
        help="write lists (.lst) of the images below a folder",
        description="Number the images below ROOT and their folders, the classes.\n"
        "Prints a line FOLDER NUMBER for each class; writes lists, and labels.json beside them.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = command.add_argument
    add("prefix", metavar="PREFIX", help="of the list files: PREFIX.lst, PREFIX_train.lst, …")
    add("root", type=Path, metavar="ROOT", help="the folder of class folders")
    add(
        "--recursive",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="visit sub-folders, one class each; --no-recursive: the images in ROOT, one class",
    )
    add(
        "--shuffle",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="shuffle, always alike (im2rec's order); --no-shuffle keeps folders together",
    )
    add("--chunks", type=int, default=1, metavar="N", help="cut the list in N lists")
    add(
        "--train-ratio",
        type=float,
        default=1.0,
        metavar="R",
        help="share of the training list; what the ratios leave over is the validation list",
    )
    add("--test-ratio", type=float, default=0.0, metavar="R", help="share of the test list")
    add(
        "--exts",
        nargs="+",
        default=list(IM2REC_EXTENSIONS),
        metavar="EXT",
        help=f"extensions of images, in any case (default: {' '.join(IM2REC_EXTENSIONS)})",
    )
    add("--include-hidden", action="store_true", help="keep names that begin with a dot, as im2rec")
    add(
        "--exact-im2rec-ratios",
        action="store_true",
        help="cut as im2rec does, which loses images where ratios add up to 1",
    )
    command.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    write_lists(
        args.prefix,
        args.root,
        recursive=args.recursive,
        extensions=args.exts,
        include_hidden=args.include_hidden,
        is_shuffled=args.shuffle,
        chunks=args.chunks,
        train_ratio=args.train_ratio,
        test_ratio=args.test_ratio,
        exact_im2rec_ratios=args.exact_im2rec_ratios,
    )
    return 0


def write_lists(
    prefix: str,
    root: Path,
    *,
    recursive: bool,
    extensions: Sequence[str],
    include_hidden: bool,
    is_shuffled: bool,
    chunks: int,
    train_ratio: float,
    test_ratio: float,
    exact_im2rec_ratios: bool,
) -> ImageTree:
    """Write the lists and `labels.json` beside them; print the class table as im2rec does.

    Raises:
        DataError: as `walk`, or a `labels.json` with other classes lies there already.
    """
    tree = walk(root, recursive=recursive, extensions=extensions, include_hidden=include_hidden)
    lists = divide_list(
        shuffled(tree.entries) if is_shuffled else tree.entries,
        chunks=chunks,
        train_ratio=train_ratio,
        test_ratio=test_ratio,
        exact_im2rec_ratios=exact_im2rec_ratios,
    )
    tree.labels.check_beside(Path(prefix).with_name(f"{Path(prefix).name}.lst"))
    for suffix, entries in lists.items():
        path = Path(f"{prefix}{suffix}.lst")
        write_list(path, entries)
        sys.stderr.write(f"{path}: {len(entries)} images\n")
    tree.labels.write(Path(prefix).with_name(LABELS_FILE))
    if recursive:
        say(*(f"{folder} {number}" for number, folder in enumerate(tree.labels.names)))
    return tree
