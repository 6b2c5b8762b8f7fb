"""Samples from a stream that cannot seek, one pass after the other.

In: a function that opens the next pass of records. Out: samples by their position in the pass. A
thread reads ahead, shuffles within a bounded buffer and hands samples over in an order that depends
on the stream and the seed alone; `read` waits for its position. Memory: the shuffle buffer and 64
images. `image_records` turns the payloads of RecordIO into records: as MXNet packs them, or from
alternating records of an image and its label, as SageMaker streams an augmented manifest.

    stream ─► reader thread ─► shuffle buffer ─► ready: position → sample ─► loader's threads
"""

import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from image_classification import errors
from image_classification.labels.kinds import LabelKind, kind_of, remedy
from image_classification.labels.values import parse_class_index, parse_multi_hot
from image_classification.loading.pipe import PassStopped
from image_classification.loading.sources import EndOfPass, Source
from image_classification.records.format import ImageRecord, RecordHeader, unpack_image_record
from image_classification.samples import IntArray, Sample

OpenPass = Callable[[int, Callable[[], bool]], Iterator[ImageRecord]]
"""(number of the pass, whether to stop) → its records."""

_READY = 64  # samples ready to be taken: enough for the threads of a loader
_CLOSING_SECONDS = 5.0  # a writer that has delivered everything closes at once
_log = logging.getLogger(__name__)


class StreamSource(Source):
    """`count` samples of each pass of a stream.

    `begin` starts a pass and `read` gives its samples by position; several threads may ask for
    positions, in roughly rising order. Samples beyond `count` are left out, and positions after the
    end of a short pass raise `EndOfPass`; the first such pass is logged.

    Args:
        name: what to call it in messages.
        count: samples of a pass, as announced.
        open_pass: opens pass 0, 1, …; each is opened once.
        seed: of the order.
        shuffle_bytes: encoded bytes to hold for shuffling; 0 keeps the order of the stream.
        is_multi_label: whether a record has a 0 or 1 for every class.
        should_stop: called while nothing arrives; True ends the pass.
        remedy: what the log advises if a pass does not have `count` samples.

    Attributes:
        class_indices: int64 (0,): no class is known before reading.
    """

    is_countable = False

    def __init__(
        self,
        name: str,
        count: int,
        open_pass: OpenPass,
        *,
        seed: int = 0,
        shuffle_bytes: int = 0,
        is_multi_label: bool = False,
        should_stop: Callable[[], bool] = lambda: False,
        remedy: str = "announce the actual number",
    ) -> None:
        self.name = name
        self.class_indices: IntArray = np.empty(0, np.int64)
        self._count, self._open_pass, self._seed = count, open_pass, seed
        self._shuffle_bytes, self._is_multi_label = shuffle_bytes, is_multi_label
        self._should_stop, self._remedy = should_stop, remedy
        self._passes = 0
        self._change = threading.Condition()
        self._ready: dict[int, Sample] = {}
        self._is_stopped, self._is_over = True, True
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None
        self._has_warned = False

    def __len__(self) -> int:
        return self._count

    def key(self, index: int) -> str:
        """The position in the pass; `read` gives a sample its own key."""
        return f"{self.name}, image {index} of the pass"

    def begin(self, epoch: int, first: int = 0, rank: int = 0, world_size: int = 1) -> None:
        """Open the next pass, for `epoch`.

        Args:
            epoch: from 0; gives the order its own seed.
            first: a multiple of `world_size`; positions below it will not be asked for.
            rank, world_size: only positions first + rank, first + rank + world_size, … are kept.
        """
        self.interrupt()
        self._ready.clear()
        self._is_stopped = self._is_over = False
        self._error = None
        self._thread = threading.Thread(
            target=self._read_pass,
            args=(self._passes, epoch, range(first + rank, self._count, world_size)),
            name="pipe",
            daemon=True,
        )
        self._passes += 1
        self._thread.start()

    def finish(self) -> None:
        """End a pass whose samples were all taken; wait only briefly for its end."""
        if self._thread is not None:
            self._thread.join(_CLOSING_SECONDS)
        self.interrupt()

    def interrupt(self) -> None:
        """End the pass at any point; return when the stream is closed."""
        with self._change:
            self._is_stopped = True
            self._change.notify_all()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def read(self, index: int) -> Sample:
        """The sample at position `index` of the pass, once.

        Raises:
            EndOfPass: the pass ended, or was interrupted, before it.
            ChannelError: the stream is damaged.
        """
        with self._change:
            while index not in self._ready:
                if self._error is not None:
                    raise self._error
                if self._is_over or self._is_stopped:
                    raise EndOfPass
                self._change.wait()
            sample = self._ready.pop(index)
            self._change.notify_all()
        return sample

    def close(self) -> None:
        """End the pass."""
        self.interrupt()

    def _read_pass(self, number: int, epoch: int, kept: range) -> None:
        """Run the reader thread."""
        found = 0
        try:
            records = self._open_pass(number, lambda: self._is_stopped or self._should_stop())
            for record in self._shuffled(records, epoch):
                if found == self._count:  # closing a pipe before its end is allowed
                    self._warn("has more; the others are left out")
                    break
                if found in kept:
                    self._hand_over(found, self._sample(record))
                found += 1
            if found < self._count:
                self._warn(f"has {found}; epochs are shorter")
        except PassStopped:
            pass
        except errors.DataError as error:
            self._error = errors.ChannelError(
                str(error)
            )  # not a bad sample: nothing after it can be read
        except BaseException as error:  # raised again where samples are asked for
            self._error = error
        finally:
            with self._change:
                self._is_over = True
                self._change.notify_all()

    def _hand_over(self, position: int, sample: Sample) -> None:
        with self._change:
            while len(self._ready) >= _READY and not self._is_stopped:
                self._change.wait()
            if self._is_stopped:
                raise PassStopped
            self._ready[position] = sample
            self._change.notify_all()

    def _shuffled(self, records: Iterator[ImageRecord], epoch: int) -> Iterator[ImageRecord]:
        """Fill a buffer; then each new record takes the position of a random one."""
        generator = np.random.default_rng([self._seed, epoch])
        buffer: list[ImageRecord] = []
        held = 0
        for record in records:
            buffer.append(record)
            held += len(record.content)
            while held > self._shuffle_bytes:
                taken = _take(buffer, generator)
                held -= len(taken.content)
                yield taken
        while buffer:
            yield _take(buffer, generator)

    def _sample(self, record: ImageRecord) -> Sample:
        key, labels = f"{self.name}#{record.header.id}", record.header.labels
        if self._is_multi_label:
            return Sample(key, 0, record.content, np.array(labels, np.uint8))
        return Sample(key, int(labels[0]), record.content)

    def _warn(self, what: str) -> None:
        if not self._has_warned:
            self._has_warned = True
            _log.warning(
                "expected %d samples in a pass of %s, but it %s (%s)",
                self._count,
                self.name,
                what,
                self._remedy,
            )


def _take(buffer: list[ImageRecord], generator: np.random.Generator) -> ImageRecord:
    """Remove a random record; the last one takes its position."""
    position = int(generator.integers(len(buffer)))
    buffer[position], buffer[-1] = buffer[-1], buffer[position]
    return buffer.pop()


@dataclass(frozen=True)
class StreamFormat:
    """What the records of a stream hold.

    Attributes:
        are_pairs: image, label, image, label, …; otherwise image records.
        classes: how many there are.
        is_multi_label: several labels per image.
        label_format: of the labels in pairs: class-id, multi-hot or "".
    """

    are_pairs: bool
    classes: int
    is_multi_label: bool = False
    label_format: str = ""


def image_records(
    payloads: Iterable[bytes], name: str, layout: StreamFormat
) -> Iterator[ImageRecord]:
    """Yield image records with their labels; the id of an image in pairs is its number.

    The label is a class index or, with several labels, a tuple of `classes` zeros and ones.

    Raises (while iterating):
        RecordError: a payload is not an image record, or not in pairs.
        LabelError: labels that do not fit `layout`.
    """
    if layout.are_pairs:
        yield from _pairs(iter(payloads), name, layout)
        return
    for number, payload in enumerate(payloads):
        try:
            record = unpack_image_record(payload)
            _check_labels(record.header, layout)
        except (errors.RecordError, errors.LabelError) as error:
            raise type(error)(f"{name}, record {number}: {error}") from error
        yield record


def _pairs(payloads: Iterator[bytes], name: str, layout: StreamFormat) -> Iterator[ImageRecord]:
    for number, image in enumerate(payloads):
        text = next(payloads, None)
        if text is None:
            raise errors.RecordError(
                f"{name}: no label record follows the last image, number {number}"
            )
        try:
            header = RecordHeader(_parse_label(text, layout), number)
            _check_labels(header, layout)
        except (errors.RecordError, errors.LabelError) as error:
            raise type(error)(f"{name}, label of image {number}: {error}") from error
        yield ImageRecord(header, image)


def _parse_label(text: bytes, layout: StreamFormat) -> float | tuple[float, ...]:
    try:
        decoded = text.decode("utf-8")
    except ValueError:
        raise errors.RecordError(
            f"expected the text of a label, got {len(text)} bytes that are not UTF-8"
        ) from None
    if layout.is_multi_label:
        row = parse_multi_hot(decoded, layout.classes, layout.label_format)
        return tuple(float(value) for value in row)
    return float(parse_class_index(decoded))


def _check_labels(header: RecordHeader, layout: StreamFormat) -> None:
    labels, classes = header.labels, layout.classes
    if len(labels) > 1 and (kind := kind_of([labels])) is not LabelKind.MULTI_HOT:
        shown = ", ".join(f"{label:g}" for label in labels[:20])
        raise errors.ForeignLabelsError(f"expected one class, got {shown}; {remedy(kind)}")
    if layout.is_multi_label:
        if len(labels) != classes or not set(labels) <= {0.0, 1.0}:
            raise errors.LabelError(f"expected {classes} labels, each 0 or 1, got {labels[:20]}")
    elif len(labels) != 1:
        raise errors.SeveralLabelsError(
            f"expected one label, got {len(labels)}, a 0 or 1 for every class"
        )
    elif not (0 <= labels[0] < classes and labels[0].is_integer()):
        raise errors.LabelError(f"expected a class from 0 to {classes - 1}, got {labels[0]:g}")
