"""Packing several lists, one after the other: a list that an interrupted run had finished stays.

In: lists, their root. Out: a record file beside each list. `.data_train.rec.done` beside an output
says that it is complete, until the last list is.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from image_classification.data.files import write_text
from image_classification.data.listing import read_list
from image_classification.data.pack_options import PackOptions, describe_job, select_part
from image_classification.data.pack_report import PackReport
from image_classification.data.packing import pack
from image_classification.data.recordio import RecordFile
from image_classification.errors import DataError


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
    """Pack each list into the record file beside it.

    Args:
        lists: paths of `.lst` files; only their last extension is replaced.
        root: the folder that the paths in them are relative to.
        options: what goes into the records.
        workers, max_bad, shard_bytes, resume: as `pack` takes them.
        on_list: called with (list, whether it is done already); returns what is called with
            (images done, images in the list).

    Raises: as `pack`; the lists before are complete.
    """
    reports = []
    for path in lists:
        output = output_of(path, options)
        marker = _marker(output)
        job = {**describe_job(path, root, options), "shard_bytes": shard_bytes}
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
        _marker(output_of(path, options)).unlink(missing_ok=True)
    return reports


def _marker(output: Path) -> Path:
    return output.with_name(f".{output.name}.done")


def output_of(path: Path, options: PackOptions) -> Path:
    """`data.lst` → `data.rec`, or `data.part003.rec` for one part of several."""
    suffix = f".part{options.part:03d}.rec" if options.parts > 1 else ".rec"
    return path.with_name(path.name.removesuffix(path.suffix) + suffix)


def _finished(
    marker: Path, job: dict[str, object], output: Path, list_path: Path, options: PackOptions
) -> PackReport | None:
    """What an interrupted run reported of this output, if it is there and as it was."""
    try:
        content = json.loads(marker.read_text("utf-8"))
        if content["job"] != json.loads(json.dumps(job)):
            return None
        report = PackReport.from_json(content["report"])
        names = report.shards or (output.name,)
        ids = [_ids(output.with_name(name)) for name in names]
    except (OSError, ValueError, KeyError, TypeError, DataError):
        return None
    skipped = {image.id for image in report.skipped}
    entries = select_part(read_list(list_path), options)
    expected = [entry.id for entry in entries if entry.id not in skipped]
    return report if [id_ for part in ids for id_ in part] == expected else None


def _ids(path: Path) -> list[int]:
    with RecordFile(path) as file:
        ids: list[int] = file.record_headers["id"].tolist() if len(file) else []
        return ids
