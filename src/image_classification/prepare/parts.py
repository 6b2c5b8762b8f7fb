"""Where a pack writes: parts in a folder beside the output, which becomes visible when all is done.

    .data.rec.packing/        while a pack is under way; removed at its end
        job.json              what is being packed, so that nothing else is resumed
        00000.rec .idx .json  a finished part, and what it holds
    data.rec  data.idx        the result: the parts joined, or
    data-00000-of-00012.rec   the parts as shards, each with its index

A run that may be resumed keeps its finished parts when it is interrupted, whatever ends it; any
other removes them. A part counts as finished when its three files are there, its records are sound
and its ids are those of the list.
"""

from __future__ import annotations

import glob
import json
import logging
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from image_classification.errors import DataError, UsageError
from image_classification.files import write_text, written_beside
from image_classification.labels.lists import ListEntry
from image_classification.prepare.pack_report import PartContent
from image_classification.records.index import copy_lines
from image_classification.records.reader import RecordFile
from image_classification.records.writer import INDEX_SUFFIX, RecordWriter

try:
    import fcntl
except ImportError:  # Windows: there two packs into one output are not kept apart
    fcntl = None  # type: ignore[assignment]

PART_BYTES = 256 << 20
"""Size at which a part of one file is closed, where the run may be resumed."""

_JOB_FILE = "job.json"
_LOCK_FILE = "lock"
_SHARD_NAME = re.compile(r"-\d{5}-of-\d{5}")
_COPY_BYTES = 1 << 20
_log = logging.getLogger(__name__)


class RecordParts:
    """The parts of one output; a context manager that publishes all of them or nothing.

    Args:
        output: the `.rec` file, or the name that those of the shards are derived from.
        job: what is packed and how, as JSON; only the same job can be resumed.
        entries: the list.
        shard_bytes: size at which a shard is closed; None makes one file.
        resume: take the finished parts of an interrupted run, and keep those of this one.

    Attributes:
        finished: what the parts of the interrupted run hold.
        paths: the published record files, after the block.
    """

    def __init__(
        self,
        output: Path,
        job: Mapping[str, Any],
        entries: Sequence[ListEntry],
        *,
        shard_bytes: int | None = None,
        resume: bool = False,
    ) -> None:
        if shard_bytes is not None and shard_bytes < 1:
            raise UsageError(f"expected a shard size above 0 bytes, got {shard_bytes}")
        self.output = output
        self.folder = output.with_name(f".{output.name}.packing")
        self.finished: list[PartContent] = []
        self.paths: tuple[Path, ...] = ()
        self._job = json.loads(json.dumps({**job, "shard_bytes": shard_bytes}))
        self._entries = entries
        self._is_sharded = shard_bytes is not None
        self._part_bytes = shard_bytes or (PART_BYTES if resume else None)
        self._resume = resume
        self._writer: RecordWriter | None = None
        self._lock: IO[bytes] | None = None

    def __enter__(self) -> RecordParts:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = (self.folder / _LOCK_FILE).open("wb")
        try:
            if fcntl is not None:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            raise UsageError(f"another pack is writing {self.output}: wait for its end") from None
        if self._resume:
            self._check_job()
            self.finished = self._finished_parts()
        self._remove_all_but(len(self.finished))
        write_text(self.folder / _JOB_FILE, json.dumps(self._job))
        return self

    def _check_job(self) -> None:
        try:
            job = json.loads((self.folder / _JOB_FILE).read_text("utf-8"))
        except (OSError, ValueError):
            return  # nothing was finished
        differing = sorted(key for key in {*job, *self._job} if job.get(key) != self._job.get(key))
        if differing:
            self._close_lock()
            raise UsageError(
                f"{self.output} cannot be resumed: the interrupted run had another "
                f"{', '.join(differing)} ({', '.join(f'{job.get(key)!r}' for key in differing)}); "
                "use the same, or pack without --resume to begin again"
            )

    def _finished_parts(self) -> list[PartContent]:
        """The parts from the first on that are complete and sound."""
        contents: list[PartContent] = []
        while True:
            path = self._part(len(contents))
            try:
                content = PartContent.from_json(json.loads(path.with_suffix(".json").read_bytes()))
                first = contents[-1].stop if contents else 0
                if content.first != first or not self._is_sound(path, content):
                    raise DataError("it is not what the list says")
            except FileNotFoundError:
                return contents
            except (OSError, ValueError, KeyError, TypeError, DataError) as error:
                _log.warning("%s is packed again: %s", path, error)
                return contents
            contents.append(content)

    def _is_sound(self, path: Path, content: PartContent) -> bool:
        skipped = {image.id for image in content.skipped}
        expected = [entry.id for entry in self._entries[content.first : content.stop]]
        with RecordFile(path) as file:
            ids = file.record_headers["id"].tolist() if len(file) else []
            has_index = file.keys is not None
        return has_index and ids == [id_ for id_ in expected if id_ not in skipped]

    def drop_from(self, number: int) -> None:
        """Forget the finished parts from `number` on: they are packed again."""
        del self.finished[number:]
        self._remove_all_but(number)

    def _remove_all_but(self, parts: int) -> None:
        kept = {_LOCK_FILE, _JOB_FILE}
        for number in range(parts):
            kept |= {self._part(number).with_suffix(s).name for s in (".rec", ".idx", ".json")}
        for path in self.folder.iterdir():
            if path.name not in kept:
                path.unlink()

    def _part(self, number: int) -> Path:
        return self.folder / f"{number:05d}.rec"

    def write(self, payload: bytes, key: int) -> bool:
        """Append a record; whether the part under way has reached its size."""
        if self._writer is None:
            self._writer = RecordWriter(self._part(len(self.finished))).__enter__()
        self._writer.write(payload, key)
        return self._part_bytes is not None and self._writer.position >= self._part_bytes

    def end_part(self, content: PartContent) -> None:
        """Close the part under way, which holds `content`; from now on it is finished."""
        if self._writer is None:
            self._writer = RecordWriter(self._part(len(self.finished))).__enter__()
        writer, self._writer = self._writer, None
        writer.__exit__(None, None, None)
        self.finished.append(content)
        write_text(writer.path.with_suffix(".json"), json.dumps(content.to_json()))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if self._writer is not None:  # only after an error: `end_part` takes it away
                self._writer.__exit__(kind, error, trace)
            if kind is None:
                self._publish()
        finally:
            self._close_lock()
            if kind is None or not (self._resume and self.finished):
                shutil.rmtree(self.folder, ignore_errors=True)

    def _close_lock(self) -> None:
        if self._lock is not None:
            self._lock.close()

    def _publish(self) -> None:
        count = len(self.finished)
        if self._is_sharded:
            names = [f"{self.output.stem}-{k:05d}-of-{count:05d}.rec" for k in range(count)]
            self.paths = tuple(self.output.with_name(name) for name in names)
            for number, path in enumerate(self.paths):
                _move(self._part(number), path)
            self._remove_older_shards()
        elif count == 1:
            self.paths = (self.output,)
            _move(self._part(0), self.output)
        else:
            self.paths = (self.output,)
            join_records([self._part(number) for number in range(count)], self.output)

    def _remove_older_shards(self) -> None:
        """A set of another count under the same name would be read together with this one."""
        stem = self.output.stem
        for path in self.output.parent.glob(f"{glob.escape(stem)}-*-of-*"):
            is_shard = _SHARD_NAME.fullmatch(path.stem[len(stem) :])
            if is_shard and path.with_suffix(".rec") not in self.paths:
                _log.warning("%s: removed, a shard of an older set", path)
                path.unlink()


def _move(part: Path, path: Path) -> None:
    """The record file first: a crash in between leaves an index that the reader finds out."""
    part.replace(path)
    part.with_suffix(INDEX_SUFFIX).replace(path.with_suffix(INDEX_SUFFIX))


def join_records(parts: Sequence[Path], output: Path) -> None:
    """Write record files one after the other into `output`, with one index; whole or not at all."""
    with (
        written_beside(output.with_suffix(INDEX_SUFFIX)) as index_path,
        written_beside(output) as records_path,
        index_path.open("wb") as index,
        records_path.open("wb") as records,
    ):
        for part in parts:
            base = records.tell()
            with part.open("rb") as source:
                shutil.copyfileobj(source, records, _COPY_BYTES)
            copy_lines(index, part.with_suffix(INDEX_SUFFIX), base)
