"""`image-classification inspect` and `rec2idx`: what is in a record file, and its index."""

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from image_classification.cli import command_line
from image_classification.errors import UsageError, counted
from image_classification.files import written_beside
from image_classification.labels.kinds import LabelKind, remedy
from image_classification.labels.label_map import LabelMap
from image_classification.prepare import inspect as inspection
from image_classification.prepare.contact_sheet import draw_contact_sheet
from image_classification.records.format import map_file
from image_classification.records.index import INDEX_SUFFIX
from image_classification.records.packed import is_packed
from image_classification.records.parquet import is_table
from image_classification.records.reader import RecordFile
from image_classification.records.rescue import measure_loss, salvage, write_index

_NAMED = 20  # lost ids in the text for people; JSON has all


def add_commands(commands: command_line.Commands) -> None:
    """Add `inspect` and `rec2idx`."""
    _add_inspect(commands)
    _add_rec2idx(commands)


def _add_inspect(commands: command_line.Commands) -> None:
    command = command_line.add_command(
        commands,
        "inspect",
        "show the content of a record file",
        """image-classification inspect data/flowers_train.rec
  image-classification inspect data/flowers_train.rec --record 17
  image-classification inspect data/flowers_train.rec --contact-sheet first.png
  image-classification inspect data/flowers_train.rec --extract some/folder
  image-classification inspect damaged.rec --on-damage resync --salvage sound.rec""",
        "Count records, classes, sizes and formats; show one record; draw or extract images;\n"
        "save the sound records of a damaged file.",
    )
    add = command.add_argument
    add("file", type=Path, metavar="FILE.rec")
    add("--record", type=int, metavar="K", help="show (or extract) only record K, counted from 0")
    add("--extract", type=Path, metavar="DIR", help="write images to DIR/<label>/<id>.<ext>")
    add("--contact-sheet", type=Path, metavar="FILE.png", help="draw the first records on a sheet")
    add("--first", type=int, default=64, metavar="N", help="records on the sheet (default: 64)")
    _add_on_damage(command)
    add("--salvage", type=Path, metavar="NEW.rec", help="write the sound records to a new file")
    add("--json", action="store_true", help="print JSON")
    command.set_defaults(run=_run_inspect)


def _add_rec2idx(commands: command_line.Commands) -> None:
    command = command_line.add_command(
        commands,
        "rec2idx",
        "write the index of a record file",
        """image-classification rec2idx data/flowers_train.rec
      data/flowers_train.idx with the image ids, as the packer wrote it""",
        "Write the index (.idx) of a record file, with the image ids as keys.",
    )
    add = command.add_argument
    add("file", type=Path, metavar="FILE.rec")
    add("index", type=Path, nargs="?", metavar="FILE.idx", help="default: next to the record file")
    add(
        "--numbered", action="store_true", help="keys 0, 1, 2, …, as MXNet's rec2idx.py writes them"
    )
    _add_on_damage(command)
    command.set_defaults(run=_run_rec2idx)


def _add_on_damage(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--on-damage",
        choices=("fail", "resync"),
        default="fail",
        help="resync: skip damaged bytes and report what was lost (default: fail)",
    )


def _run_inspect(args: argparse.Namespace) -> int:
    if args.first < 1:
        raise UsageError(f"expected --first 1 or more, got {args.first}")
    if args.record is not None and args.salvage is not None:
        raise UsageError(
            "--salvage saves all sound records, --record selects one: drop one of them"
        )
    if args.contact_sheet is not None:
        command_line.check_sheet(args.contact_sheet, [args.file])
    is_other = args.file.is_file() and args.file.suffix.lower() != ".rec"
    if is_other and (is_packed(args.file) or is_table(args.file)):
        map_file(args.file)  # raises for a pointer to the file
        raise UsageError(
            f"{args.file}: inspect reads record files (.rec); TFRecord files, tar shards and "
            f"Parquet tables are examined by image-classification check {args.file}"
        )
    with RecordFile(args.file, resync=args.on_damage == "resync") as file:
        result = _inspect(file, args)
        if args.on_damage == "resync":
            result["lost"] = asdict(measure_loss(file))
    if args.json:
        summary = result.pop("summary", None)
        command_line.say(json.dumps({**(asdict(summary) if summary else {}), **result}, indent=1))
    else:
        command_line.say(*_lines(result))
    return 0


def _inspect(file: RecordFile, args: argparse.Namespace) -> dict[str, Any]:
    """Do what the options ask for; return the results as JSON values."""
    result: dict[str, Any] = {}
    if args.record is not None:
        result.update(inspection.describe_record(file, args.record))
    if args.contact_sheet is not None:
        numbers = range(min(args.first, len(file))) if args.record is None else [args.record]
        with written_beside(args.contact_sheet) as path:
            draw_contact_sheet(file, numbers, LabelMap.beside(file.path)).save(path, "PNG")
        result["contact_sheet"] = str(args.contact_sheet)
    if args.extract is not None:
        numbers = range(len(file)) if args.record is None else [args.record]
        extracted = inspection.extract(file, numbers, args.extract)
        result["extracted"] = {
            **asdict(extracted),
            "listing": extracted.listing and str(extracted.listing),
            "folder": str(args.extract),
        }
    if args.salvage is not None:
        result["salvaged"] = {"records": salvage(file, args.salvage), "file": str(args.salvage)}
    return result or {"summary": inspection.summarize(file)}


def _lines(result: dict[str, Any]) -> list[str]:
    lines: list[str] = []
    for name, value in result.items():
        if name == "summary":
            lines += _summary_lines(value)
        elif name == "extracted":
            lines += _extracted_lines(value)
        elif name == "salvaged":
            lines.append(f"{counted(value['records'], 'sound records')} written to {value['file']}")
        elif name == "lost":
            lines += _loss_lines(value)
        else:
            lines.append(f"{name}: {value}")
    return lines


def _extracted_lines(extracted: dict[str, Any]) -> list[str]:
    lines = [f"{counted(extracted['images'], 'images')} written to {extracted['folder']}"]
    if extracted["others"]:
        lines.append(f"{counted(extracted['others'], 'files')} without an image written as .bin")
    if extracted["empty"]:
        lines.append(counted(extracted["empty"], "records have no content and no file"))
    if extracted["listing"]:
        lines.append(f"all labels of the images: {extracted['listing']}")
    return lines


def _loss_lines(lost: dict[str, Any]) -> list[str]:
    keys = lost["lost_keys"]
    if keys is None:
        return [
            f"lost: {lost['skipped_bytes']} bytes; without an index, the ids in them are unknown"
        ]
    more = f" and {len(keys) - _NAMED} more" if len(keys) > _NAMED else ""
    named = f": {', '.join(map(str, keys[:_NAMED]))}{more}" if keys else ""
    return [
        f"lost: {lost['skipped_bytes']} bytes, {counted(len(keys), 'records of the index')}{named}"
    ]


def _summary_lines(summary: inspection.RecordSummary) -> list[str]:
    lines = [f"{summary.path}: {counted(summary.records, 'records')}, {summary.size_bytes} bytes"]
    if summary.content_bytes is not None:
        lines.append("content: {} to {} bytes, median {}".format(*_ends(summary.content_bytes)))
    if summary.widths is not None and summary.heights is not None:
        lines.append("width: {} to {} pixels, median {}".format(*_ends(summary.widths)))
        lines.append("height: {} to {} pixels, median {}".format(*_ends(summary.heights)))
    if summary.labels is not None:
        formats = ", ".join(f"{count} {name}" for name, count in (summary.formats or {}).items())
        lines += [f"formats: {formats}", *_label_lines(summary, summary.labels)]
    elif summary.records:
        lines.append("image headers: none, these are not image records")
    lines.append(f"index: {summary.index}")
    for damage in summary.damages:
        lines.append(
            f"damaged at byte {damage.position}, record {damage.record}: {damage.reason}; "
            f"skipped {damage.skipped_bytes} bytes"
        )
    return lines


def _label_lines(summary: inspection.RecordSummary, labels: dict[str, int]) -> list[str]:
    kind, width = LabelKind(summary.label_kind), summary.label_width
    head, what = [f"classes: {len(labels)}"], "label"
    if kind is LabelKind.MULTI_HOT:
        head.append(f"labels: {width} per image, a 0 or 1 for every class (multi_label=1)")
        head += [f"images of no class: {summary.unlabeled}"] * bool(summary.unlabeled)
    elif kind is LabelKind.DETECTION:
        head[0] = f"labels: object detection, up to {width} numbers per image"
        head.append(f"objects: {sum(labels.values())} of {len(labels)} classes")
        head += [f"images without an object: {summary.unlabeled}"] * bool(summary.unlabeled)
        what = "objects of class"
    elif kind is LabelKind.IDENTITY:
        head = [
            f"identities: {len(labels)}",
            f"records that index the identities, without an image: {summary.index_records}",
        ]
        what = "identity"
    elif kind is LabelKind.NUMBERS:
        head = [f"labels: up to {width} numbers per image, which are not classes"]
    if kind in (LabelKind.DETECTION, LabelKind.IDENTITY, LabelKind.NUMBERS):
        head.append(f"note: {remedy(kind, summary.path)}")
    for label, count in labels.items():
        name = f" ({summary.names[label]})" if label in summary.names else ""
        head.append(f"{what} {label}{name}: {count}")
    return head


def _ends(spread: tuple[int, int, int]) -> tuple[int, int, int]:
    """Smallest, largest, median."""
    return spread[0], spread[2], spread[1]


def _run_rec2idx(args: argparse.Namespace) -> int:
    path = args.index or args.file.with_suffix(INDEX_SUFFIX)
    with RecordFile(args.file, resync=args.on_damage == "resync") as file:
        count = write_index(file, path, numbered=args.numbered)
    command_line.say(f"{path}: {counted(count, 'records')}")
    return 0
