"""Where a packing run writes: chunks in a hidden folder, published together at its end.

    .data.rec.packing/        during the run; removed at its end
        job.json              what is being packed, so that nothing else is resumed
        00000.rec .idx .json  a finished chunk, and what it holds
    data.rec  data.idx        the result: the chunks joined, or
    data-00000-of-00012.rec   the chunks as shards, each with its index

An interrupted run keeps its finished chunks if it may be resumed, whatever ends it; any other run
removes them. A chunk is finished when its three files are there, its records are sound and its ids
are those of the list.
"""

from __future__ import annotations

import glob
import json
import logging
import re
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from image_classification.errors import DataError, UsageError
from image_classification.files import write_text, written_beside
from image_classification.labels.kinds import LabelKind, classes_of
from image_classification.labels.lists import ListEntry
from image_classification.prepare.encode import EncodedImage
from image_classification.prepare.formats import Write, shard_stem, write_records
from image_classification.records.index import INDEX_SUFFIX, copy_lines
from image_classification.records.reader import RecordFile

try:
    import fcntl
except ImportError:  # Windows: there, two runs with one output are not kept apart
    fcntl = None  # type: ignore[assignment]

CHUNK_BYTES = 256 << 20
"""Size at which a chunk of a single output file is closed, if the run may be resumed."""

_JOB_FILE = "job.json"
_LOCK_FILE = "lock"
_SHARD_NAME = re.compile(r"-\d{5}-of-\d{5}")
_COPY_BYTES = 1 << 20
_log = logging.getLogger(__name__)


@dataclass
class ChunkContent:
    """What a chunk holds: the images `first` to `stop` − 1 of the list.

    Attributes:
        first, stop: indices in the list.
        class_counts: label → records; of several labels, each that an image has.
        skipped: the images that are not in it.
    """

    first: int
    stop: int
    class_counts: Counter[float] = field(default_factory=Counter)
    skipped: list[EncodedImage] = field(default_factory=list)

    @property
    def packed(self) -> int:
        """How many records it has."""
        return self.stop - self.first - len(self.skipped)

    def add(self, image: EncodedImage, kind: LabelKind) -> None:
        """Count the next image of the list; `kind` is that of the labels that are packed."""
        self.stop += 1
        if image.reason is None:
            self.class_counts.update(classes_of(image.entry.labels, kind))
        else:
            self.skipped.append(image)

    def to_json(self) -> dict[str, Any]:
        """Return the content as JSON values; `from_json` reads it back."""
        return {
            "first": self.first,
            "stop": self.stop,
            "class_counts": list(self.class_counts.items()),
            "skipped": [image.to_json() for image in self.skipped],
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> ChunkContent:
        """Raise KeyError, TypeError or ValueError for anything that is not from `to_json`."""
        return cls(
            int(content["first"]),
            int(content["stop"]),
            Counter({float(label): int(count) for label, count in content["class_counts"]}),
            [EncodedImage.from_json(image) for image in content["skipped"]],
        )


class RecordChunks:
    """The chunks of one output; a context manager that publishes all of them or nothing.

    Args:
        output: the `.rec` file, or the name that those of the shards are derived from.
        job: what is packed and how, as JSON; only the same job can be resumed.
        entries: the list.
        kind: of the labels that are packed; None packs only the first one.
        shard_bytes: size at which a shard is closed; None makes one file.
        resume: take the finished chunks of an interrupted run, and keep those of this one.

    Attributes:
        finished: the content of the finished chunks.
        paths: the published record files, after the block.
    """

    def __init__(
        self,
        output: Path,
        job: Mapping[str, Any],
        entries: Sequence[ListEntry],
        *,
        kind: LabelKind | None = None,
        shard_bytes: int | None = None,
        resume: bool = False,
    ) -> None:
        if shard_bytes is not None and shard_bytes < 1:
            raise UsageError(f"expected a shard size above 0 bytes, got {shard_bytes}")
        self.finished: list[ChunkContent] = []
        self.paths: tuple[Path, ...] = ()
        self._output = output
        self._folder = output.with_name(f".{output.name}.packing")
        self._job = json.loads(json.dumps({**job, "shard_bytes": shard_bytes}))
        self._entries = entries
        self._pack_labels = kind is not None
        self._kind = kind or LabelKind.CLASS
        self._is_sharded = shard_bytes is not None
        self._chunk_bytes = shard_bytes or (CHUNK_BYTES if resume else None)
        self._resume = resume
        self._content = ChunkContent(0, 0)
        self._size = 0
        self._open = ExitStack()  # of the chunk that is being written
        self._write: Write | None = None
        self._lock: IO[bytes] | None = None

    @property
    def done(self) -> int:
        """How many images of the list are in finished chunks, or were skipped there."""
        return self.finished[-1].stop if self.finished else 0

    def __enter__(self) -> RecordChunks:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._lock = (self._folder / _LOCK_FILE).open("wb")
        try:
            self._take_lock()
            if self._resume:
                self._check_job()
                self.finished = self._read_finished()
        except BaseException:
            self._lock.close()
            raise
        self.drop_from(len(self.finished))
        write_text(self._folder / _JOB_FILE, json.dumps(self._job))
        return self

    def _take_lock(self) -> None:
        if fcntl is None or self._lock is None:
            return
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UsageError(
                f"another pack is writing {self._output}: wait until it ends"
            ) from None

    def _check_job(self) -> None:
        try:
            job = json.loads((self._folder / _JOB_FILE).read_text("utf-8"))
        except (OSError, ValueError):
            return  # nothing was finished
        differing = sorted(key for key in {*job, *self._job} if job.get(key) != self._job.get(key))
        if differing:
            raise UsageError(
                f"{self._output} cannot be resumed: the interrupted run had a different "
                f"{', '.join(differing)} ({', '.join(f'{job.get(key)!r}' for key in differing)}); "
                "use the same, or pack without --resume to begin again"
            )

    def _read_finished(self) -> list[ChunkContent]:
        """Return the chunks from the first on that are complete and sound."""
        contents: list[ChunkContent] = []
        while True:
            path = self._path(len(contents))
            try:
                content = ChunkContent.from_json(json.loads(path.with_suffix(".json").read_bytes()))
                first = contents[-1].stop if contents else 0
                if content.first != first or not self._is_sound(path, content):
                    raise DataError("its images are not those of the list")
            except FileNotFoundError:
                return contents
            except (OSError, ValueError, KeyError, TypeError, DataError) as error:
                _log.warning("%s is packed again: %s", path, error)
                return contents
            contents.append(content)

    def _is_sound(self, path: Path, content: ChunkContent) -> bool:
        skipped = {image.entry.id for image in content.skipped}
        expected = [entry.id for entry in self._entries[content.first : content.stop]]
        with RecordFile(path) as file:
            ids = file.record_headers["id"].tolist() if len(file) else []
            has_index = file.keys is not None
        return has_index and ids == [id_ for id_ in expected if id_ not in skipped]

    def drop_from(self, number: int) -> None:
        """Remove the chunks from `number` on: their images are packed again."""
        del self.finished[number:]
        kept = {_LOCK_FILE, _JOB_FILE}
        for finished in range(number):
            kept |= {self._path(finished).with_suffix(s).name for s in (".rec", ".idx", ".json")}
        for path in self._folder.iterdir():
            if path.name not in kept:
                path.unlink()
        self._content = ChunkContent(self.done, self.done)

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:05d}.rec"

    def add(self, image: EncodedImage) -> None:
        """Take the next image of the list: store it, or note that it is skipped."""
        self._content.add(image, self._kind)
        if image.reason is not None:
            return
        self._size += self._writer()(image)
        if self._chunk_bytes is not None and self._size >= self._chunk_bytes:
            self._end_chunk()

    def _writer(self) -> Write:
        if self._write is None:
            chunk = write_records(
                self._folder, self._path(len(self.finished)).stem, pack_labels=self._pack_labels
            )
            self._write = self._open.enter_context(chunk)
        return self._write

    def _end_chunk(self) -> None:
        self._writer()  # a chunk without a record is a file too
        self._open.close()
        self._write, self._size = None, 0
        path = self._path(len(self.finished)).with_suffix(".json")
        write_text(path, json.dumps(self._content.to_json()))
        self.finished.append(self._content)
        self._content = ChunkContent(self.done, self.done)

    def end(self) -> None:
        """End the last chunk."""
        if self._content.stop > self._content.first or not self.finished:
            self._end_chunk()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self._open.__exit__(kind, error, trace)
            if kind is None:
                self._publish()
        finally:
            if self._lock is not None:
                self._lock.close()
            if kind is None or not (self._resume and self.finished):
                shutil.rmtree(self._folder, ignore_errors=True)

    def _publish(self) -> None:
        count = len(self.finished)
        if self._is_sharded:
            names = [f"{shard_stem(self._output.stem, k, count)}.rec" for k in range(count)]
            self.paths = tuple(self._output.with_name(name) for name in names)
            for number, path in enumerate(self.paths):
                _move(self._path(number), path)
            self._remove_older_shards()
        elif count == 1:
            self.paths = (self._output,)
            _move(self._path(0), self._output)
        else:
            self.paths = (self._output,)
            _join([self._path(number) for number in range(count)], self._output)

    def _remove_older_shards(self) -> None:
        """Remove a set of another count under the same name: it would be read with this one."""
        stem = self._output.stem
        for path in self._output.parent.glob(f"{glob.escape(stem)}-*-of-*"):
            is_shard = _SHARD_NAME.fullmatch(path.stem[len(stem) :])
            if is_shard and path.with_suffix(".rec") not in self.paths:
                _log.warning("%s: removed; it was a shard of an older set", path)
                path.unlink()


def _move(chunk: Path, path: Path) -> None:
    """Move the record file first: after a crash in between, the reader rejects the old index."""
    chunk.replace(path)
    chunk.with_suffix(INDEX_SUFFIX).replace(path.with_suffix(INDEX_SUFFIX))


def _join(chunks: Sequence[Path], output: Path) -> None:
    """Write record files one after the other into `output`, with one index; whole or not at all."""
    with (
        written_beside(output.with_suffix(INDEX_SUFFIX)) as index_path,
        written_beside(output) as records_path,
        index_path.open("wb") as index,
        records_path.open("wb") as records,
    ):
        for chunk in chunks:
            base = records.tell()
            with chunk.open("rb") as source:
                shutil.copyfileobj(source, records, _COPY_BYTES)
            copy_lines(index, chunk.with_suffix(INDEX_SUFFIX), base)
