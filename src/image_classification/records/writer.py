"""Writing a record file and its index, both whole or not at all.

In: payload bytes under keys. Out: `.rec` and `.idx`, byte for byte as MXNet writes them.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

from image_classification.files import BUFFER_BYTES, written_beside
from image_classification.records.format import frame_parts
from image_classification.records.index import INDEX_SUFFIX, index_line

RECORD_SUFFIX = ".rec"


class RecordWriter:
    """Writes `path` and the index next to it, both whole or not at all.

    A context manager: leaving it renames both files into place (the record file first: the reader
    notices an outdated index after a crash in between); an exception removes what was written and
    leaves earlier files as they were. Not thread-safe.

    Attributes:
        position: bytes written to the record file so far.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.position = 0
        self._stack = ExitStack()

    def __enter__(self) -> RecordWriter:
        with ExitStack() as stack:
            index = stack.enter_context(written_beside(self.path.with_suffix(INDEX_SUFFIX)))
            records = stack.enter_context(written_beside(self.path))
            self._index = stack.enter_context(index.open("wb"))
            self._records = stack.enter_context(records.open("wb", BUFFER_BYTES))
            self._stack = stack.pop_all()
        return self

    def write(self, payload: bytes, key: int) -> int:
        """Append a record under `key` (for images: their id) and return its byte offset.

        Raises:
            RecordError: 2**29 bytes or more.
        """
        offset = self.position
        for piece in frame_parts(payload):
            self._records.write(piece)
            self.position += len(piece)
        self._index.write(index_line(key, offset))
        return offset

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.__exit__(kind, error, trace)
