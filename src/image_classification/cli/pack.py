"""`image-classification pack`: the images of a list in a record file."""

import argparse
import json
from dataclasses import fields
from pathlib import Path
from typing import Any

from image_classification.cli import command_line
from image_classification.contract import environment
from image_classification.errors import ListError, UsageError
from image_classification.logs import late_progress
from image_classification.prepare.append import append
from image_classification.prepare.encode import AUTO, Transcoding
from image_classification.prepare.pack import PackOptions, PackReport, pack
from image_classification.prepare.pack_lists import describe_missing_list

INTERPOLATION_NUMBERS = {
    0: "nearest",
    1: "bilinear",
    2: "bicubic",
    3: "area",
    4: "lanczos",
    9: AUTO,
}
"""The values of `inter_method` in MXNet's C++ im2rec; its 10, a random choice, is not offered."""


def add_commands(commands: command_line.Commands) -> None:
    """Add `pack`."""
    command = command_line.add_command(
        commands,
        "pack",
        "pack the images of a list into a record file (.rec, .idx)",
        """image-classification pack data/flowers_train.lst images/
      data/flowers_train.rec and .idx, the image files as they are
  image-classification pack data/flowers_train.lst images/ --resize 256 --max-bad 1%
      JPEGs with a shorter side of 256 pixels; up to 1% of the images may be unusable
  image-classification pack big.lst images/ --shard-size 512 --resume
      big-00000-of-00017.rec, …; started again after an interruption, it continues
  image-classification pack new.lst images/ --append-to data/flowers_train.rec
      the new images at the end of an existing record file""",
        "Pack the images of LIST, whose paths are relative to ROOT, in its order.\n"
        "Without a transcoding option the image files are stored byte for byte.",
    )
    add = command.add_argument
    add("list", type=Path, metavar="LIST", help="the .lst file")
    add("root", type=Path, metavar="ROOT", help="the folder its paths are relative to")
    target = command.add_mutually_exclusive_group()
    target.add_argument(
        "--output", type=Path, metavar="FILE.rec", help="default: LIST with the suffix .rec"
    )
    target.add_argument(
        "--append-to", type=Path, metavar="FILE.rec", help="add the images to an existing file"
    )
    add(
        "--renumber",
        action="store_true",
        help="with --append-to: number the new images after the largest id in the file",
    )
    add("--pass-through", action="store_true", help="store the files as they are (the default)")
    transcoding = command.add_argument_group("transcoding")
    add = transcoding.add_argument
    add("--resize", type=int, metavar="N", help="resize the shorter side to N pixels, up or down")
    add("--center-crop", action="store_true", help="crop the middle square first")
    add("--quality", type=int, metavar="Q", help="JPEG quality, 1 to 100 (default: 95)")
    add("--encoding", choices=(".jpg", ".png"), help="default: .jpg")
    add("--color", type=int, choices=(-1, 0, 1), help="1 color (default), 0 gray, -1 as stored")
    add(
        "--interpolation",
        choices=sorted(INTERPOLATION_NUMBERS.values()),
        help="default: bilinear (antialiased)",
    )
    add = command.add_argument
    command_line.add_segment(command)
    add(
        "--pack-label",
        action="store_true",
        help="store all labels of each image, not only the first",
    )
    command_line.add_workers(command)
    command_line.add_robustness(command)
    add("--json", action="store_true", help="print the report as JSON")
    command.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    options = _options(args)
    if not args.list.is_file():
        raise ListError(describe_missing_list(args.list, args.root))
    if args.append_to is not None and (args.resume or args.shard_size):
        raise UsageError("--append-to adds to one file: drop --shard-size and --resume")
    if args.renumber and args.append_to is None:
        raise UsageError("--renumber gives new ids to appended images: it needs --append-to")
    try:
        report = _packed(args, options)
    except ListError as error:
        if args.list.suffix.lower() == ".lst":
            raise
        raise ListError(
            f"{error}; if this is a table or a manifest, image-classification preprocess --list "
            "packs its images"
        ) from error
    text = [json.dumps(report.to_json(), indent=1)] if args.json else report.lines()
    command_line.say(*text)
    return 0


def _packed(args: argparse.Namespace, options: PackOptions) -> PackReport:
    workers = command_line.workers_of(args.workers)
    with late_progress("packing", "images") as on_progress:
        if args.append_to is not None:
            return append(
                args.list,
                args.root,
                args.append_to,
                options=options,
                renumber=args.renumber,
                workers=workers,
                max_bad=args.max_bad,
                on_progress=on_progress,
            )
        return pack(
            args.list,
            args.root,
            args.output or args.list.with_suffix(".rec"),
            options,
            workers=workers,
            max_bad=args.max_bad,
            shard_bytes=args.shard_size,
            resume=args.resume,
            on_progress=on_progress,
        )


def _options(args: argparse.Namespace) -> PackOptions:
    names = [field.name for field in fields(Transcoding)]
    values = {name: getattr(args, name) for name in names}
    given: dict[str, Any] = {
        name: value for name, value in values.items() if value is not None and value is not False
    }
    if args.pass_through and given:
        named = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise UsageError(f"--pass-through stores the files as they are: drop it, or drop {named}")
    if args.segment and args.encoding == ".png":
        raise UsageError("--segment gives JPEGs restart markers: drop it, or --encoding .png")
    return PackOptions(
        Transcoding(**given) if given else None,
        args.pack_label,
        max_pixels=environment.max_pixels(),
        segment=args.segment,
    )
