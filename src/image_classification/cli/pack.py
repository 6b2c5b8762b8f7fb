"""`image-classification pack`: the images of a list in a record file."""

from __future__ import annotations

import argparse
import json
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from image_classification.cli.command_line import (
    add_robustness,
    add_segment,
    ended_by_sigterm,
    say,
    workers_of,
)
from image_classification.contract import environment
from image_classification.errors import UsageError
from image_classification.logs import late_progress
from image_classification.prepare.append import append
from image_classification.prepare.encode import AUTO, Transcoding
from image_classification.prepare.pack import PackOptions, pack

if TYPE_CHECKING:
    from argparse import _SubParsersAction


INTERPOLATION_NUMBERS = {
    0: "nearest",
    1: "bilinear",
    2: "bicubic",
    3: "area",
    4: "lanczos",
    9: AUTO,
}
"""The values of `inter_method` in MXNet's C++ im2rec; its 10, a random choice, is not offered."""

_EPILOG = """\
examples:
  image-classification pack data/flowers_train.lst images/
      data/flowers_train.rec and .idx, the image files as they are
  image-classification pack data/flowers_train.lst images/ --resize 256 --max-bad 1%
      shorter side 256 pixels, JPEG; up to 1% of the images may be unusable
  image-classification pack big.lst images/ --shard-size 512 --resume
      big-00000-of-00017.rec, …; begun again after an interruption, it goes on
  image-classification pack new.lst images/ --append-to data/flowers_train.rec
      the new images at the end of an existing record file
"""


def add_commands(subparsers: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `pack`."""
    _add_pack(subparsers)


def _add_pack(subparsers: _SubParsersAction[argparse.ArgumentParser]) -> None:
    command = subparsers.add_parser(
        "pack",
        help="pack the images of a list into a record file (.rec, .idx)",
        description="Pack the images of LIST, whose paths are relative to ROOT, in its order.\n"
        "Without a transcoding option the image files are stored byte for byte.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = command.add_argument
    add("list", type=Path, metavar="LIST", help="the .lst file")
    add("root", type=Path, metavar="ROOT", help="the folder its paths are relative to")
    where = command.add_mutually_exclusive_group()
    where.add_argument(
        "--output", type=Path, metavar="FILE.rec", help="default: LIST with the ending .rec"
    )
    where.add_argument(
        "--append-to", type=Path, metavar="FILE.rec", help="add the images to an existing file"
    )
    add(
        "--renumber",
        action="store_true",
        help="with --append-to: new ids after the largest one in the file",
    )
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
    add("--color", type=int, choices=(-1, 0, 1), help="1 color (default), 0 gray, -1 as stored")
    add(
        "--interpolation",
        choices=sorted({*INTERPOLATION_NUMBERS.values()}),
        help="default: bilinear (antialiased)",
    )
    add = command.add_argument
    add_segment(command)
    add("--pack-label", action="store_true", help="store all labels of a list with several")
    add("--workers", type=int, metavar="N", help="threads (default: one a core)")
    add_robustness(command)
    add("--json", action="store_true", help="print the report as JSON")
    command.set_defaults(run=_run_pack)


def _run_pack(args: argparse.Namespace) -> int:
    options = _options(args)
    if args.append_to is not None and (args.resume or args.shard_size):
        raise UsageError("--append-to adds to one file: drop --shard-size and --resume")
    if args.renumber and args.append_to is None:
        raise UsageError("--renumber gives new ids to appended images: it needs --append-to")
    with ended_by_sigterm(), late_progress("packing", "images") as show:
        common: dict[str, Any] = {
            "options": options,
            "workers": workers_of(args.workers),
            "max_bad": args.max_bad,
            "on_progress": show,
        }
        if args.append_to is not None:
            report = append(args.list, args.root, args.append_to, renumber=args.renumber, **common)
        else:
            report = pack(
                args.list,
                args.root,
                args.output or args.list.with_suffix(".rec"),
                shard_bytes=args.shard_size,
                resume=args.resume,
                **common,
            )
    say(*([json.dumps(report.to_json(), indent=1)] if args.json else report.lines()))
    return 0


def _options(args: argparse.Namespace) -> PackOptions:
    names = [field.name for field in fields(Transcoding) if field.name in vars(args)]
    given: dict[str, Any] = {
        name: getattr(args, name) for name in names if getattr(args, name) not in (None, False)
    }
    if args.color == 0:  # 0 == False
        given["color"] = 0
    if args.resize == 0:
        given["resize"] = 0
    if args.pass_through and given:
        named = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise UsageError(
            f"--pass-through stores the files as they are, so {named} cannot be met; drop one"
        )
    max_pixels = environment.MAX_PIXELS.read_integer(1)
    transcoding = Transcoding(**given) if given else None
    if args.segment and args.encoding == ".png":
        raise UsageError("--segment gives JPEGs restart markers: drop it, or --encoding .png")
    return PackOptions(transcoding, args.pack_label, max_pixels=max_pixels, segment=args.segment)
