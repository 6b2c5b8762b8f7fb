"""Pipe mode with real FIFOs: a thread or a process writes, the loader reads."""

from __future__ import annotations

import io
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from image_classification.contract.channels import ChannelInput
from image_classification.contract.interface import INTERFACES
from image_classification.errors import ChannelError, HyperparameterError
from image_classification.images.preprocessing import Preprocessing
from image_classification.labels.label_map import LabelMap
from image_classification.loading.loader import Loader
from image_classification.loading.pipe import open_fifo
from image_classification.loading.stream import StreamSource
from image_classification.records.format import RecordHeader, frame_parts, pack_image_record
from image_classification.training.inputs import open_inputs
from image_classification.training.settings import settings_of
from image_classification.training.sources import copy_of_pipe, stream_of

SIZE = 8
PREPROCESSING = Preprocessing(height=SIZE, width=SIZE)
TWO = LabelMap(("a", "b"))


def frame_record(payload: bytes) -> bytes:
    """The payload as it lies in a record file or a pipe."""
    return b"".join(frame_parts(payload))


def image(number: int) -> bytes:
    body = io.BytesIO()
    Image.new("RGB", (SIZE, SIZE), (number % 256, 0, 0)).save(body, "PNG")
    return body.getvalue()


def framed(payload: bytes) -> bytes:
    return b"".join(frame_parts(payload))


def records(count: int) -> bytes:
    """`count` MXNet image records: the id is the image's red, the class its parity."""
    return b"".join(
        framed(pack_image_record(RecordHeader(n % 2, n), image(n))) for n in range(count)
    )


class Writers:
    """Threads that fill FIFOs, as the platform does; a reader that closes early is its right."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.threads: list[threading.Thread] = []
        self.broken = 0

    def fill(self, channel: str, *passes: bytes) -> ChannelInput:
        for number, content in enumerate(passes):
            path = self.base / f"{channel}_{number}"
            os.mkfifo(path)
            thread = threading.Thread(target=self._write, args=(path, content), daemon=True)
            thread.start()
            self.threads.append(thread)
        return ChannelInput(channel, self.base / channel, mode="Pipe")

    def _write(self, path: Path, content: bytes) -> None:
        try:
            with path.open("wb") as fifo:
                fifo.write(content)
        except BrokenPipeError:
            self.broken += 1

    def join(self) -> None:
        for thread in self.threads:
            thread.join(10)
            assert not thread.is_alive(), "a writer was left waiting"


@pytest.fixture
def writers(tmp_path: Path) -> Iterator[Writers]:
    yield (made := Writers(tmp_path))
    for path in tmp_path.iterdir():  # whoever was not asked for ends as well
        if path.is_fifo():
            os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
    made.threads.clear()


def stream(
    channel: ChannelInput, count: int, shuffle_bytes: int = 0, seed: int = 0
) -> StreamSource:
    return stream_of(
        channel, TWO, count, is_multi_label=False, seed=seed, shuffle_bytes=shuffle_bytes
    )


def ids(loader: Loader, epoch: int) -> list[int]:
    """The ids of the images in the order the loader gives them; the pixels must fit them."""
    found = []
    for batch in loader.epoch(epoch):
        own = [int(key.split("#")[1]) for key in batch.keys]
        assert batch.images[:, 0, 0, 0].tolist() == own
        assert batch.targets.tolist() == [number % 2 for number in own]
        found += own
    return found


@pytest.mark.parametrize("threads", [1, 3])
def test_every_pass_is_read_once_to_its_end_and_in_order(writers: Writers, threads: int) -> None:
    source = stream(writers.fill("train", records(50), records(50)), 50)
    with Loader(source, PREPROCESSING, 8, threads=threads, shuffle=True) as loader:
        assert loader.steps == 7
        assert ids(loader, 0) == list(range(50))
        assert ids(loader, 1) == list(range(50))
    writers.join()
    assert writers.broken == 0


def test_the_order_is_shuffled_within_the_buffer_and_depends_on_the_seed_alone(
    writers: Writers,
) -> None:
    def orders(name: str, seed: int, threads: int) -> list[list[int]]:
        source = stream(writers.fill(name, records(60), records(60)), 60, 20 * len(image(0)), seed)
        with Loader(source, PREPROCESSING, 7, threads=threads) as loader:
            return [ids(loader, epoch) for epoch in (0, 1)]

    first = orders("a", 1, 1)
    assert first == orders("b", 1, 4)
    assert first != orders("c", 2, 1)
    assert first[0] != first[1] != list(range(60))
    assert sorted(first[0]) == sorted(first[1]) == list(range(60))
    assert all(number <= place + 22 for place, number in enumerate(first[0])), "buffer too large"


def test_an_epoch_resumed_in_its_middle_continues_with_the_same_samples(
    writers: Writers,
) -> None:
    whole = stream(writers.fill("a", records(40)), 40, 1 << 20)
    with Loader(whole, PREPROCESSING, 8) as loader:
        expected = ids(loader, 0)
    source = stream(writers.fill("b", records(40)), 40, 1 << 20)
    with Loader(source, PREPROCESSING, 8) as loader:
        found = [key for batch in loader.epoch(0, first_step=3) for key in batch.keys]
    assert [int(key.split("#")[1]) for key in found] == expected[24:]


def test_ranks_share_the_images_of_a_replicated_pipe(writers: Writers) -> None:
    found = []
    for rank in range(2):
        source = stream(writers.fill(f"host{rank}", records(21)), 21, 1 << 20)
        with Loader(source, PREPROCESSING, 4, rank=rank, world_size=2) as loader:
            found.append(ids(loader, 0))
    assert sorted(found[0] + found[1]) == list(range(21))


def test_a_short_pipe_is_reported_and_its_images_are_used(
    writers: Writers, caplog: pytest.LogCaptureFixture
) -> None:
    source = stream(writers.fill("train", records(10)), 30)
    with Loader(source, PREPROCESSING, 4) as loader:
        batches = [list(batch.keys) for batch in loader.epoch(0)]
    assert [len(batch) for batch in batches] == [4, 4, 2, 0, 0, 0, 0, 0]
    assert (
        "expected 30 samples in a pass of train, but it has 10; epochs are shorter" in caplog.text
    )
    assert "num_training_samples" in caplog.text


def test_a_long_pipe_is_reported_and_closed_before_its_end(
    writers: Writers, caplog: pytest.LogCaptureFixture
) -> None:
    source = stream(writers.fill("train", records(4000)), 8)
    with Loader(source, PREPROCESSING, 4) as loader:
        assert ids(loader, 0) == list(range(8))
    writers.join()
    assert writers.broken == 1
    assert "expected 8 samples in a pass of train, but it has more" in caplog.text


def test_stopping_within_an_epoch_closes_the_pipe_at_once(writers: Writers) -> None:
    source = stream(writers.fill("train", records(4000)), 4000)
    loader = Loader(source, PREPROCESSING, 4)
    next(loader.epoch(0))
    loader.close()
    writers.join()
    assert writers.broken == 1


def test_stopping_while_nobody_writes_does_not_hang(writers: Writers) -> None:
    os.mkfifo(writers.base / "train_0")
    source = stream(ChannelInput("train", writers.base / "train", mode="Pipe"), 8)
    loader = Loader(source, PREPROCESSING, 4)
    batches = loader.epoch(0)
    reader = threading.Thread(target=lambda: list(batches), daemon=True)
    reader.start()
    time.sleep(0.05)
    source.interrupt()
    reader.join(10)
    assert not reader.is_alive()
    loader.close()


def test_a_pipe_that_appears_later_is_waited_for(writers: Writers) -> None:
    source = stream(ChannelInput("train", writers.base / "train", mode="Pipe"), 6)
    threading.Timer(0.2, writers.fill, ("train", records(6))).start()
    with Loader(source, PREPROCESSING, 4) as loader:
        assert ids(loader, 0) == list(range(6))


def test_a_pipe_without_a_writer_is_given_up_after_a_while(tmp_path: Path) -> None:
    with pytest.raises(ChannelError, match=r"train_0 did not appear for 0 s: ask the writer"):
        open_fifo(tmp_path / "train_0", lambda: False, 0.1, "ask the writer")
    os.mkfifo(tmp_path / "train_1")
    with open_fifo(tmp_path / "train_1", lambda: False, 0.1) as stream:
        with pytest.raises(ChannelError, match=r"train_1 delivered nothing for 0 s"):
            stream.read(1)


Damage = Callable[[bytes], bytes]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda _: b"", "Unable to start training. Empty pipe in train channel"),
        (lambda content: content[:-20], r"damaged at byte \d+, record 9: expected \d+ bytes, got"),
        (lambda content: content + b"abc", "record 10: the stream ends inside a record's header"),
        (
            lambda content: b"JFIF" + content,
            r"record 0: expected the magic 0a23d7ce.*RecordWrapper",
        ),
        (
            lambda content: content + framed(pack_image_record(RecordHeader(7, 3), b"")),
            "record 10: expected a class from 0 to 1, got 7; multi_label, num_classes",
        ),
        (
            lambda content: content + framed(pack_image_record(RecordHeader((1, 0)), b"")),
            "record 10: expected one label, got 2, a 0 or 1 for every class; .* multi_label=1",
        ),
        (
            lambda content: content + framed(pack_image_record(RecordHeader((4, 0)), b"")),
            "record 10: expected one class, got 4, 0; these numbers are neither .*pack-label$",
        ),
        (
            lambda content: content + framed(pack_image_record(RecordHeader((2, 5)), b"")),
            "record 10: expected one class, got 2, 5; these are labels for object detection",
        ),
    ],
)
def test_a_damaged_pipe_is_an_error_with_its_position_and_not_a_bad_sample(
    writers: Writers, damage: Damage, message: str
) -> None:
    source = stream(writers.fill("train", damage(records(10))), 12)
    with Loader(source, PREPROCESSING, 4) as loader:
        with pytest.raises(ChannelError, match=message):
            list(loader.epoch(0))


def test_a_record_in_several_parts_is_put_together_again(writers: Writers) -> None:
    magic = (0xCED7230A).to_bytes(4, "little")
    content = image(5) + b"\0" * (-len(image(5)) % 4) + magic + b"tail"
    record = framed(pack_image_record(RecordHeader(1, 5), content))
    source = stream(writers.fill("train", record), 1)
    source.begin(0)
    assert source.read(0).data == content
    source.close()


def pairs(labels: Sequence[str]) -> bytes:
    return b"".join(
        framed(image(number)) + framed(label.encode()) for number, label in enumerate(labels)
    )


def as_manifest(channel: ChannelInput, label_format: str = "") -> ChannelInput:
    return ChannelInput(
        channel.name, channel.path, mode="Pipe", is_wrapped=True, label_format=label_format
    )


def test_an_augmented_manifest_alternates_images_and_labels(writers: Writers) -> None:
    channel = as_manifest(writers.fill("train", pairs(["0", '"1"', "1.0", "[1, 0]", '"[0, 1]"'])))
    source = stream(channel, 5)
    with Loader(source, PREPROCESSING, 8) as loader:
        (batch,) = list(loader.epoch(0))
        assert batch.targets.tolist() == [0, 1, 1, 0, 1]
        assert batch.images[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("label_format", "labels"),
    [("", ["[1, 1]", '"[0, 1]"', "[0, 0]"]), ("class-id", ["[0, 1]", "1", "[]"])],
)
def test_several_labels_come_as_vectors_or_as_class_numbers(
    writers: Writers, label_format: str, labels: list[str]
) -> None:
    channel = as_manifest(writers.fill("train", pairs(labels)), label_format)
    source = stream_of(channel, TWO, 3, is_multi_label=True, seed=0, shuffle_bytes=0)
    with Loader(source, PREPROCESSING, 8) as loader:
        (batch,) = list(loader.epoch(0))
        assert batch.targets.dtype == np.uint8
        assert batch.targets.tolist() == [[1, 1], [0, 1], [0, 0]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            pairs(["0", "[1, 1]"]),
            r"label of image 1: expected one class .*multi_label, num_classes",
        ),
        (pairs(["0", "cat"]), r"label of image 1: expected one class .* got 'cat'"),
        (pairs(["0", "7"]), "label of image 1: expected a class from 0 to 1, got 7.*num_classes"),
        (
            pairs(["0"]) + framed(image(1)),
            "no label record follows the last image, number 1; AttributeNames must",
        ),
        (framed(b"0") + framed(image(1)), "expected the text of a label"),
    ],
)
def test_a_manifest_that_does_not_alternate_images_and_labels_is_an_error(
    writers: Writers, content: bytes, message: str
) -> None:
    source = stream(as_manifest(writers.fill("train", content)), 5)
    with Loader(source, PREPROCESSING, 4) as loader:
        with pytest.raises(ChannelError, match=message):
            list(loader.epoch(0))


def test_a_validation_pipe_is_copied_once_and_read_at_random(writers: Writers) -> None:
    source = copy_of_pipe(writers.fill("validation", records(9)), TWO, False)
    assert len(source) == 9
    assert source.class_indices.tolist() == [n % 2 for n in range(9)]
    assert (source.read(7).data, source.key(7)) == (image(7), "validation.rec#7")
    source.close()


def test_a_job_opens_its_pipes_as_its_hyperparameters_say(
    writers: Writers, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    interface = INTERFACES["mxnet"]
    given = {"num_classes": "2", "num_training_samples": "6", "labels": "even,odd"}
    settings = settings_of(interface.parse(given))
    channels = {"train": writers.fill("train", records(6))}
    channels["validation"] = writers.fill("validation", records(4))
    inputs = open_inputs(channels, settings, "train")
    assert inputs.labels.names == ("even", "odd")
    assert (len(inputs.training), len(inputs.validation)) == (6, 4)
    assert "train" in inputs.packed
    assert "The channel 'train' is in pipe input mode under" in caplog.text
    inputs.training.close()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"num_classes": "2"}, "set num_training_samples"),
        ({"num_training_samples": "6"}, "set num_classes or labels"),
        (
            {"num_classes": "2", "num_training_samples": "6", "validation_split_ratio": "0.5"},
            "Pipe mode cannot hold out training images",
        ),
    ],
)
def test_a_pipe_needs_hyperparameters_for_what_cannot_be_counted(
    tmp_path: Path, given: dict[str, str], message: str
) -> None:
    settings = settings_of(INTERFACES["mxnet"].parse(given))
    channels = {"train": ChannelInput("train", tmp_path / "train", mode="Pipe")}
    with pytest.raises(ChannelError, match=message):
        open_inputs(channels, settings, "train")


@pytest.mark.parametrize("recipe", [{"class_weights": "balanced"}, {"balanced_sampling": "1"}])
def test_settings_that_need_all_classes_before_training_are_refused_in_pipe_mode(
    tmp_path: Path, recipe: dict[str, str]
) -> None:
    given = {"num_classes": "2", "num_training_samples": "6"} | recipe
    settings = settings_of(INTERFACES["mxnet"].parse(given))
    channels = {"train": ChannelInput("train", tmp_path / "train", mode="Pipe")}
    with pytest.raises(HyperparameterError, match="need the class of every image before training"):
        open_inputs(channels, settings, "train")
