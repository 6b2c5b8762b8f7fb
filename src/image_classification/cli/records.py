"""`image-classification list`, `pack` and `inspect`: from folders to record files and back."""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from image_classification.contract import environment
from image_classification.data.inspection import (
    RecordSummary,
    describe_record,
    extract,
    summarise,
)
from image_classification.data.labels import LABELS_FILE, LabelMap
from image_classification.data.listing import divide_list, shuffled, write_list
from image_classification.data.packing import PackReport, pack
from image_classification.data.recordio import RecordFile
from image_classification.data.transcoding import Transcoding
from image_classification.data.tree import IM2REC_EXTENSIONS, walk
from image_classification.errors import DataError, UsageError
from image_classification.logs import Progress

if TYPE_CHECKING:
    from argparse import _SubParsersAction

_LIST_EPILOG = """\
examples:
  image-classification list data/flowers images/
      data/flowers.lst (shuffled) and data/labels.json from one folder a class
  image-classification list data/flowers images/ --train-ratio 0.8
      data/flowers_train.lst and data/flowers_val.lst
"""
_PACK_EPILOG = """\
examples:
  image-classification pack data/flowers_train.lst images/
      data/flowers_train.rec and .idx, the image files as they are
  image-classification pack data/flowers_train.lst images/ --resize 256 --max-bad 1%
      shorter side 256 pixels, JPEG; up to 1% of the images may be unusable
"""
_INSPECT_EPILOG = """\
examples:
  image-classification inspect data/flowers_train.rec
  image-classification inspect data/flowers_train.rec --record 17
  image-classification inspect data/flowers_train.rec --extract some/folder
"""


def add_commands(subparsers: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `list`, `pack` and `inspect`."""
    _add_list(subparsers)
    _add_pack(subparsers)
    _add_inspect(subparsers)


def _add_list(subparsers: _SubParsersAction[argparse.ArgumentParser]) -> None:
    command = subparsers.add_parser(
        "list",
        help="write lists (.lst) of the images below a folder",
        description="Number the images below ROOT and their folders, the classes.\n"
        "Prints a line FOLDER NUMBER for each class; writes lists, and labels.json beside them.",
        epilog=_LIST_EPILOG,
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
    command.set_defaults(run=_run_list)


def _add_pack(subparsers: _SubParsersAction[argparse.ArgumentParser]) -> None:
    command = subparsers.add_parser(
        "pack",
        help="pack the images of a list into a record file (.rec, .idx)",
        description="Pack the images of LIST, whose paths are relative to ROOT, in its order.\n"
        "Without a transcoding option the image files are stored byte for byte.",
        epilog=_PACK_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = command.add_argument
    add("list", type=Path, metavar="LIST", help="the .lst file")
    add("root", type=Path, metavar="ROOT", help="the folder its paths are relative to")
    add("--output", type=Path, metavar="FILE.rec", help="default: LIST with the ending .rec")
    add(
        "--pass-through",
        action="store_true",
        help="store the files as they are: the default, for those who want to say so",
    )
    transcoding = command.add_argument_group("transcoding")
    add = transcoding.add_argument
    add("--resize", type=int, metavar="N", help="shorter side in pixels, up or down")
    add("--center-crop", action="store_true", help="cut out the middle square first")
    add("--quality", type=int, metavar="Q", help="of the JPEG, 1 to 100 (default: 95)")
    add("--encoding", choices=(".jpg", ".png"), help="default: .jpg")
    add("--color", type=int, choices=(-1, 0, 1), help="1 colour (default), 0 grey, -1 as stored")
    add = command.add_argument
    add("--pack-label", action="store_true", help="store all labels of a list with several")
    add("--workers", type=int, metavar="N", help="threads (default: one a core)")
    add(
        "--max-bad",
        type=max_bad_of,
        default=0,
        metavar="N|P%",
        help="how many images may be unusable and left out (default: 0)",
    )
    add("--json", action="store_true", help="print the report as JSON")
    command.set_defaults(run=_run_pack)


def _add_inspect(subparsers: _SubParsersAction[argparse.ArgumentParser]) -> None:
    command = subparsers.add_parser(
        "inspect",
        help="show what is in a record file",
        description="Count records, labels and image formats; show one record; extract images.",
        epilog=_INSPECT_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = command.add_argument
    add("file", type=Path, metavar="FILE.rec")
    add("--record", type=int, metavar="K", help="show (or extract) record K only, from 0")
    add("--extract", type=Path, metavar="DIR", help="write images to DIR/<label>/<id>.<ext>")
    add("--resync", action="store_true", help="skip damaged places instead of failing")
    add("--json", action="store_true", help="print JSON")
    command.set_defaults(run=_run_inspect)


def max_bad_of(text: str) -> int | float:
    """A count as int, a percentage as share (float)."""
    try:
        amount = float(text[:-1]) / 100 if text.endswith("%") else int(text)
    except ValueError:
        amount = -1
    if not 0 <= amount or (isinstance(amount, float) and amount > 1):
        raise argparse.ArgumentTypeError(f"expected a count as 5 or a share as 1%, got {text!r}")
    return amount


def _run_list(args: argparse.Namespace) -> int:
    tree = walk(
        args.root,
        recursive=args.recursive,
        extensions=args.exts,
        include_hidden=args.include_hidden,
    )
    lists = divide_list(
        shuffled(tree.entries) if args.shuffle else tree.entries,
        chunks=args.chunks,
        train_ratio=args.train_ratio,
        test_ratio=args.test_ratio,
        exact_im2rec_ratios=args.exact_im2rec_ratios,
    )
    for suffix, entries in lists.items():
        path = Path(f"{args.prefix}{suffix}.lst")
        write_list(path, entries)
        sys.stderr.write(f"{path}: {len(entries)} images\n")
    _write_labels(Path(args.prefix).with_name(LABELS_FILE), tree.labels)
    if args.recursive:
        _say(*(f"{folder} {number}" for number, folder in enumerate(tree.labels.names)))
    return 0


def _write_labels(path: Path, labels: LabelMap) -> None:
    if path.is_file():
        try:
            is_same = LabelMap.read(path) == labels
        except DataError:
            is_same = False
        if not is_same:
            sys.stderr.write(f"{path}: replaced, it had other classes\n")
    labels.write(path)


def _run_pack(args: argparse.Namespace) -> int:
    options: dict[str, Any] = {
        name: getattr(args, name)
        for name in ("resize", "center_crop", "quality", "encoding", "color")
        if getattr(args, name) is not None and getattr(args, name) is not False
    }
    if args.pass_through and options:
        named = ", ".join(f"--{name.replace('_', '-')}" for name in options)
        raise UsageError(
            f"--pass-through stores the files as they are, so {named} cannot be met; drop one"
        )
    with ExitStack() as stack:
        progress: list[Progress] = []

        def show(done: int, total: int) -> None:
            if not progress:
                progress.append(stack.enter_context(Progress("packing", total, "images")))
            progress[0].reach(done)

        report = pack(
            args.list,
            args.root,
            args.output or args.list.with_suffix(".rec"),
            transcoding=Transcoding(**options) if options else None,
            pack_labels=args.pack_label,
            workers=args.workers or environment.cpu_count(),
            max_bad=args.max_bad,
            on_progress=show,
        )
    _say(json.dumps(report.to_json(), indent=1) if args.json else _report_text(report))
    return 0


def _report_text(report: PackReport) -> str:
    lines = [f"{report.output}: {report.packed} records, {report.size_bytes} bytes"]
    lines += [f"class {label:g}: {count}" for label, count in report.class_counts.items()]
    lines += [f"skipped {image.path}: {image.reason}" for image in report.skipped]
    return "\n".join(lines)


def _run_inspect(args: argparse.Namespace) -> int:
    with RecordFile(args.file, resync=args.resync) as file:
        if args.record is not None:
            description = describe_record(file, args.record)
        if args.extract is not None:
            numbers = range(len(file)) if args.record is None else [args.record]
            _say(f"{extract(file, numbers, args.extract)} images written to {args.extract}")
        elif args.record is None:
            summary = summarise(file)
            _say(json.dumps(asdict(summary), indent=1) if args.json else _summary_text(summary))
        elif args.json:
            _say(json.dumps(description, indent=1))
        else:
            _say(*(f"{name}: {value}" for name, value in description.items()))
    return 0


def _summary_text(summary: RecordSummary) -> str:
    lines = [f"{summary.path}: {summary.records} records, {summary.size_bytes} bytes"]
    if summary.content_bytes is not None:
        least, median, most = summary.content_bytes
        lines.append(f"content: {least} to {most} bytes, median {median}")
    if summary.labels is not None:
        formats = ", ".join(f"{count} {name}" for name, count in (summary.formats or {}).items())
        lines += [f"formats: {formats}", f"classes: {len(summary.labels)}"]
        lines += [f"label {label}: {count}" for label, count in summary.labels.items()]
    elif summary.records:
        lines.append("image headers: none, these are not image records")
    lines.append(f"index: {summary.index}")
    return "\n".join(lines)


def _say(*lines: str) -> None:
    text = "".join(f"{line}\n" for line in lines)
    # Names that are not UTF-8 are shown with their bytes escaped.
    sys.stdout.write(text.encode("utf-8", "backslashreplace").decode())
