"""`im2rec PREFIX ROOT`: MXNet's im2rec.py, its flags and files, over our lists and records.

With `--list` it writes lists, without it packs the lists of PREFIX. docs/records.md lists the
intended differences from im2rec.py 1.9.1 and how to restore its behavior.
"""

import argparse
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from image_classification import __version__
from image_classification.cli import command_line, interruption
from image_classification.cli.lists import write_lists
from image_classification.cli.pack import INTERPOLATION_NUMBERS
from image_classification.contract import environment
from image_classification.errors import UsageError, counted
from image_classification.labels.lists import ListEntry
from image_classification.labels.tree import IM2REC_EXTENSIONS
from image_classification.logs import late_progress
from image_classification.prepare.encode import Transcoding
from image_classification.prepare.pack import PackOptions
from image_classification.prepare.pack_lists import pack_lists, select_lists

_SWITCHES = ("list", "recursive", "shuffle", "pass-through", "center-crop", "pack-label")
_TRUE, _FALSE = ("true", "1"), ("false", "0")
_CPP_DEFAULTS = {
    "color": "1",
    "resize": "-1",
    "center_crop": "0",
    "quality": "95",
    "encoding": ".jpg",
    "inter_method": "1",
    "label_width": "1",
    "pack_label": "0",
    "nsplit": "1",
    "part": "0",
    "unchanged": "0",
}
"""The keys of MXNet's C++ im2rec; `label_width` needs no option, because lists are read whole."""
_CPP_OPTIONS = ("color", "resize", "quality", "encoding")  # as options, with the same values
_INTERPOLATIONS = {str(number): name for number, name in INTERPOLATION_NUMBERS.items()}
_EPILOG = """\
examples:
  im2rec --list --recursive --train-ratio 0.8 data/flowers images/
      data/flowers_train.lst, data/flowers_val.lst and data/labels.json
  im2rec --resize 256 --quality 95 --num-thread 4 data/flowers images/
      a .rec and .idx next to each list of data/flowers
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run im2rec and return its exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if is_cpp_form(words):
        refuse = partial(_refuse_cpp_form, words)
        return interruption.exit_code_of(lambda: command_line.exit_code_of(refuse, sys.stderr))
    namespace = parser().parse_args(without_old_values(words))
    run = partial(_list if namespace.list else _pack, namespace)
    return interruption.exit_code_of(lambda: command_line.exit_code_of(run, sys.stderr))


def is_cpp_form(words: Sequence[str]) -> bool:
    """Return whether the words are `LIST ROOT OUT key=value …`, for MXNet's C++ im2rec."""
    if len(words) < 3 or any(word.startswith("-") for word in words[:3]):
        return False
    return words[2].endswith(".rec") or any("=" in word for word in words[2:])


def translated_cpp_form(words: Sequence[str]) -> tuple[str, list[str]]:
    """Return the command that packs what the C++ im2rec packs, and the words it leaves out."""
    has_output = "=" not in words[2]
    values, left_out = {}, []
    for word in words[3 if has_output else 2 :]:
        name, has_value, value = word.partition("=")
        if has_value and name in _CPP_DEFAULTS:
            values[name] = value
        else:
            left_out.append(word)
    given = {**_CPP_DEFAULTS, **values}
    if given["resize"] == "0":
        given["resize"] = _CPP_DEFAULTS["resize"]
    is_slice = given["nsplit"] != "1"
    output = ["--output", words[2]] if has_output and not is_slice else []
    command = [*(["im2rec"] if is_slice else ["image-classification", "pack"]), *words[:2], *output]
    if given["unchanged"] != "0":
        command += ["--pass-through"] * is_slice  # `pack` stores files as they are
    else:
        for name in _CPP_OPTIONS:  # one of them makes `pack` encode, as the C++ im2rec always does
            if given[name] != _CPP_DEFAULTS[name] or name == "quality":
                command += [f"--{name}", given[name]]
        if given["center_crop"] != "0" and given["resize"] != "-1":
            command.append("--center-crop")  # there it has no effect without `resize`
        method = given["inter_method"]
        if method not in _INTERPOLATIONS:
            left_out.append(f"inter_method={method}")
        elif method != _CPP_DEFAULTS["inter_method"]:
            command += ["--inter-method", method] if is_slice else []
            command += [] if is_slice else ["--interpolation", _INTERPOLATIONS[method]]
    command += ["--pack-label"] * (given["pack_label"] != "0")
    if is_slice:
        command += ["--nsplit", given["nsplit"], "--part", given["part"]]
    return shlex.join(command), left_out


def _refuse_cpp_form(words: Sequence[str]) -> int:
    command, left_out = translated_cpp_form(words)
    dropped = f"; without an equivalent: {' '.join(left_out)}" if left_out else ""
    raise UsageError(
        "LIST ROOT OUT key=value is the command line of MXNet's C++ im2rec, this is im2rec.py's; "
        f"the same images are packed by: {command}{dropped}"
    )


def without_old_values(words: Sequence[str]) -> list[str]:
    """Translate a command line of before 2018, when switches took values.

    `--list True` → `--list`, `--recursive 0` → nothing, `--shuffle False` → `--no-shuffle`. True,
    False, 1 or 0 after a switch is its value (write a folder of that name as `./1`).
    """
    result: list[str] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        name, has_value, value = word.partition("=")
        if name.removeprefix("--") not in _SWITCHES or not name.startswith("--"):
            result.append(word)
            continue
        if not has_value and rest and rest[0].lower() in (*_TRUE, *_FALSE):
            value = rest.pop(0)
        is_on = value.lower() not in _FALSE
        if name == "--shuffle":
            result += [] if is_on else ["--no-shuffle"]
        elif is_on:
            result.append(name)
    return result


def parser() -> argparse.ArgumentParser:
    """Return the parser: the command line of im2rec.py, and our additions."""
    top = command_line.Parser(
        prog="im2rec",
        description="Make lists of the images below ROOT, or pack the lists of PREFIX into record\n"
        "files: MXNet's im2rec.py, without MXNet.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument(
        "prefix", metavar="PREFIX", help="prefix of the .lst files to write or to pack"
    )
    top.add_argument("root", type=Path, metavar="ROOT", help="the folder of the images")
    top.add_argument("--version", action="version", version=__version__)
    _add_list_options(top.add_argument_group("making lists"))
    _add_pack_options(top.add_argument_group("packing records"))
    command_line.add_robustness(top)
    return top


def _add_list_options(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--list", action="store_true", help="make lists instead of record files")
    add(
        "--exts",
        nargs="+",
        default=list(IM2REC_EXTENSIONS),
        metavar="EXT",
        help=f"file extensions, ignoring case (default: {' '.join(IM2REC_EXTENSIONS)})",
    )
    add("--chunks", type=int, default=1, metavar="N", help="cut the list into N lists (default: 1)")
    add("--train-ratio", type=float, default=1.0, metavar="R", help="default: 1.0")
    add("--test-ratio", type=float, default=0.0, metavar="R", help="default: 0")
    add("--recursive", action="store_true", help="visit subfolders, one class each")
    add(
        "--no-shuffle",
        dest="shuffle",
        action="store_false",
        help="keep the order in which the folders are visited",
    )
    add("--skip-hidden", action="store_true", help="skip names that begin with a dot")
    add(
        "--exact-im2rec-ratios",
        action="store_true",
        help="compute split sizes as im2rec.py does, which drops images when the ratios add up to "
        "1",
    )


def _add_pack_options(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--pass-through", action="store_true", help="store the files as they are")
    add("--resize", type=int, default=0, metavar="N", help="shorter side (default: 0, unchanged)")
    add("--center-crop", action="store_true", help="crop the middle square first")
    add("--quality", type=int, default=95, metavar="Q", help="JPEG quality, 1 to 100 (default: 95)")
    add("--num-thread", type=int, default=1, metavar="N", help="threads (default: 1)")
    add("--color", type=int, default=1, choices=(-1, 0, 1), help="1 color, 0 gray, -1 as stored")
    add("--encoding", default=".jpg", choices=(".jpg", ".png"), help="default: .jpg")
    add(
        "--inter-method",
        type=int,
        default=1,
        choices=sorted(INTERPOLATION_NUMBERS),
        help="0 nearest, 1 bilinear (default), 2 bicubic, 3 area, 4 Lanczos, 9 by size",
    )
    add(
        "--pack-label",
        action="store_true",
        help="store all labels of each image, not only the first",
    )
    add("--label-width", type=int, metavar="N", help="number of labels required on every line")
    add("--nsplit", type=int, default=1, metavar="N", help="with --part: number of parts")
    add("--part", type=int, default=0, metavar="K", help="pack part K of the list, from 0")
    add(
        "--exact-im2rec-prefix",
        action="store_true",
        help="pack every list that begins with PREFIX, as im2rec.py does (data → data2.lst)",
    )


def _list(args: argparse.Namespace) -> int:
    prefix = os.path.abspath(args.prefix)
    tree = write_lists(prefix, args, include_hidden=not args.skip_hidden)
    if not args.skip_hidden:
        _warn_of_hidden(tree.entries)
    return 0


def _warn_of_hidden(entries: Sequence[ListEntry]) -> None:
    paths = (entry.path for entry in entries)
    hidden = [path for path in paths if path.startswith(".") or f"{os.sep}." in path]
    if hidden:
        sys.stderr.write(
            f"{counted(len(hidden), 'hidden files are listed')}, as im2rec.py does "
            f"({hidden[0]!a}); --skip-hidden skips them\n"
        )


def _pack(args: argparse.Namespace) -> int:
    transcoding = None
    max_pixels = environment.max_pixels()
    if not args.pass_through:
        transcoding = Transcoding(
            resize=args.resize,
            center_crop=args.center_crop,
            quality=args.quality,
            encoding=args.encoding,
            color=args.color,
            interpolation=INTERPOLATION_NUMBERS[args.inter_method],
        )
    options = PackOptions(
        transcoding, args.pack_label, args.label_width, args.part, args.nsplit, max_pixels
    )
    lists = select_lists(
        Path(os.path.abspath(args.prefix)), exact_im2rec_prefix=args.exact_im2rec_prefix
    )
    with ExitStack() as stack:

        def begin(path: Path, is_done: bool) -> Callable[[int, int], None]:
            stack.close()  # ends the progress of the previous list
            done = ": done before the interruption" if is_done else ""
            command_line.say(f"Creating .rec file from {path} in {path.parent}{done}")
            command_line.flush()
            return stack.enter_context(late_progress(path.name, "images"))

        reports = pack_lists(
            lists,
            args.root,
            options,
            workers=command_line.workers_of(args.num_thread, "--num-thread"),
            max_bad=args.max_bad,
            shard_bytes=args.shard_size,
            resume=args.resume,
            on_list=begin,
        )
    for report in reports:
        command_line.say(*report.lines())
    return 0


if __name__ == "__main__":
    sys.exit(main())
