"""Packs several lists one after the other; a resumed run skips the lists that are done.

In: lists and the folder of their images. Out: a record file next to each list, and until all lists
are packed, a marker `.data_train.rec.done` next to each complete one.
"""

import json
import logging
import re
import shlex
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from image_classification.errors import DataError, UsageError
from image_classification.files import write_text
from image_classification.labels.lists import read_list
from image_classification.prepare.pack import PackOptions, PackReport, pack
from image_classification.records.reader import RecordFile

_SUFFIXES = re.compile(r"(_\d+)?(_train|_val|_test)?\.lst")
_log = logging.getLogger(__name__)


def select_lists(prefix: Path, *, exact_im2rec_prefix: bool = False) -> list[Path]:
    """Return the lists to pack, sorted by name.

    Args:
        prefix: a folder, for every list in it; a `.lst` file, for itself; or a prefix, for
            `PREFIX.lst`, `PREFIX_train.lst`, `PREFIX_0.lst`, `PREFIX_0_val.lst` and similar names.
        exact_im2rec_prefix: return every list whose name begins with the prefix, as im2rec does.

    Raises:
        UsageError: no such list; the message names the lists that are there.
    """
    if prefix.is_dir():
        found = _lists_in(prefix, "")
        if found or not prefix.with_name(f"{prefix.name}.lst").is_file():
            return _some(found, f"{prefix} is a folder without a list (.lst)")
    if prefix.suffix == ".lst" and prefix.is_file():
        return [prefix]
    beginning = _lists_in(prefix.parent, prefix.name)
    if exact_im2rec_prefix:
        return _some(beginning, f"{prefix.parent} has no list that begins with {prefix.name}")
    own = [path for path in beginning if _is_of(prefix, path)]
    others = [path.name for path in beginning if path not in own]
    if others and own:
        _log.warning(
            "not packed: %s (the name begins with %s; --exact-im2rec-prefix packs such lists too)",
            ", ".join(others),
            prefix.name,
        )
    seen = f" (there is {', '.join(others)}; name one of them)" if others else ""
    return _some(
        own, f"expected {prefix}.lst, {prefix}_train.lst or similar names, found none{seen}"
    )


def _lists_in(folder: Path, beginning: str) -> list[Path]:
    try:
        paths = [path for path in folder.iterdir() if path.name.startswith(beginning)]
    except OSError as error:
        raise UsageError(f"{folder}: expected a folder with lists: {error.strerror}") from error
    return sorted(path for path in paths if path.suffix == ".lst" and path.is_file())


def _some(paths: list[Path], complaint: str) -> list[Path]:
    if not paths:
        raise UsageError(f"{complaint}; make lists first: im2rec --list --recursive PREFIX ROOT")
    return paths


def describe_missing_list(path: Path, root: Path) -> str:
    """Return what is expected in place of a list that is not there, and how to get one.

    Args:
        path: what was given as the list: perhaps a prefix as im2rec takes it, or a folder.
        root: the folder of the images.
    """
    named = path if path.name else path.absolute() / "images"  # of `.` and `/`
    prefix = named.with_name(named.name.removesuffix(".lst"))
    said = f"{path}: expected a list (.lst), found {'a folder' if path.is_dir() else 'no file'}"
    if root.suffix == ".lst" and root.is_file():
        return f"{said}; the list comes first: {shlex.join([str(root), str(path)])}"
    found = []
    with suppress(UsageError):
        found = [
            beside for beside in _lists_in(prefix.parent, prefix.name) if _is_of(prefix, beside)
        ]
        if path.is_dir() and not found:
            found = _lists_in(path, "")
    if len(found) == 1:
        return f"{said}; did you mean {found[0]}?"
    if found:
        return (
            f"{said}; name one of the lists {', '.join(path.name for path in found)}, or pack them "
            f"all with im2rec {shlex.join([str(prefix), str(root)])}"
        )
    if path == root:
        prefix = prefix.with_name(f"{prefix.name}-list")
    command = f"im2rec --list --recursive {shlex.join([str(prefix), str(root)])}"
    return f"{said}; write it first ({command}), then pack {prefix}.lst"


def _is_of(prefix: Path, path: Path) -> bool:
    """Return whether a list has the name that im2rec gives to one of a prefix."""
    return bool(_SUFFIXES.fullmatch(path.name[len(prefix.name) :]))


def pack_lists(
    lists: Sequence[Path],
    root: Path,
    options: PackOptions,
    *,
    workers: int,
    max_bad: int | float = 0,
    shard_bytes: int | None = None,
    resume: bool = False,
    on_list: Callable[[Path, bool], Callable[[int, int], None]],
) -> list[PackReport]:
    """Pack each list into the record file next to it.

    Args:
        lists: paths of `.lst` files; only their last extension is replaced.
        root, options, workers, max_bad, shard_bytes, resume: as for `pack`.
        on_list: called with (list, True if it is done already); returns the `on_progress` of
            `pack`.

    Raises: as `pack`; the lists before the failing one are complete.
    """
    reports = []
    for path in lists:
        output = _output_of(path, options)
        marker = _marker(output)
        job = {**options.describe_job(path, root), "shard_bytes": shard_bytes}
        report = _finished(marker, job, output, path, options) if resume else None
        on_progress = on_list(path, report is not None)
        if report is None:
            marker.unlink(missing_ok=True)
            report = pack(
                path,
                root,
                output,
                options,
                workers=workers,
                max_bad=max_bad,
                shard_bytes=shard_bytes,
                resume=resume,
                on_progress=on_progress,
            )
            if resume and len(lists) > 1:
                write_text(marker, json.dumps({"job": job, "report": report.to_json()}))
        reports.append(report)
    for path in lists:
        _marker(_output_of(path, options)).unlink(missing_ok=True)
    return reports


def _marker(output: Path) -> Path:
    return output.with_name(f".{output.name}.done")


def _output_of(path: Path, options: PackOptions) -> Path:
    """Return `data.rec` for `data.lst`, or `data.part003.rec` for a slice of it."""
    suffix = f".part{options.slice:03d}.rec" if options.slices > 1 else ".rec"
    return path.with_name(path.name.removesuffix(path.suffix) + suffix)


def _finished(
    marker: Path, job: dict[str, object], output: Path, list_path: Path, options: PackOptions
) -> PackReport | None:
    """Return what an interrupted run reported of this output, if the output is still as it was."""
    try:
        content = json.loads(marker.read_text("utf-8"))
        if content["job"] != json.loads(json.dumps(job)):
            return None
        report = PackReport.from_json(content["report"])
        names = report.shards or (output.name,)
        ids = [id_ for name in names for id_ in _read_ids(output.with_name(name))]
    except (OSError, ValueError, KeyError, TypeError, DataError):
        return None
    skipped = {image.entry.id for image in report.skipped}
    entries = options.select(read_list(list_path))
    expected = [entry.id for entry in entries if entry.id not in skipped]
    return report if ids == expected else None


def _read_ids(path: Path) -> list[int]:
    with RecordFile(path) as file:
        ids: list[int] = file.record_headers["id"].tolist() if len(file) else []
        return ids
